"""h against z: the table of simclr_jax.probe_transforms, where it was made."""

from __future__ import annotations

from collections.abc import Mapping
import json
from typing import Any

from simclr_jax.evaluation import jobs, transform_probe
from simclr_jax.reports import document, kinds
from simclr_jax.reports.run_data import RunData

_HEADING = 'h against z'


def section(run: RunData) -> document.Section | document.Missing:
  """What h knows of a picture and z has forgotten."""
  name = f'{transform_probe.NAME}-step{run.loaded.step}.json'
  file = run.workdir / jobs.FOLDER / name
  if not file.exists():
    return document.Missing(
      _HEADING,
      'nobody has compared them at this step (simclr_jax.probe_transforms)',
    )
  try:
    result = json.loads(file.read_text())['result']
    rows = [
      [
        document.Cell(task['task'], ', '.join(task['variants'])),
        *(_score(task[layer]) for layer in transform_probe.LAYERS),
        document.Cell(f'{task["chance"]:.1%}'),
      ]
      for task in result['tasks']
    ]
    text = (
      f'A linear probe on h ({result["dim_h"]} wide) and one on z '
      f'({result["dim_z"]}) tell how a picture was changed, and its class '
      f'(table 3 of the SimCLR paper). {kinds.of(run).on_z}Noise has a '
      'standard deviation of '
      f'{float(result["noise_std"]):g}, of pixels from 0 to 1.'
    )
    notes = tuple(map(str, result['warnings']))
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    return document.Missing(_HEADING, f'{name} cannot be read ({error!r})')
  return document.Section(
    _HEADING,
    text,
    tables=(document.Table(('told', 'h', 'z', 'chance'), rows),),
    notes=notes,
  )


def _score(score: Mapping[str, Any]) -> document.Cell:
  low, high = score['top1_interval']
  return document.Cell(f'{score["top1"]:.1%}', f'{low:.1%} to {high:.1%}')
