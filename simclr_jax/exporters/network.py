"""What is exported: a network of a checkpoint, cut down to its outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import pathlib
from typing import Any, NamedTuple

import flax
import jax
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax import models
from simclr_jax.evaluation import encoder as encoder_lib
from simclr_jax.training import checkpoint
from simclr_jax.training import passport as passport_lib

OUTPUTS = ('h', 'z', 'logits')
_ONLINE_BIAS = 'params/online_head/bias'
_SCOPES = {'h': 'backbone', 'z': 'head', 'logits': 'online_head'}

# Prepared pictures f32 [N, H, W, 3] -> {output: f32 [N, ...]}.
ForwardFn = Callable[[np.ndarray], dict[str, np.ndarray]]


class Written(NamedTuple):
  """What an exporter has written.

  Attributes:
    forward_fn: The other program's features, computed from the files.
    how_to_load: Python, for people.
    facts: JSON for export.json, about this format.
  """

  forward_fn: ForwardFn
  how_to_load: str
  facts: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Options:
  """What only some formats look at.

  Attributes:
    pickle: For torch formats, write a .pth beside the .safetensors.
    license: SPDX identifier of the weights for a model card; '' for none.
  """

  pickle: bool = False
  license: str = ''


# (network, new folder, options) -> what is in the folder now.
Exporter = Callable[['Network', pathlib.Path, Options], Written]


@dataclasses.dataclass(frozen=True)
class Network:
  """A network without what its outputs do not need.

  Attributes:
    arrays: {our flat path: float32 array}.
    config: Of the run; activations are float32.
    num_classes: Of the online head; 0 without the output logits.
    outputs: Out of `OUTPUTS`.
    input_form: What it wants of pictures in [0, 1].
    passport: Of the checkpoint.
  """

  arrays: dict[str, np.ndarray]
  config: config_lib.Config
  num_classes: int
  outputs: tuple[str, ...]
  input_form: encoder_lib.InputForm
  passport: Mapping[str, Any]

  @property
  def side(self) -> int:
    """Of the prepared pictures, in pixels, with `input_form.pad`."""
    return self.config.data.image_size + 2 * self.input_form.pad

  @property
  def num_features(self) -> int:
    """Width of h."""
    return models.num_features(self.config.model)

  @property
  def class_names(self) -> tuple[str, ...]:
    """One for each class; numbers where they are not known."""
    known = tuple(self.passport['data'].get('class_names', ()))
    if len(known) == self.num_classes:
      return known
    return tuple(str(k) for k in range(self.num_classes))

  def apply(
    self, arrays: Mapping[str, Any], images_NxHxWx3: jax.Array
  ) -> dict[str, jax.Array]:
    """The outputs asked for, for use under jit.

    Args:
      arrays: As `self.arrays`.
      images_NxHxWx3: Prepared.
    """
    model = models.make_model(
      self._model_config(),
      image_size=self.config.data.image_size,
      num_classes=self.num_classes,
    )
    variables = flax.traverse_util.unflatten_dict(dict(arrays), sep='/')
    with jax.default_matmul_precision('highest'):
      found = model.apply(variables, images_NxHxWx3, train=False)
    return {name: getattr(found, name) for name in self.outputs}

  def features(
    self, images: np.ndarray, arrays: Mapping[str, np.ndarray] | None = None
  ) -> dict[str, np.ndarray]:
    """Our own features of prepared pictures, in float32 on any device."""
    used = self.arrays if arrays is None else dict(arrays)
    found = self._compiled(used, images)
    return {name: np.asarray(value) for name, value in found.items()}

  @functools.cached_property
  def _compiled(self) -> Callable[..., dict[str, jax.Array]]:
    return jax.jit(self.apply)

  def _model_config(self) -> config_lib.ModelConfig:
    changes: dict[str, Any] = {'compute_dtype': 'float32'}
    if 'head' not in _scopes(self.config, self.outputs):
      changes |= {'head': 'none', 'classifier_layer': 0}
    return dataclasses.replace(self.config.model, **changes)


def make_network(
  loaded: checkpoint.LoadedEncoder, *, outputs: Sequence[str]
) -> Network:
  """The part of a checkpoint that the outputs need.

  Raises:
    ValueError: For outputs that are unknown or that the checkpoint has not.
  """
  unknown = [name for name in outputs if name not in OUTPUTS]
  if unknown or not outputs or len(set(outputs)) != len(outputs):
    raise ValueError(
      f'--outputs={",".join(outputs)}: wanted are some of {", ".join(OUTPUTS)} '
      '(backbone features, projections, online classifier), each once'
    )
  config = passport_lib.config_from_passport(loaded.passport, where=loaded.path)
  encoder_lib.check_fits(loaded, config)
  flat = models.flat_paths(loaded.variables)
  if 'logits' in outputs and _ONLINE_BIAS not in flat:
    raise ValueError(
      f'--outputs=logits: {loaded.path} has no online head (it was trained '
      'without labels, or with monitor.online_head=False)'
    )
  kept = _scopes(config, outputs)
  arrays = {
    path: np.asarray(array)
    for path, array in flat.items()
    if path.split('/')[1] in kept
  }
  wrong = [p for p, a in arrays.items() if a.dtype != np.float32]
  if wrong:
    raise ValueError(f'{wrong[0]} is {arrays[wrong[0]].dtype}, not float32')
  broken = [p for p, a in arrays.items() if not np.isfinite(a).all()]
  if broken:
    raise ValueError(
      f'{broken[0]} of {loaded.path} is not finite, nor are {len(broken) - 1} '
      'other arrays: the run has diverged; choose an older --step'
    )
  return Network(
    arrays=arrays,
    config=config,
    num_classes=len(flat[_ONLINE_BIAS]) if 'logits' in outputs else 0,
    outputs=tuple(outputs),
    input_form=encoder_lib.input_form(loaded.passport),
    passport=loaded.passport,
  )


def _scopes(config: config_lib.Config, outputs: Sequence[str]) -> set[str]:
  """Of the variables that the outputs need."""
  scopes = {_SCOPES[name] for name in outputs} | {'backbone'}
  # A classifier that was fine-tuned from a layer of the head needs that too.
  if 'logits' in outputs and config.model.classifier_layer:
    scopes.add('head')
  return scopes
