"""A frozen encoder: images -> h and z, with batch norm in inference mode.

The official linear evaluation normalises with the statistics of each batch and
goes on updating them, so what it reports is the accuracy of an encoder that is
not the saved one. Here an encoder cannot change: it is fingerprinted before and
after it is used (`frozen`), and a difference is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import hashlib
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax import models
from simclr_jax.training import checkpoint
from simclr_jax.training import mesh as mesh_lib
from simclr_jax.training import passport as passport_lib

_UNUSED = 'params/online_head/'
InputFn = Callable[[jax.Array], jax.Array]
KINDS = ('checkpoint', 'random_init', 'raw_pixels')


@dataclasses.dataclass(frozen=True)
class InputForm:
  """What networks of other codebases want of pictures in [0, 1].

  Ours want them as they are. Mean and standard deviation cannot be folded into
  the first convolution: its zero padding is zero after the normalisation.

  Attributes:
    mean, std: (picture - mean) / std, for each channel; None for neither.
    pad: Zeros put around the picture after that, in pixels.
  """

  mean: tuple[float, ...] | None = None
  std: tuple[float, ...] | None = None
  pad: int = 0

  def apply(self, images_NxHxWx3: jax.Array) -> jax.Array:
    """Images as the network wants them."""
    if self.mean is not None and self.std is not None:
      dtype = images_NxHxWx3.dtype
      mean, std = jnp.asarray(self.mean, dtype), jnp.asarray(self.std, dtype)
      images_NxHxWx3 = (images_NxHxWx3 - mean) / std
    if self.pad:
      side = (self.pad, self.pad)
      images_NxHxWx3 = jnp.pad(images_NxHxWx3, ((0, 0), side, side, (0, 0)))
    return images_NxHxWx3


def input_form(passport: Mapping[str, Any]) -> InputForm:
  """As a passport (or an export.json) states it under 'preprocessing'."""
  stated = passport.get('preprocessing', {})
  mean, std = stated.get('mean'), stated.get('std')
  return InputForm(
    mean=None if mean is None else tuple(mean),
    std=None if std is None else tuple(std),
    pad=stated.get('pad', 0),
  )


def resize_warning(passport: Mapping[str, Any]) -> str:
  """Says so where the weights were trained on images shrunk in another way.

  '' where they were not: that is known of imported weights alone.
  """
  stated = passport.get('preprocessing', {})
  if not stated.get('trained_with_antialias') or stated.get('antialias'):
    return ''
  size, crop = stated['image_size'], stated.get('crop_fraction') or 1
  return (
    'these weights were trained on images that were shrunk with antialias, and '
    f'images are shrunk without here. Of images much larger than {size} px '
    'features differ: their cosine with those of the original program is about '
    '0.9 for photographs of 5 megapixels. For its features give images that '
    'have been shrunk before, with antialias (by Pillow or torchvision), to a '
    f'short side of {round(size / crop)} px'
  )


@dataclasses.dataclass
class Encoder:
  """Images to features on every device of a mesh.

  Attributes:
    kind: One of `KINDS`.
    apply_fn: (variables, images f32 [N,H,W,3]) -> {'h' [N,D], 'z' [N,d]}, both
      float32; compiled. Raw pixels have no z.
    variables: {'params', 'batch_stats'}, replicated over the mesh; {} for raw
      pixels.
    config: Of the run that trained it; its train.matmul_precision is that of
      the network here, too.
    mesh: Axis 'data'.
    input_form: What `apply_fn` does to the images before the network.
  """

  kind: str
  apply_fn: Callable[[Any, jax.Array], dict[str, jax.Array]]
  variables: Any
  config: config_lib.Config
  mesh: Mesh
  input_form: InputForm = InputForm()

  def encode(self, images: np.ndarray) -> dict[str, jax.Array]:
    """Features of this host's rows of a batch.

    Args:
      images: f32 [b,H,W,3] in [0,1], b a multiple of this host's devices.

    Returns:
      'h' [B,D] and (but for raw pixels) 'z' [B,d], sharded over the mesh,
      B = b * number of hosts.
    """
    batch = mesh_lib.put_batch({'image': images}, self.mesh)
    precision = self.config.train.matmul_precision
    with jax.set_mesh(self.mesh), jax.default_matmul_precision(precision):
      return self.apply_fn(self.variables, batch['image'])

  def fingerprint(self) -> str:
    """Hash of what the encoder is now, computed anew from the variables."""
    if self.kind == 'raw_pixels':
      return 'raw_pixels'
    return checkpoint.fingerprint(self.variables)

  def function_hash(self) -> str:
    """Hash of what else decides the features: the network, and the device.

    Equal variables give other features with another padding, say, and a TPU
    multiplies with fewer bits than a CPU unless it is told otherwise.
    """
    decisive: tuple[Any, ...] = (
      self.kind,
      self.config.model,
      self.config.data.image_size,
      self.config.train.matmul_precision,
      self.mesh.devices.flat[0].device_kind,
      jax.default_backend(),
    )
    if self.input_form != InputForm():
      decisive = (*decisive, self.input_form)
    return hashlib.sha256(repr(decisive).encode()).hexdigest()[:16]


def make_encoder(loaded: checkpoint.LoadedEncoder, *, mesh: Mesh) -> Encoder:
  """Encoder of a checkpoint; its passport says which network it is.

  The online head, if there is one, stays among the variables but is not used:
  so the fingerprint is that of the checkpoint.

  Raises:
    ValueError: If the variables do not fit the passport's network.
  """
  config = passport_lib.config_from_passport(loaded.passport)
  check_fits(loaded, config)
  model, _ = _model_and_shapes(config)
  form = input_form(loaded.passport)
  if warning := resize_warning(loaded.passport):
    logging.warning('%s: %s', loaded.path, warning)
  return Encoder(
    kind='checkpoint',
    apply_fn=make_apply_fn(model, input_fn=form.apply),
    variables=jax.device_put(loaded.variables, mesh_lib.replicated(mesh)),
    config=config,
    mesh=mesh,
    input_form=form,
  )


def make_random_encoder(
  config: config_lib.Config, *, mesh: Mesh, seed: int
) -> Encoder:
  """The same network, freshly initialised: the baseline to beat."""
  model, _ = _model_and_shapes(config)
  variables = models.init_variables(
    model, jax.random.key(seed), image_size=config.data.image_size
  )
  return Encoder(
    kind='random_init',
    apply_fn=make_apply_fn(model),
    variables=jax.device_put(variables, mesh_lib.replicated(mesh)),
    config=config,
    mesh=mesh,
  )


def make_raw_pixel_encoder(config: config_lib.Config, *, mesh: Mesh) -> Encoder:
  """No network: h is the pixels of the evaluation image, z is left out."""

  def apply_fn(variables: Any, images: jax.Array) -> dict[str, jax.Array]:
    del variables
    return {'h': images.reshape(images.shape[0], -1)}

  return Encoder(
    kind='raw_pixels',
    apply_fn=jax.jit(apply_fn),
    variables={},
    config=config,
    mesh=mesh,
  )


@contextlib.contextmanager
def frozen(encoder: Encoder) -> Iterator[str]:
  """Holds the encoder to being unchanged while it is used.

  Yields:
    Its fingerprint.

  Raises:
    ValueError: On leaving, if parameters or batch statistics have changed.
  """
  before = encoder.fingerprint()
  yield before
  after = encoder.fingerprint()
  if after != before:
    raise ValueError(
      'the encoder changed while it was being evaluated (fingerprint '
      f'{before[:12]} before, {after[:12]} after): no accuracy is reported, '
      'because it would not be that of the checkpoint'
    )


def make_apply_fn(
  model: Any, *, input_fn: InputFn | None = None
) -> Callable[..., dict[str, jax.Array]]:
  """Compiled inference; nothing is mutable, so statistics cannot be updated.

  Args:
    model: From `make_model`.
    input_fn: Applied to the images first.
  """

  @jax.jit
  def apply_fn(variables: Any, images: jax.Array) -> dict[str, jax.Array]:
    if input_fn is not None:
      images = input_fn(images)
    outputs = model.apply(variables, images, train=False)
    return {
      'h': outputs.h.astype(jnp.float32),
      'z': outputs.z.astype(jnp.float32),
    }

  return apply_fn


def _model_and_shapes(config: config_lib.Config) -> tuple[Any, Any]:
  """The network without the online head, and the shapes of its variables."""
  size = config.data.image_size
  model = models.make_model(config.model, image_size=size, num_classes=0)
  return model, models.abstract_variables(model, image_size=size)


def check_fits(
  loaded: checkpoint.LoadedEncoder, config: config_lib.Config
) -> None:
  """Every variable of the network is there, in its shape, and no other.

  Raises:
    ValueError: Naming those that are not.
  """
  _, shapes = _model_and_shapes(config)
  found = {
    k: v.shape
    for k, v in models.flat_paths(loaded.variables).items()
    if not k.startswith(_UNUSED)
  }
  wanted = {k: v.shape for k, v in models.flat_paths(shapes).items()}
  problems = [f'missing {name}' for name in wanted.keys() - found.keys()]
  problems += [f'unexpected {name}' for name in found.keys() - wanted.keys()]
  problems += [
    f'{name} has shape {found[name]}, the network {wanted[name]}'
    for name in wanted.keys() & found.keys()
    if found[name] != wanted[name]
  ]
  if problems:
    shown = '\n'.join(f'  - {p}' for p in sorted(problems)[:10])
    raise ValueError(
      f'the checkpoint {loaded.path} does not fit the network of its passport '
      f'({len(problems)} differences):\n{shown}'
    )
