"""How pictures were prepared for networks of other codebases."""

from __future__ import annotations

from collections.abc import Mapping
import math
from typing import Any

from simclr_jax.importers.format import Format

_ANTIALIAS = 'trained_with_antialias'
_NORMALIZATIONS = {
  'none': None,
  'imagenet': ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def stated(
  chosen: Format, normalize: str, described: Mapping[str, Any], *, name: str
) -> dict[str, Any]:
  """mean, std (and pad, where an export says it) of the pictures.

  Args:
    chosen: Format of the file.
    normalize: What a person said; '' for nothing.
    described: export.json of our own exports; {} without.
    name: Of the format.

  Raises:
    ValueError: If it is not known, or cannot be.
  """
  if described:
    if normalize:
      raise ValueError('--normalize: the export says it itself (export.json)')
    return _as_described(described)
  if chosen.takes_unit_range:
    if normalize not in ('', 'none'):
      raise ValueError(
        f'--normalize={normalize}: networks of --format={name} take pictures '
        'in [0, 1] without mean and std; with them features are near random'
      )
    return {'mean': None, 'std': None}
  if not normalize:
    raise ValueError(
      f'--normalize is wanted with --format={name}: nothing in the file says '
      'how pictures were prepared, and with the wrong mean and std features '
      "are near random. 'imagenet' is torchvision's (also the default of timm, "
      "lightly and solo-learn's ImageNet recipes), 'none' is pictures in "
      "[0, 1], or give numbers: --normalize='0.4914,0.4822,0.4465/0.247,0.2435,"
      "0.2616'"
    )
  mean_std = _NORMALIZATIONS.get(normalize, ()) or _numbers(normalize)
  if normalize == 'none':
    return {'mean': None, 'std': None}
  return {'mean': list(mean_std[0]), 'std': list(mean_std[1])}


def _as_described(described: Mapping[str, Any]) -> dict[str, Any]:
  known = described.get('preprocessing')
  found: dict[str, Any] = {'mean': None, 'std': None, 'pad': 0}
  if isinstance(known, Mapping):
    found |= {key: known[key] for key in found if key in known}
  mean, std, pad = (found[key] for key in ('mean', 'std', 'pad'))
  good = isinstance(known, Mapping) and type(pad) is int and pad >= 0
  if good and (mean, std) != (None, None):
    good = all(
      isinstance(part, list)
      and len(part) == 3
      and all(isinstance(x, (int, float)) and math.isfinite(x) for x in part)
      for part in (mean, std)
    ) and all(x > 0 for x in std)
  if not good:
    raise ValueError(
      'export.json: preprocessing must hold mean and std (both none, or three '
      f'numbers each) and pad, and is {str(known)[:99]}'
    )
  return {**found, _ANTIALIAS: dict(known or {}).get(_ANTIALIAS) is True}


def _numbers(normalize: str) -> tuple[tuple[float, ...], ...]:
  if normalize == 'none':
    return ()
  try:
    halves = tuple(
      tuple(float(v) for v in half.split(',')) for half in normalize.split('/')
    )
  except ValueError:
    halves = ()
  good = len(halves) == 2 and all(len(half) == 3 for half in halves)
  good = good and all(math.isfinite(v) for v in halves[0])
  if not good or not all(0 < s < 10 for s in halves[1]):
    raise ValueError(
      f'--normalize={normalize}: wanted is {", ".join(_NORMALIZATIONS)} or '
      'three means and three positive deviations, m,m,m/s,s,s, for pictures in '
      '[0, 1]'
    )
  return halves
