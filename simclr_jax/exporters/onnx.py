"""ONNX, through torch, run by onnxruntime."""

from __future__ import annotations

import pathlib
import warnings

import numpy as np

from simclr_jax.exporters import torch_network
from simclr_jax.exporters.network import Network, Options, Written
from simclr_jax.importers import packages

_OPSET = 18


def export(network: Network, folder: pathlib.Path, options: Options) -> Written:
  """model.onnx: `images` [N, 3, S, S], any N, to the outputs by name."""
  del options
  packages.require(
    'torch', 'onnx', 'onnxscript', 'onnxruntime', for_what='--format=onnx'
  )
  import onnxruntime
  import torch

  side = network.side
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # Of torch about torch.
    torch.onnx.export(
      torch_network.make_module(network),
      (torch.zeros(2, 3, side, side),),
      folder / 'model.onnx',
      input_names=['images'],
      output_names=list(network.outputs),
      dynamic_shapes={'images': {0: torch.export.Dim('batch')}},
      opset_version=_OPSET,
      dynamo=True,
      # A protocol buffer holds 2 GB.
      external_data=sum(a.nbytes for a in network.arrays.values()) > 2**30,
      verbose=False,
    )

  def forward(images: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(
      folder / 'model.onnx', providers=['CPUExecutionProvider']
    )
    found = session.run(
      list(network.outputs),
      {'images': np.ascontiguousarray(images.transpose(0, 3, 1, 2))},
    )
    return dict(zip(network.outputs, found, strict=True))

  how = (
    'import onnxruntime\n'
    "session = onnxruntime.InferenceSession('model.onnx')\n"
    f"found = session.run(None, {{'images': images}})  # f32 [N, 3, {side}, "
    f'{side}], any N'
  )
  return Written(forward, how, {'layout': 'NCHW', 'opset': _OPSET})
