"""A compiled-anywhere program: jax.export, with a symbolic batch."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import jax.export
import numpy as np

from simclr_jax.exporters.network import Network, Options, Written

_PLATFORMS = ('cpu', 'cuda', 'tpu')


def export(network: Network, folder: pathlib.Path, options: Options) -> Written:
  """model.stablehlo (the program) and model.npz (its first argument)."""
  del options
  (batch,) = jax.export.symbolic_shape('b')
  images = jax.ShapeDtypeStruct(
    (batch, network.side, network.side, 3), np.float32
  )
  arrays = {
    n: jax.ShapeDtypeStruct(a.shape, a.dtype) for n, a in network.arrays.items()
  }
  exported = jax.export.export(jax.jit(network.apply), platforms=_PLATFORMS)(
    arrays, images
  )
  (folder / 'model.stablehlo').write_bytes(bytes(exported.serialize()))
  # An array named 'allow_pickle' would be taken for the argument; none is.
  arrays_by_name: Any = network.arrays
  np.savez(folder / 'model.npz', **arrays_by_name)

  def forward(images: np.ndarray) -> dict[str, np.ndarray]:
    program = jax.export.deserialize(
      bytearray((folder / 'model.stablehlo').read_bytes())
    )
    with np.load(folder / 'model.npz', allow_pickle=False) as found:
      outputs = program.call(dict(found), images)
    return {name: np.asarray(value) for name, value in outputs.items()}

  how = (
    'import jax.export, numpy as np\n'
    "program = jax.export.deserialize(bytearray(open('model.stablehlo', 'rb')"
    '.read()))\n'
    "arrays = dict(np.load('model.npz'))\n"
    f'found = program.call(arrays, images)  # f32 [N, {network.side}, '
    f'{network.side}, 3], any N'
  )
  facts = {
    'layout': 'NHWC',
    'platforms': list(_PLATFORMS),
    'calling_convention_version': exported.calling_convention_version,
  }
  return Written(forward, how, facts)
