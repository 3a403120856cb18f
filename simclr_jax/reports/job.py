"""The report as a job: workdir in, page out."""

from __future__ import annotations

import dataclasses
import json

from absl import logging
from etils import epath
from jax.sharding import Mesh

from simclr_jax import cards
from simclr_jax.evaluation import comparison as comparison_lib
from simclr_jax.reports import (
  concerns,
  curves,
  document,
  embedding_map,
  judged_steps,
  layers,
  learnt,
  near_duplicates,
  page,
  pictures,
  recipe,
  similarities,
  verdict,
)
from simclr_jax.reports.run_data import RunData, open_run
from simclr_jax.training import mesh as mesh_lib

FOLDER = 'report'
_NO_NEIGHBOURS = 'there is only one training picture, and none is held out'


@dataclasses.dataclass(frozen=True)
class Report:
  """What was written.

  Attributes:
    page: The HTML file.
    comparison: None where there is nothing held out, or no labels.
    verdict: Of the recipe card.
    document: What the page says.
  """

  page: epath.Path
  comparison: comparison_lib.Comparison | None
  verdict: cards.Verdict
  document: document.Document


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
    ValueError: If there is no such checkpoint.
    DamagedCheckpoint: If none is readable.
  """
  if labels_per_class < 1:
    raise ValueError(
      f'--labels_per_class={labels_per_class}: must be at least 1'
    )
  mesh = mesh_lib.make_mesh() if mesh is None else mesh
  run = open_run(workdir, step=step, mesh=mesh)
  logging.info('judging step %d of %s', run.loaded.step, workdir)
  judged, comparison = learnt.judge(run, labels_per_class=labels_per_class)
  found = cards.check_recipe(run.workdir, step=run.loaded.step)
  logging.info('drawing')
  missing = document.Missing
  sections = (
    concerns.section(run),
    learnt.section(comparison),
    verdict.section(found),
    curves.training(run),
    curves.embeddings(run),
    similarities.section(run),
    judged_steps.section(run),
    layers.section(run),
    pictures.nearest(run, judged)
    if judged
    else missing('Nearest neighbours', _NO_NEIGHBOURS),
    embedding_map.section(run, judged)
    if judged
    else missing('Map of embeddings', _NO_NEIGHBOURS),
    near_duplicates.section(run, judged)
    if judged
    else missing('Near-duplicates', _NO_NEIGHBOURS),
    pictures.views(run),
    curves.speed(run),
    recipe.recipe(run),
    recipe.data(run),
  )
  made = document.Document(
    f'SimCLR on {run.train.name}', recipe.facts(run), sections
  )
  file = _write(run, made, comparison)
  return Report(file, comparison, found, made)


def _write(
  run: RunData,
  made: document.Document,
  comparison: comparison_lib.Comparison | None,
) -> epath.Path:
  """Page, pictures that are of use elsewhere, and the table as JSON."""
  folder = run.workdir / FOLDER
  folder.mkdir(parents=True, exist_ok=True)
  for picture in made.pictures:
    if picture.in_folder:
      (folder / f'{picture.name}.png').write_bytes(picture.png)
  if (combined := curves.combined(run)) is not None:
    (folder / 'curves.png').write_bytes(combined)
  if comparison is not None:
    (folder / 'comparison.json').write_text(
      json.dumps(comparison.to_json(), indent=2) + '\n'
    )
  file = folder / 'report.html'
  # Names of files and classes need not be valid text.
  file.write_bytes(page.render(made).encode('utf-8', 'backslashreplace'))
  return file
