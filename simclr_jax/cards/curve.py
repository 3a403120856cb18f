"""Loss and accuracy by epoch, of the lines of metrics.jsonl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math
import statistics
from typing import Any

CURVE = (
  'loss',
  'contrast_loss',
  'contrast_acc',
  'knn_top1',
  'images_per_second',
  'input_wait_percent',
)
# Of a checkpoint, not of a batch.
_EVALUATED = ('knn_top1',)
_SPREAD_ROWS = 12


def make_curve(
  records: Sequence[Mapping[str, Any]],
  *,
  steps_per_epoch: float,
  total_steps: int,
  average: bool = False,
) -> list[dict[str, Any]]:
  """The last line of every epoch (and every evaluation) by epoch.

  A step that ends an epoch belongs to it. The official number of steps has one
  more than the epochs (`durations.total_steps`); the last step belongs to the
  last epoch, and a run of 100 epochs has no epoch 101.

  Args:
    records: Lines of metrics.jsonl, by rising 'step' (finished steps, from 1).
    steps_per_epoch: Not rounded.
    total_steps: Of the whole run.
    average: The mean over the lines of an epoch instead of the last: one batch
      is noisy. What is not finite makes its mean so.

  Returns:
    {'epoch': from 1, and what CURVE names}, by epoch.
  """
  last = max(1, math.ceil((total_steps - 1) / steps_per_epoch))
  by_epoch: dict[int, dict[str, list[Any]]] = {}
  for record in records:
    epoch = min(math.ceil(record['step'] / steps_per_epoch), last)
    row = by_epoch.setdefault(epoch, {})
    for name in CURVE:
      if name in record:
        row.setdefault(name, []).append(record[name])

  def reduce(name: str, values: list[Any]) -> Any:
    if average and name not in _EVALUATED:
      return statistics.fmean(map(float, values))
    return values[-1]

  return [
    {'epoch': epoch} | {k: reduce(k, v) for k, v in row.items()}
    for epoch, row in sorted(by_epoch.items())
  ]


def make_table(curve: list[dict[str, Any]]) -> str:
  """For people: evaluated epochs, about twelve spread ones, and the last."""
  lines = ['epoch  loss     contrast_acc  kNN']
  every = max(1, len(curve) // _SPREAD_ROWS)
  for i, point in enumerate(curve):
    if i % every and i != len(curve) - 1 and 'knn_top1' not in point:
      continue
    cells = [
      f'{point[name]:{form}}' if name in point else '-'
      for name, form in (
        ('contrast_loss', '.4f'),
        ('contrast_acc', '.1%'),
        ('knn_top1', '.1%'),
      )
    ]
    lines.append(
      f'{point["epoch"]:>5}  {cells[0]:<8} {cells[1]:<13} {cells[2]}'
    )
  return '\n'.join(lines)
