"""TensorFlow for the input pipeline, imported on first use.

`from simclr_jax.data.lazy_tf import tf, tfds` costs nothing until an attribute
is used, so that the package imports, and runs on arrays, without TensorFlow.
The first use hides every accelerator from it: TensorFlow would otherwise take
the memory of the GPUs and TPUs that JAX computes on.
"""

from __future__ import annotations

import os

from etils import epy

# Its C++ half prints notes about the CPU before any Python setting is read;
# warnings and errors still come through.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '1')


def _hide_accelerators(module_name: str) -> None:
  import tensorflow as eager_tf

  for kind in ('GPU', 'TPU'):
    eager_tf.config.set_visible_devices([], kind)


with epy.lazy_imports(
  error_callback=(
    'this data source needs TensorFlow and TFDS: '
    'pip install tensorflow-cpu tensorflow-datasets'
  ),
  success_callback=_hide_accelerators,
):
  import tensorflow as tf
  import tensorflow_datasets as tfds

__all__ = ['tf', 'tfds']
