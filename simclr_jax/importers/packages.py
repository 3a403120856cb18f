"""Packages that only one format needs: asked for by name, missed by name."""

from __future__ import annotations

import importlib.util

# Module -> what to install. TensorFlow only reads and writes files here.
_INSTALL = {
  'onnx': 'onnx',
  'onnxruntime': 'onnxruntime',
  'onnxscript': 'onnxscript',
  'safetensors': 'safetensors',
  'tensorflow': 'tensorflow-cpu tensorflow-datasets',
  'timm': 'timm',
  'torch': 'torch',
  'torchvision': 'torchvision',
  'transformers': 'transformers',
}


def require(*modules: str, for_what: str) -> None:
  """Raises ValueError that names what is not installed.

  Args:
    *modules: Importable names.
    for_what: E.g. 'format timm'.
  """
  missing = [m for m in modules if importlib.util.find_spec(m) is None]
  if missing:
    names = ' '.join(_INSTALL[m] for m in missing)
    raise ValueError(
      f'{for_what} needs {", ".join(missing)}, which '
      f'{"is" if len(missing) == 1 else "are"} not installed here: '
      f'pip install {names}'
    )
