"""TensorFlow's SavedModel, by jax2tf, with a symbolic batch."""

from __future__ import annotations

import pathlib

import numpy as np

from simclr_jax.data.lazy_tf import tf
from simclr_jax.exporters.network import Network, Options, Written
from simclr_jax.importers import packages

_PLATFORMS = ('cpu', 'cuda', 'tpu')


def export(network: Network, folder: pathlib.Path, options: Options) -> Written:
  """A SavedModel whose signature 'serving_default' takes `images`."""
  del options
  packages.require(
    'tensorflow', 'tensorflow_datasets', for_what='--format=saved_model'
  )
  # TensorFlow must have let go of the accelerators before jax2tf imports it.
  assert tf.version.VERSION
  from jax.experimental import jax2tf

  side = network.side
  apply = jax2tf.convert(
    network.apply,
    with_gradient=False,
    polymorphic_shapes=[None, f'(b, {side}, {side}, 3)'],
    native_serialization_platforms=_PLATFORMS,
  )
  module = tf.Module()
  # Slashes make no attribute names of variables; a dict is tracked whole.
  module.arrays = {n: tf.Variable(a) for n, a in network.arrays.items()}

  def call(images: tf.Tensor) -> dict[str, tf.Tensor]:
    found: dict[str, tf.Tensor] = apply(dict(module.arrays), images)
    return found

  spec = tf.TensorSpec((None, side, side, 3), tf.float32, name='images')
  module.call = tf.function(call, input_signature=[spec], autograph=False)
  tf.saved_model.save(
    module, str(folder), signatures={'serving_default': module.call}
  )

  def forward(images: np.ndarray) -> dict[str, np.ndarray]:
    loaded = tf.saved_model.load(str(folder))
    found = loaded.signatures['serving_default'](images=tf.constant(images))
    return {name: value.numpy() for name, value in found.items()}

  how = (
    'import tensorflow as tf\n'
    "call = tf.saved_model.load(FOLDER).signatures['serving_default']\n"
    f'found = call(images=images)  # f32 [N, {side}, {side}, 3], any N'
  )
  return Written(
    forward, how, {'layout': 'NHWC', 'platforms': list(_PLATFORMS)}
  )
