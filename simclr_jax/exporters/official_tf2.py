"""TF2 checkpoint that google-research/simclr/tf2 restores."""

from __future__ import annotations

import pathlib

import numpy as np

from simclr_jax.exporters.network import Network, Options, Written
from simclr_jax.importers import official_keys, packages, tf_files
from simclr_jax.importers import official_tf2 as importer


def export(network: Network, folder: pathlib.Path, options: Options) -> Written:
  """ckpt.index and ckpt.data-*, keyed by the official model's object graph."""
  del options
  packages.require(
    'tensorflow', 'tensorflow_datasets', for_what='--format=official_tf2'
  )
  if 'z' not in network.outputs:
    raise ValueError(
      '--format=official_tf2 holds the projection head: the official code '
      'restores none without it. Add z to --outputs'
    )
  size = network.config.data.image_size
  keys = official_keys.official_keys(
    network.config.model, image_size=size, num_classes=network.num_classes
  )
  arrays = {keys[path]: array for path, array in network.arrays.items()}
  step = np.asarray(network.passport['step'], np.int64)
  tf_files.write_objects(folder / 'ckpt', {**arrays, 'global_step': step})

  def forward(images: np.ndarray) -> dict[str, np.ndarray]:
    read = importer.read(folder / 'ckpt', '').arrays
    return network.features(images, {p: read[k] for p, k in keys.items()})

  how = (
    '# In google-research/simclr/tf2, with the flags of this network:\n'
    'checkpoint = tf.train.Checkpoint(model=model, global_step=global_step)\n'
    "checkpoint.restore('ckpt').expect_partial()"
  )
  return Written(forward, how, {'layout': 'NHWC'})
