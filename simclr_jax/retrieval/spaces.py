"""The space that vectors live in: only those of one space can be compared."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import hashlib
import json
from typing import Any, NamedTuple

from jax.sharding import Mesh

from simclr_jax import config as config_lib
from simclr_jax.evaluation import encoder as encoder_lib
from simclr_jax.training import checkpoint
from simclr_jax.training import passport as passport_lib

KINDS = ('checkpoint', 'random_init')


class Space(NamedTuple):
  """An encoder with its preprocessing.

  Attributes:
    encoder: Frozen.
    config: How pictures are prepared for it (`data.image_size`, `eval`).
    hash: Of all that decides what the vectors mean. Devices are no part of it:
      vectors of a TPU and of a CPU differ by rounding alone.
    description: For files and people.
  """

  encoder: encoder_lib.Encoder
  config: config_lib.Config
  hash: str
  description: Mapping[str, Any]


def make_space(
  loaded: checkpoint.LoadedEncoder, *, mesh: Mesh, kind: str = 'checkpoint'
) -> Space:
  """Space of a checkpoint; everything about it is in the passport.

  Args:
    loaded: Checkpoint.
    mesh: Devices that encode.
    kind: 'random_init' for the same network, freshly initialised from the run's
      seed: the baseline.

  Raises:
    ValueError: If the checkpoint does not fit its passport, or the kind is
      unknown.
  """
  config = passport_lib.config_from_passport(loaded.passport)
  if kind == 'checkpoint':
    encoder = encoder_lib.make_encoder(loaded, mesh=mesh)
  elif kind == 'random_init':
    encoder = encoder_lib.make_random_encoder(
      config, mesh=mesh, seed=config.seed
    )
  else:
    raise ValueError(f'kind = {kind!r}: one of {", ".join(KINDS)}')
  decisive = {
    'kind': kind,
    'fingerprint': encoder.fingerprint(),
    'model': dataclasses.asdict(config.model),
    'image_size': config.data.image_size,
    'crop_fraction': config.eval.crop_fraction,
    'resize': config.eval.resize,
    'input': dataclasses.asdict(encoder.input_form),
  }
  text = json.dumps(decisive, sort_keys=True)
  return Space(
    encoder=encoder,
    config=config,
    hash=hashlib.sha256(text.encode()).hexdigest()[:32],
    description={
      'kind': kind,
      'checkpoint': loaded.path,
      'step': loaded.step,
      'fingerprint': decisive['fingerprint'],
      'preprocessing': loaded.passport.get('preprocessing', {}),
    },
  )
