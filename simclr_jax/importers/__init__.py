"""Weights of other codebases <-> ours; one file per format."""

from __future__ import annotations

import difflib

from simclr_jax.importers import (
  lightly,
  official_tf1,
  official_tf2,
  own,
  solo_learn,
  timm,
  torchvision,
)
from simclr_jax.importers.format import Format

FORMATS: dict[str, Format] = {
  'official_tf2': official_tf2.FORMAT,
  'official_tf1': official_tf1.FORMAT,
  'torchvision': torchvision.FORMAT,
  'timm': timm.FORMAT,
  'lightly': lightly.FORMAT,
  'solo_learn': solo_learn.FORMAT,
  'npz': own.NPZ,
  'safetensors': own.SAFETENSORS,
}


def find_format(name: str) -> Format:
  """The format of a name.

  Raises:
    ValueError: Listing those there are.
  """
  if name not in FORMATS:
    close = difflib.get_close_matches(name, FORMATS, n=1)
    hint = f' (did you mean {close[0]!r}?)' if close else ''
    raise ValueError(
      f'--format={name} is not a format that can be imported{hint}; known: '
      f'{", ".join(FORMATS)}'
    )
  return FORMATS[name]


__all__ = ['FORMATS', 'Format', 'find_format']
