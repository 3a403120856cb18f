"""OpenCV and cloudpickle for the input pipeline, imported on first use.

`from simclr_jax.data.lazy_cv2 import cloudpickle, cv2` costs nothing until an
attribute is used, so that the package imports without them.
"""

from __future__ import annotations

from typing import Any

from etils import epy


def _set_up(module_name: str) -> None:
  """One thread for each call: the pipeline runs many calls at once."""
  import cv2 as eager_cv2

  eager_cv2.setNumThreads(1)
  # Damaged pictures are reported by whoever asked for them, with their names.
  logging: Any = eager_cv2.utils.logging
  logging.setLogLevel(logging.LOG_LEVEL_SILENT)


with epy.lazy_imports(
  error_callback=(
    "config.data.loader='opencv' needs OpenCV and cloudpickle: "
    'pip install opencv-python-headless cloudpickle'
  ),
  success_callback=_set_up,
):
  import cloudpickle
  import cv2

__all__ = ['cloudpickle', 'cv2']
