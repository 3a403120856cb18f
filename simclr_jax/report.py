"""Shows what a pretraining run learnt: a table, and a page to look at.

  python -m simclr_jax.report --workdir=runs/demo

Writes WORKDIR/report/: report.html (complete in itself), its pictures as PNG
and comparison.json. Model, data and preprocessing come from the checkpoint's
passport; features are shared with the probe's and kNN's cache.

Exit codes: 0 done, 1 failed, 2 the run or the flags do not allow it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import json
import os
import sys

from absl import flags, logging
from etils import epath
from jax.sharding import Mesh
import numpy as np

from simclr_jax import command_help, console
from simclr_jax import config as config_lib
from simclr_jax import data as data_lib
from simclr_jax.data import pipeline
from simclr_jax.evaluation import comparison as comparison_lib
from simclr_jax.evaluation import encoder as encoder_lib
from simclr_jax.evaluation import features as features_lib
from simclr_jax.evaluation import neighbours, page, plots
from simclr_jax.training import checkpoint, metrics
from simclr_jax.training import mesh as mesh_lib
from simclr_jax.training import passport as passport_lib

NUM_PAIRS = 15
NUM_QUERIES = 8
NUM_NEIGHBOURS = 6
# Of either split. Pixels at 224 px are 600 kB a picture, 73 times the features
# of a ResNet-50.
MAX_RAW_PIXEL_BYTES = 2_000_000_000


@dataclasses.dataclass(frozen=True)
class Report:
  """What was written.

  Attributes:
    page: The HTML file.
    comparison: None where there is nothing held out, or no labels.
  """

  page: epath.Path
  comparison: comparison_lib.Comparison | None


def make_report(
  workdir: epath.PathLike,
  *,
  labels_per_class: int = 5,
  step: int | None = None,
  mesh: Mesh | None = None,
) -> Report:
  """Judges the newest checkpoint (or that of `step`) and writes the report.

  Args:
    workdir: Of the pretraining run.
    labels_per_class: Of the probe with few labels.
    step: Of the checkpoint.
    mesh: Default: all devices.

  Raises:
    ValueError: If there is no such checkpoint, or no metrics.
    DamagedCheckpoint: If none is readable.
  """
  if labels_per_class < 1:
    raise ValueError(
      f'--labels_per_class={labels_per_class}: must be at least 1'
    )
  workdir = epath.Path(workdir)
  loaded = checkpoint.load_encoder(workdir, step=step)
  config = passport_lib.config_from_passport(loaded.passport)
  mesh = mesh_lib.make_mesh() if mesh is None else mesh
  train = data_lib.make_source(
    config.data, config.data.train_split, workdir=os.fspath(workdir)
  )
  pictures = {
    'curves': _curves(workdir, config, last_step=loaded.step),
    'views': _views(train, config),
  }
  encoders = {
    'random_init': encoder_lib.make_random_encoder(
      config, mesh=mesh, seed=config.seed
    ),
    'checkpoint': encoder_lib.make_encoder(loaded, mesh=mesh),
  }
  cache_dir = workdir / 'features'
  comparison = None
  if config.data.test_split:
    comparison, pictures['neighbours'] = _judge_held_out(
      encoders,
      train,
      config,
      labels_per_class=labels_per_class,
      mesh=mesh,
      cache_dir=cache_dir,
    )
  elif train.num_examples > 1:
    among = {
      kind: features_lib.extract_features(
        encoder, train, config, cache_dir=cache_dir
      )
      for kind, encoder in encoders.items()
    }
    pictures['neighbours'] = _neighbours(
      {k: comparison_lib.EncoderFeatures(v, v) for k, v in among.items()},
      train,
      train,
      config,
      mesh=mesh,
    )
  return _write(
    workdir / 'report',
    page.render(
      f'SimCLR on {train.name}',
      _facts(loaded, config, train),
      list(pictures.values()),
      comparison=comparison,
    ),
    pictures,
    comparison=comparison,
  )


def _judge_held_out(
  encoders: Mapping[str, encoder_lib.Encoder],
  train: data_lib.Source,
  config: config_lib.Config,
  *,
  labels_per_class: int,
  mesh: Mesh,
  cache_dir: epath.Path,
) -> tuple[comparison_lib.Comparison | None, page.Picture]:
  """Table (None without labels) and nearest neighbours on the test split."""
  test = data_lib.make_source(
    config.data, config.data.test_split, workdir=os.fspath(cache_dir.parent)
  )
  labelled = bool(train.num_classes and test.num_classes)
  notes: tuple[str, ...] = ()
  if labelled:
    features_lib.check_sources(train, test)
    if too_large := _too_large_for_pixels((train, test), config):
      notes = (too_large,)
    else:
      pixels = encoder_lib.make_raw_pixel_encoder(config, mesh=mesh)
      encoders = {'raw_pixels': pixels, **encoders}
  features = comparison_lib.extract_all(
    encoders, train, test, config, cache_dir=cache_dir
  )
  picture = _neighbours(features, train, test, config, mesh=mesh)
  if not labelled:
    return None, picture
  comparison = comparison_lib.compare(
    features, config, labels_per_class=labels_per_class, mesh=mesh
  )
  notes = (*notes, *comparison.notes)
  return dataclasses.replace(comparison, notes=notes), picture


def _write(
  folder: epath.Path,
  text: str,
  pictures: dict[str, page.Picture],
  *,
  comparison: comparison_lib.Comparison | None,
) -> Report:
  folder.mkdir(parents=True, exist_ok=True)
  for name, picture in pictures.items():
    (folder / f'{name}.png').write_bytes(picture.png)
  if comparison is not None:
    (folder / 'comparison.json').write_text(
      json.dumps(comparison.to_json(), indent=2) + '\n'
    )
  (folder / 'report.html').write_text(text)
  return Report(page=folder / 'report.html', comparison=comparison)


def _facts(
  loaded: checkpoint.LoadedEncoder,
  config: config_lib.Config,
  train: data_lib.Source,
) -> dict[str, str]:
  model = config.model
  width = f', width {model.width:g}' if model.width != 1 else ''
  return {
    'Pretrained': f'{loaded.step:,} steps of {config.train.batch_size} images, '
    'without labels',
    'Pictures': f'{train.num_examples:,}, at {config.data.image_size} px',
    'Network': f'ResNet-{model.depth}{width}',
    'Checkpoint': f'{loaded.path} ({loaded.fingerprint[:12]})',
  }


def _curves(
  workdir: epath.Path, config: config_lib.Config, *, last_step: int
) -> page.Picture:
  records = metrics.read_lines(workdir / metrics.FILE_NAME)
  figure = plots.training_curves(
    [record for record in records if record['step'] <= last_step],
    batch_size=config.train.batch_size,
    scale=config.loss.scale,
  )
  return page.Picture(
    'Training',
    'The dashed lines are what embeddings that do not depend on the picture '
    'would give.',
    plots.to_png(figure),
  )


def _views(train: data_lib.Source, config: config_lib.Config) -> page.Picture:
  batches = pipeline.train_batches(
    train,
    data=config.data,
    augment=config.augment,
    batch_size=min(NUM_PAIRS, train.num_examples),
    seed=config.seed,
    num_steps=1,
  )
  batch = next(batches)
  originals = read_images(train, batch['index'], config)
  return page.Picture(
    'Pairs of views',
    'What training pulls together: two random distortions of one picture. What '
    'differs between the views is what the encoder is told to ignore.',
    plots.to_png(plots.view_sheet(originals, batch['views'])),
  )


def _neighbours(
  features: dict[str, comparison_lib.EncoderFeatures],
  train: data_lib.Source,
  test: data_lib.Source,
  config: config_lib.Config,
  *,
  mesh: Mesh,
) -> page.Picture:
  same = train is test
  rows = pick_queries(features['checkpoint'].test.labels, count=NUM_QUERIES)
  count = min(NUM_NEIGHBOURS, train.num_examples - same)
  images: dict[str, np.ndarray] = {}
  matches: dict[str, np.ndarray] = {}
  for kind in ('checkpoint', 'random_init'):
    both = features[kind]
    index = neighbours.nearest_neighbours(
      both.train.h,
      both.test.h[rows],
      k=count + same,
      chunk_size=config.knn.chunk_size,
      mesh=mesh,
    ).index_Qxk
    if same:
      index = _without_itself(index, rows)
    found = read_images(train, index.reshape(-1), config)
    title = comparison_lib.TITLES[kind]
    images[title] = found.reshape(*index.shape, *found.shape[1:])
    matches[title] = both.train.labels[index] == both.test.labels[rows, None]
  labelled = bool(train.num_classes and test.num_classes)
  figure = plots.neighbour_sheet(
    read_images(test, rows, config),
    images,
    matches=matches if labelled else None,
  )
  frames = (
    ' Blue frames: the same class; orange: another. Pretraining saw no class.'
    if labelled
    else ''
  )
  return page.Picture(
    'Nearest neighbours',
    f'{"Training" if same else "Held-out"} pictures and the '
    f'{"other " if same else ""}training pictures closest to them by the '
    f'cosine of their features, nearest first.{frames}',
    plots.to_png(figure),
  )


def _without_itself(index_Qxk: np.ndarray, rows_Q: np.ndarray) -> np.ndarray:
  """[Q,k-1] neighbours that are not the query.

  Found by its row: with copies of a picture in the data set, the query need not
  be its own nearest, nor among the k at all; then the farthest is left out.
  """
  other_Qxk = index_Qxk != rows_Q[:, None]
  order = np.argsort(~other_Qxk, axis=1, kind='stable')
  return np.take_along_axis(index_Qxk, order, axis=1)[:, :-1]


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


def pick_queries(labels: np.ndarray, *, count: int) -> np.ndarray:
  """Rows of `count` examples, of as many classes as possible, the same always.

  Args:
    labels: i32 [n]; -1 throughout where there are none.
    count: At most n are given.
  """
  # Rank of each example within its class: the first of every class come first.
  rank = np.zeros(len(labels), np.int64)
  for label in np.unique(labels):
    members = np.flatnonzero(labels == label)
    rank[members] = np.arange(len(members))
  order = np.lexsort((np.arange(len(labels)), labels, rank))
  return np.sort(order[:count]) if labels.max(initial=-1) < 0 else order[:count]


def read_images(
  source: data_lib.Source, rows: np.ndarray, config: config_lib.Config
) -> np.ndarray:
  """Evaluation images f32 [n,H,W,3] of the examples `rows`, in their order."""
  chosen = [int(row) for row in rows]
  part = dataclasses.replace(
    source,
    num_examples=len(chosen),
    read=lambda i: source.read(chosen[i]),
    example_id=lambda i: source.example_id(chosen[i]),
  )
  batches = pipeline.eval_batches(
    part, data=config.data, eval_config=config.eval
  )
  return np.concatenate([batch['image'][batch['mask']] for batch in batches])


def main(arguments: Sequence[str] | None = None) -> int:
  """The command."""
  parser = command_help.ArgumentParser()
  parser.add_argument(
    '--workdir', required=True, help='Folder of the pretraining run.'
  )
  parser.add_argument(
    '--labels_per_class',
    type=int,
    default=5,
    help='Of the probe with few labels.',
  )
  parser.add_argument(
    '--step', type=int, default=None, help='Checkpoint; default: the newest.'
  )
  options = parser.parse_args(arguments)
  if not options.workdir:
    parser.error('--workdir= is empty; it must name a path')
  # absl's log wants its flags read; the command's own are argparse's.
  flags.FLAGS(['report'])
  logging.use_absl_handler()
  console.start()
  try:
    report = make_report(
      options.workdir,
      labels_per_class=options.labels_per_class,
      step=options.step,
    )
  except (ValueError, checkpoint.DamagedCheckpoint) as error:
    return console.fail(error, code=console.EXIT_WRONG_INPUT)
  if report.comparison is None:
    print('No table: it needs labels and a held-out split (data.test_split).')
  else:
    print(comparison_lib.format_table(report.comparison))
  print(f'\nTo look at: {os.fspath(report.page)}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
