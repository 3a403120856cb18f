"""Names of splits: which one is meant where the wanted one is not there."""

from __future__ import annotations

from collections.abc import Iterable
import difflib

from simclr_jax import config as config_lib

TRAINING = ('train', 'training')
HELD_OUT = (
  *('test', 'testing', 'validation', 'valid', 'val', 'dev', 'eval'),
  'evaluation',
)


def advice(
  data: config_lib.DataConfig, split: str, present: Iterable[str]
) -> str:
  """Flags that name a split that is there; '' where none seems to be meant.

  Args:
    data: Whose `train_split` or `test_split` is not there.
    split: That one.
    present: Names of splits, or of folders.
  """
  name, bracket, part = split.partition('[')
  by_lower = {each.lower(): each for each in present}
  field = 'train_split' if split == data.train_split else 'test_split'
  alike = TRAINING if field == 'train_split' else HELD_OUT
  wanted = [name.lower()]
  if name.lower() in alike:
    wanted += alike
  wanted += difflib.get_close_matches(name.lower(), by_lower, 1)
  found = next((by_lower[w] for w in wanted if w in by_lower), '')
  if not found:
    return ''
  flag = f'data.{field}={found}{bracket}{part}'
  return (
    f'did you mean {found!r}? --config.{flag} (of a checkpoint, in knn, '
    f'linear_probe and report: --{flag})'
  )
