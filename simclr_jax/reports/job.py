"""The report as a job: workdir in, page out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import json

from absl import logging
from etils import epath
from jax.sharding import Mesh

from simclr_jax import cards, writes
from simclr_jax.evaluation import comparison as comparison_lib
from simclr_jax.evaluation import jobs
from simclr_jax.reports import (
  concerns,
  curves,
  document,
  embedding_map,
  judged_steps,
  kinds,
  layers,
  learnt,
  near_duplicates,
  outcome,
  page,
  pictures,
  recipe,
  similarities,
  verdict,
)
from simclr_jax.reports.run_data import Judged, RunData, open_run
from simclr_jax.training import ancestry
from simclr_jax.training import mesh as mesh_lib

FOLDER = 'report'
_Part = document.Section | document.Missing
_NO_NEIGHBOURS = 'there is only one training picture, and none is held out'


@dataclasses.dataclass(frozen=True)
class Report:
  """What was written.

  Attributes:
    page: The HTML file.
    comparison: None where there is nothing held out, or labels allow none.
    no_table: The reason for that.
    titles: Of its rows.
    verdict: Of the recipe card; None of what is no pretraining run.
    document: What the page says.
  """

  page: epath.Path
  comparison: comparison_lib.Comparison | None
  no_table: str
  titles: Mapping[str, str]
  verdict: cards.Verdict | None
  document: document.Document


def make_report(
  workdir: epath.PathLike,
  *,
  labels_per_class: int = 5,
  step: int | str | None = None,
  overrides: jobs.Overrides | None = None,
  mesh: Mesh | None = None,
) -> Report:
  """Judges the newest checkpoint (or that of `step`) and writes the report.

  Args:
    workdir: Of a run, of a classifier or of an imported network.
    labels_per_class: Of the probe with few labels.
    step: Of the checkpoint, or 'best'.
    overrides: Fields of config sections, {'data': {'path': ...}}.
    mesh: Default: all devices.

  Raises:
    ValueError: If there is no such checkpoint, or one whose objective is not
      known.
    DamagedCheckpoint: If none is readable.
  """
  if labels_per_class < 1:
    raise ValueError(
      f'--labels_per_class={labels_per_class}: must be at least 1'
    )
  mesh = mesh_lib.make_mesh() if mesh is None else mesh
  run = open_run(workdir, step=step, mesh=mesh, overrides=overrides)
  kind = kinds.of(run)
  logging.info('judging step %d of %s', run.loaded.step, workdir)
  judged, comparison = learnt.judge(run, labels_per_class=labels_per_class)
  found = None
  if ancestry.kind_of(run.passport).is_pretraining:
    found = cards.check_recipe(run.workdir, passport=run.passport)
  logging.info('drawing')
  made = document.Document(
    f'{kind.title} {run.train.name}',
    recipe.facts(run),
    _sections(run, judged, comparison, found),
  )
  file = _write(run, made, comparison)
  return Report(
    page=file,
    comparison=comparison,
    no_table=learnt.why_no_table(judged),
    titles=learnt.titles(run),
    verdict=found,
    document=made,
  )


def _sections(
  run: RunData,
  judged: Judged | None,
  comparison: comparison_lib.Comparison | None,
  found: cards.Verdict | None,
) -> tuple[document.Section | document.Missing, ...]:
  """All of them, or why one is not there."""
  kind = kinds.of(run)

  def drawn(draw_fn: Callable[[RunData, Judged], _Part], heading: str) -> _Part:
    if judged is None:
      return document.Missing(heading, _NO_NEIGHBOURS)
    return draw_fn(run, judged)

  views = kind.views.heading if kind.views else 'Pairs of views'
  makers: dict[str, Callable[[], _Part]] = {
    'What was learnt': lambda: learnt.section(
      run, comparison, no_table=learnt.why_no_table(judged)
    ),
    'Against the recipe card': lambda: verdict.section(found),
    'Training': lambda: curves.training(run),
    'Embeddings during training': lambda: curves.embeddings(run),
    'Similarities': lambda: similarities.section(run),
    'Accuracy by step': lambda: judged_steps.section(
      run,
      num_test=judged.test.num_examples if judged and judged.held_out else 0,
    ),
    'h against z': lambda: layers.section(run),
    'Nearest neighbours': lambda: drawn(pictures.nearest, 'Nearest neighbours'),
    'Map of embeddings': lambda: drawn(
      embedding_map.section, 'Map of embeddings'
    ),
    'Near-duplicates': lambda: drawn(
      near_duplicates.section, 'Near-duplicates'
    ),
    views: lambda: pictures.views(run),
    'Speed': lambda: curves.speed(run),
  }
  return (
    concerns.section(run),
    *outcome.sections(run),
    *(
      document.Missing(heading, kind.left_out[heading])
      if heading in kind.left_out
      else _made(heading, make)
      for heading, make in makers.items()
    ),
    recipe.recipe(run),
    recipe.data(run),
  )


def _made(heading: str, make: Callable[[], _Part]) -> _Part:
  """A section; why it is left out where a file of it has gone meanwhile."""
  try:
    return make()
  except (OSError, ValueError) as error:
    causes = writes.chain(error)
    if not any(isinstance(each, OSError) for each in causes):
      raise
    logging.warning('%s is left out of the report: %s', heading, error)
    return document.Missing(heading, f'a file cannot be read now: {error}')


def _write(
  run: RunData,
  made: document.Document,
  comparison: comparison_lib.Comparison | None,
) -> epath.Path:
  """Page, pictures that are of use elsewhere, and the table as JSON."""
  folder = run.workdir / FOLDER
  for picture in made.pictures:
    if picture.in_folder:
      writes.whole(folder / f'{picture.name}.png', picture.png)
  if (combined := curves.combined(run)) is not None:
    writes.whole(folder / 'curves.png', combined)
  if comparison is not None:
    writes.whole(
      folder / 'comparison.json',
      json.dumps(comparison.to_json(), indent=2) + '\n',
    )
  file = folder / 'report.html'
  # Names of files and classes need not be valid text.
  writes.whole(file, page.render(made).encode('utf-8', 'backslashreplace'))
  return file
