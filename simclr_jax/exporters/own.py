"""Our own names in .npz and .safetensors: any network, no program."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from simclr_jax.exporters.network import Network, Options, Written
from simclr_jax.importers import own, packages

_NAMES = (
  '# {our path: array}, e.g. params/backbone/conv1/kernel [7, 7, 3, 64] (HWIO)'
)


def export_npz(
  network: Network, folder: pathlib.Path, options: Options
) -> Written:
  """model.npz."""
  del options
  # An array named 'allow_pickle' would be taken for the argument; none is.
  arrays_by_name: Any = network.arrays
  np.savez(folder / 'model.npz', **arrays_by_name)
  how = f"import numpy as np\narrays = np.load('model.npz')  {_NAMES}"

  def forward(images: np.ndarray) -> dict[str, np.ndarray]:
    return network.features(images, own.read_npz(folder, '').arrays)

  return Written(forward, how, {'layout': 'NHWC'})


def export_safetensors(
  network: Network, folder: pathlib.Path, options: Options
) -> Written:
  """model.safetensors."""
  del options
  packages.require('safetensors', for_what='--format=safetensors')
  import safetensors.numpy

  arrays = {n: np.ascontiguousarray(a) for n, a in network.arrays.items()}
  safetensors.numpy.save_file(arrays, folder / 'model.safetensors')
  how = (
    'import safetensors.numpy\n'
    f"arrays = safetensors.numpy.load_file('model.safetensors')  {_NAMES}"
  )

  def forward(images: np.ndarray) -> dict[str, np.ndarray]:
    return network.features(images, own.read_safetensors(folder, '').arrays)

  return Written(forward, how, {'layout': 'NHWC'})
