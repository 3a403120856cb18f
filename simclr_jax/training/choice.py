"""Which of the checkpoints at a path is meant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import re
from typing import Any

from etils import epath

from simclr_jax.training import damage
from simclr_jax.training import steps as steps_lib

# Folder of a step -> (passport, manifest).
ReadFn = Callable[[epath.Path], tuple[dict[str, Any], dict[str, Any]]]
_NUMBER = re.compile('[0-9]{1,18}')


def parse_step(text: str) -> int | str | None:
  """What a command's `--step` asks for: a number, 'best', or '' for the newest.

  Raises:
    ValueError: If it is none of these.
  """
  if _NUMBER.fullmatch(text):
    return int(text)
  if text not in ('', 'best'):
    raise ValueError(f"--step={text[:99]}: a number or 'best' is wanted")
  return text or None


def locate(
  path: epath.PathLike, step: int | str | None
) -> tuple[epath.Path, int | str | None]:
  """Folder of checkpoints and the step asked for."""
  if isinstance(step, str) and step != 'best':
    raise ValueError(f"step must be a number, 'best' or None, got {step!r}")
  folder = steps_lib.checkpoints_folder(path)
  whole = steps_lib.absolute(path)
  if folder.exists() or not steps_lib.is_step(whole.name) or not whole.is_dir():
    return folder, step
  if step not in (None, int(whole.name)):
    raise ValueError(f'{whole} is one checkpoint; step {step!r} is not in it')
  return whole.parent, int(whole.name)


def best_first(
  folder: epath.Path, steps: Sequence[int], *, read_fn: ReadFn
) -> list[int]:
  """Steps by falling score in the best_metric of the newest; ties: newest.

  Args:
    folder: Of checkpoints.
    steps: Those in it.
    read_fn: Of passport and manifest.

  Raises:
    ValueError: If none has a score.
  """
  manifests = {}
  for step in reversed(steps):
    try:
      _, manifests[step] = read_fn(folder / str(step))
    except Exception as error:
      path, reason = folder / str(step), damage.reason_of(error)
      if not steps_lib.is_complete(path):
        continue  # The run that writes them has deleted it meanwhile.
      if not damage.is_damage(error):
        raise steps_lib.unreadable(path, reason) from error
      steps_lib.shout(f'checkpoint {path} is DAMAGED and is not used: {reason}')
  metric = next((m.get('best_metric') for m in manifests.values()), None)
  scores = {
    step: score
    for step, manifest in manifests.items()
    if (score := steps_lib.score(manifest['metrics'], str(metric))) is not None
  }
  if steps and not scores:
    raise ValueError(
      f'no checkpoint in {folder} has the metric {metric!r} that would make it '
      'the best; ask for a step, or for the newest with step=None'
    )
  return sorted(scores, key=lambda s: (scores[s], s), reverse=True)


def steps_to_load(path: epath.PathLike) -> list[int]:
  """What `load_encoder` and `load_state` would try at `path`; no collective."""
  folder, step = locate(path, None)
  steps = steps_lib.steps_in(folder)
  return [number for number in steps if step in (None, number)]
