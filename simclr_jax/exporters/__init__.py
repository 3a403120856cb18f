"""A checkpoint for other programs; one file per format."""

from __future__ import annotations

import difflib

from simclr_jax.exporters import (
  huggingface,
  official_tf2,
  onnx,
  own,
  saved_model,
  stablehlo,
  timm,
  torchvision,
)
from simclr_jax.exporters.network import Exporter

EXPORTERS: dict[str, Exporter] = {
  'npz': own.export_npz,
  'safetensors': own.export_safetensors,
  'torchvision': torchvision.export,
  'timm': timm.export,
  'huggingface': huggingface.export,
  'onnx': onnx.export,
  'stablehlo': stablehlo.export,
  'saved_model': saved_model.export,
  'official_tf2': official_tf2.export,
}


def find_exporter(name: str) -> Exporter:
  """The exporter of a name.

  Raises:
    ValueError: Listing those there are.
  """
  if name not in EXPORTERS:
    close = difflib.get_close_matches(name, EXPORTERS, n=1)
    hint = f' (did you mean {close[0]!r}?)' if close else ''
    raise ValueError(
      f'--format={name} is not a format that can be exported{hint}; known: '
      f'{", ".join(EXPORTERS)}'
    )
  return EXPORTERS[name]


__all__ = ['EXPORTERS', 'Exporter', 'find_exporter']
