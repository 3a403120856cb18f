"""TensorFlow checkpoints as named arrays: by name (TF1), by object (TF2)."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from simclr_jax.data.lazy_tf import tf
from simclr_jax.importers import packages
from simclr_jax.importers.format import Arrays

_GRAPH = '_CHECKPOINTABLE_OBJECT_GRAPH'
# What Keras adds in a SavedModel: other ways to the same variables.
_ALIASES = (
  'variables',
  'trainable_variables',
  'non_trainable_variables',
  'regularization_losses',
  'keras_api',
)


def open_checkpoint(source: pathlib.Path, *, for_what: str) -> Any:
  """TensorFlow's reader of a prefix, a folder with its newest, a SavedModel.

  Raises:
    ValueError: If there is nothing of the kind, or TensorFlow is missing.
  """
  packages.require('tensorflow', 'tensorflow_datasets', for_what=for_what)
  prefix = str(source)
  if source.is_dir():
    prefix = tf.train.latest_checkpoint(prefix) or prefix
    if (source / 'variables' / 'variables.index').is_file():
      prefix = str(source / 'variables' / 'variables')
  elif source.suffix == '.index':
    prefix = str(source.with_suffix(''))
  if not pathlib.Path(f'{prefix}.index').is_file():
    raise ValueError(
      f'--source={source}: no TensorFlow checkpoint; wanted is a prefix '
      '(run/ckpt-7, of which run/ckpt-7.index exists), a folder with a file '
      "'checkpoint', or a SavedModel"
    )
  try:
    return tf.train.load_checkpoint(prefix)
  except (tf.errors.OpError, ValueError) as error:
    raise ValueError(
      f'--source={source}: TensorFlow cannot read it: {_first_line(error)}'
    ) from error


def read_tensor(reader: Any, name: str) -> np.ndarray:
  """An array of a checkpoint.

  Raises:
    ValueError: If the file is damaged there.
  """
  try:
    return np.asarray(reader.get_tensor(name))
  except (tf.errors.OpError, ValueError) as error:
    raise ValueError(f'{name} cannot be read: {_first_line(error)}') from error


def names_of(reader: Any) -> list[str]:
  """All names (TF1) or keys (TF2) of a checkpoint, sorted."""
  return sorted(reader.get_variable_to_shape_map())


def has_object_graph(reader: Any) -> bool:
  """Whether `tf.train.Checkpoint` or a SavedModel wrote it."""
  return bool(reader.has_tensor(_GRAPH))


def object_keys(reader: Any, root: str) -> dict[str, str]:
  """{path of attributes from the root object: checkpoint key} below `root`.

  A variable that can be reached on several paths has the shortest one, without
  what Keras adds to a SavedModel.

  Args:
    reader: Of a file for which `has_object_graph`.
    root: Attributes from the checkpoint's root, e.g. 'model'.

  Raises:
    ValueError: If there is no such object.
  """
  from tensorflow.core.protobuf import trackable_object_graph_pb2

  graph = trackable_object_graph_pb2.TrackableObjectGraph()
  graph.ParseFromString(reader.get_tensor(_GRAPH))
  start = 0
  for attribute in filter(None, root.split('/')):
    children = {c.local_name: c.node_id for c in graph.nodes[start].children}
    if attribute not in children:
      raise ValueError(
        f'the checkpoint has no object {root!r}; its root has '
        f'{", ".join(sorted(children))} (name another one with --prefix)'
      )
    start = children[attribute]
  found: dict[str, str] = {}
  seen = {start}
  level = [(start, root)]
  while level:
    below = []
    for number, path in level:
      node = graph.nodes[number]
      for attribute in node.attributes:
        if attribute.name == 'VARIABLE_VALUE':
          found[path] = attribute.checkpoint_key
      for child in node.children:
        if child.node_id not in seen and child.local_name not in _ALIASES:
          seen.add(child.node_id)
          below.append((child.node_id, f'{path}/{child.local_name}'))
    level = below
  return found


def write_named(prefix: pathlib.Path, arrays: Arrays) -> None:
  """A checkpoint of arrays by name, as TF1's Saver writes it."""
  names = sorted(arrays)
  tf.raw_ops.SaveV2(
    prefix=str(prefix),
    tensor_names=names,
    shape_and_slices=[''] * len(names),
    tensors=[tf.constant(arrays[name]) for name in names],
  )


def write_objects(prefix: pathlib.Path, arrays: Arrays) -> None:
  """A checkpoint of arrays by path of attributes, as tf.train.Checkpoint's."""
  root = tf.train.Checkpoint()
  for path, array in arrays.items():
    *attributes, last = path.split('/')
    node = root
    for attribute in attributes:
      if getattr(node, attribute, None) is None:
        setattr(node, attribute, tf.Module())
      node = getattr(node, attribute)
    setattr(node, last, tf.Variable(array))
  root.write(str(prefix))


def _first_line(error: BaseException) -> str:
  return str(error).splitlines()[0][:300] if str(error) else repr(error)
