"""Arrays of a file against the variables of a network: nothing unexplained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import json

import numpy as np

_MOST_NAMES = 12
_FEW_NAMES = 2


@dataclasses.dataclass(frozen=True)
class Match:
  """What became of every variable and of every array.

  Attributes:
    loaded: {our path: name in the file}.
    missing: Names that the network wants and the file has not.
    unexpected: Arrays of the file that the network has no place for.
    misshapen: Sentences about arrays of another shape or type, or with numbers
      that are not finite.
    left_out: Why arrays were not looked at -> their names (optimizer slots).
    num_values: Numbers in the loaded arrays.
  """

  loaded: dict[str, str]
  missing: tuple[str, ...]
  unexpected: tuple[str, ...]
  misshapen: tuple[str, ...]
  left_out: dict[str, tuple[str, ...]]
  num_values: int

  @property
  def is_full(self) -> bool:
    """Whether every variable is loaded and every array is explained."""
    return not (self.missing or self.misshapen or self.unexpected)

  def table(self) -> str:
    """For a person; at most a dozen names of each kind."""
    lines = [
      f'{len(self.loaded):6d} loaded     ({self.num_values:,} numbers)',
      _row('missing', self.missing),
      _row('unexpected', self.unexpected),
      _row('misshapen', self.misshapen),
    ]
    lines += [
      _row(f'left out, {why}', names, most=_FEW_NAMES)
      for why, names in self.left_out.items()
    ]
    return '\n'.join(lines)

  def counts(self) -> dict[str, int]:
    """For the passport."""
    kinds = ('loaded', 'missing', 'unexpected', 'misshapen')
    return {kind: len(getattr(self, kind)) for kind in kinds}


def match(
  names: Mapping[str, str],
  shapes: Mapping[str, tuple[int, ...]],
  arrays: Mapping[str, np.ndarray],
  *,
  converted: Mapping[str, np.ndarray],
  left_out: Mapping[str, Sequence[str]],
) -> Match:
  """Compares without changing anything.

  Args:
    names: {our path: name in the file} of every variable of the network.
    shapes: {our path: shape}.
    arrays: {name in the file: array}, what may be left out already removed.
    converted: {our path: array in our layout} of those that are there.
    left_out: Why -> names that were removed.
  """
  unexpected = sorted(arrays.keys() - set(names.values()))
  misshapen = []
  loaded = {}
  for path, array in converted.items():
    if array.shape != shapes[path]:
      misshapen.append(
        f'{names[path]} {list(array.shape)}, the network wants '
        f'{list(shapes[path])} for {path}'
      )
    elif array.dtype != np.float32:
      misshapen.append(f'{names[path]} is {array.dtype}, float32 is wanted')
    elif not np.isfinite(array).all():
      misshapen.append(f'{names[path]} holds NaN or infinity')
    else:
      loaded[path] = names[path]
  return Match(
    loaded=loaded,
    missing=tuple(n for p, n in names.items() if p not in converted),
    unexpected=tuple(unexpected),
    misshapen=tuple(misshapen),
    left_out={k: tuple(v) for k, v in left_out.items()},
    num_values=sum(converted[path].size for path in loaded),
  )


def _row(kind: str, names: Sequence[str], *, most: int = _MOST_NAMES) -> str:
  more = len(names) - most
  # A name is text of somebody else's file: no line breaks, no escapes.
  shown = ', '.join(json.dumps(n)[1:-1] for n in names[:most])
  shown += f' and {more} more' if more > 0 else ''
  return f'{len(names):6d} {kind}' + (f': {shown}' if names else '')
