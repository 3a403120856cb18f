"""What the encoder learnt, beside no training at all: a table and features."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import os

from simclr_jax import config as config_lib
from simclr_jax import data as data_lib
from simclr_jax import section_flags
from simclr_jax.data import part
from simclr_jax.evaluation import comparison as comparison_lib
from simclr_jax.evaluation import encoder as encoder_lib
from simclr_jax.evaluation import features as features_lib
from simclr_jax.evaluation import occurring
from simclr_jax.reports import document, kinds
from simclr_jax.reports.run_data import Judged, RunData
from simclr_jax.training import ancestry

# Of either split. Pixels at 224 px are 600 kB a picture, 73 times the features
# of a ResNet-50.
MAX_RAW_PIXEL_BYTES = 2_000_000_000
_HEADING = 'What was learnt'
_NEEDS = 'the table needs labels and a held-out split (data.test_split)'


def judge(
  run: RunData, *, labels_per_class: int
) -> tuple[Judged | None, comparison_lib.Comparison | None]:
  """Features of all encoders, and the table where there are labels.

  Args:
    run: What is judged.
    labels_per_class: Of the probe with few labels.

  Returns:
    None for what there is nothing to compute from: a single picture; no
    labels or no held-out split.
  """
  config = run.config
  encoders = {
    'random_init': encoder_lib.make_random_encoder(
      config, mesh=run.mesh, seed=config.seed
    ),
    'checkpoint': run.encoder,
  }
  if not config.data.test_split:
    if run.train.num_examples < 2:
      return None, None
    among = {
      kind: features_lib.extract_features(
        encoder, run.train, config, cache_dir=run.cache_dir
      )
      for kind, encoder in encoders.items()
    }
    return Judged(
      {k: comparison_lib.EncoderFeatures(v, v) for k, v in among.items()},
      test=run.train,
      held_out=False,
      labelled=part.tells_classes(run.train),
      no_table=_NEEDS,
    ), None
  with section_flags.named('--data'):
    test = data_lib.make_source(
      config.data, config.data.test_split, workdir=os.fspath(run.workdir)
    )
  no_table = '' if run.train.num_classes and test.num_classes else _NEEDS
  notes: tuple[str, ...] = ()
  if not no_table:
    features_lib.check_sources(run.train, test)
    try:
      features_lib.check_source_labels(run.train, test)
    except occurring.NoAccuracy as error:
      no_table = str(error)
  if not no_table:
    if too_large := _too_large_for_pixels((run.train, test), config):
      notes = (too_large,)
    else:
      pixels = encoder_lib.make_raw_pixel_encoder(config, mesh=run.mesh)
      encoders = {'raw_pixels': pixels, **encoders}
  features = comparison_lib.extract_all(
    encoders, run.train, test, config, cache_dir=run.cache_dir
  )
  judged = Judged(
    features,
    test=test,
    held_out=True,
    labelled=not no_table,
    no_table=no_table,
  )
  if no_table:
    return judged, None
  comparison = comparison_lib.compare(
    features, config, labels_per_class=labels_per_class, mesh=run.mesh
  )
  return judged, dataclasses.replace(
    comparison, notes=(*notes, *comparison.notes)
  )


def titles(run: RunData) -> dict[str, str]:
  """Kind of encoder -> what its row is called."""
  adjective = ancestry.kind_of(run.passport).adjective
  return {**comparison_lib.TITLES, 'checkpoint': adjective}


def why_no_table(judged: Judged | None) -> str:
  """Reason for the missing table."""
  return _NEEDS if judged is None else judged.no_table


def section(
  run: RunData,
  comparison: comparison_lib.Comparison | None,
  *,
  no_table: str = _NEEDS,
) -> document.Section | document.Missing:
  """The table, or the reason for its absence."""
  on_probe = kinds.of(run).on_probe
  if comparison is None:
    return document.Missing(_HEADING, no_table)
  columns = comparison.columns()
  rows = []
  for i, row in enumerate(comparison.rows):
    cells = [document.Cell(titles(run)[row.kind])]
    cells += [
      document.Cell(
        f'{column[i].top1:.1%}',
        f'{column[i].interval.low:.1%} to {column[i].interval.high:.1%}',
      )
      for column in columns.values()
    ]
    rows.append(cells)
  ours = tuple(
    i for i, row in enumerate(comparison.rows) if row.kind == 'checkpoint'
  )
  return document.Section(
    _HEADING,
    f'Top-1 accuracy on {comparison.num_test:,} held-out images of '
    f'{occurring.classes_text(comparison.num_test_classes)}, with 95 % '
    'intervals over them. The commonest class alone gives '
    f'{comparison.majority:.1%}.',
    tables=(document.Table(('features', *columns), rows, highlighted=ours),),
    notes=(*((on_probe,) if on_probe else ()), *comparison.notes),
  )


def _too_large_for_pixels(
  sources: Sequence[data_lib.Source], config: config_lib.Config
) -> str | None:
  """Why there is no row for raw pixels; None where there is one."""
  largest = max(source.num_examples for source in sources)
  num_bytes = largest * config.data.image_size**2 * 3 * 4
  if num_bytes <= MAX_RAW_PIXEL_BYTES:
    return None
  return (
    f'No row for raw pixels: {largest:,} pictures at {config.data.image_size} '
    f'px would take {num_bytes / 1e9:.1f} GB of memory, more than '
    f'{MAX_RAW_PIXEL_BYTES / 1e9:g}.'
  )
