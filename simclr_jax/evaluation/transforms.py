"""Pictures changed in a known way before a frozen encoder sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses

from absl import logging
import jax
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax.data import Source
from simclr_jax.data.color_matrices import LUMA
from simclr_jax.evaluation import encoder as encoder_lib
from simclr_jax.evaluation import features as features_lib

# Images f32 [n,H,W,3] in [0,1] -> the same.
TransformFn = Callable[[np.ndarray, np.random.Generator], np.ndarray]
_SEED = 0


def make(noise_std: float) -> dict[str, TransformFn]:
  """By name of the variant.

  Args:
    noise_std: Standard deviation of Gaussian noise, of pixels in [0, 1].
  """
  return {
    'original': lambda images, generator: images,
    'gray': lambda images, generator: np.repeat(
      (images @ np.array(LUMA, np.float32))[..., None], 3, axis=-1
    ),
    **{f'rotated_{90 * k}': _turn(k) for k in (1, 2, 3)},
    'noisy': lambda images, generator: np.clip(
      images + generator.normal(0, noise_std, images.shape), 0, 1
    ).astype(images.dtype),
  }


def _turn(quarters: int) -> TransformFn:
  """Rotation against the clock."""
  return lambda images, generator: np.rot90(images, quarters, axes=(1, 2))


@dataclasses.dataclass
class _TransformingEncoder(encoder_lib.Encoder):
  """Transforms every picture before it is encoded.

  Noise is drawn batch after batch from one stream: no two pictures get the same
  (a fixed pattern would be learnt by heart), and the next call gets it again.

  Attributes:
    transform_fn: One of `make`.
    generator: Of the noise.
  """

  transform_fn: TransformFn = lambda images, generator: images
  generator: np.random.Generator = dataclasses.field(
    default_factory=np.random.default_rng
  )

  def encode(self, images: np.ndarray) -> dict[str, jax.Array]:
    """As `Encoder`."""
    changed = self.transform_fn(np.asarray(images), self.generator)
    return super().encode(np.ascontiguousarray(changed, np.float32))


def extract_variants(
  encoder: encoder_lib.Encoder,
  source: Source,
  config: config_lib.Config,
  *,
  variants: Sequence[str],
  noise_std: float,
  stream: int,
) -> dict[str, features_lib.Features]:
  """Features of every picture in every variant.

  Args:
    encoder: Frozen.
    source: A data split.
    config: As for `features.extract_features`.
    variants: Keys of `make`.
    noise_std: As for `make`.
    stream: Which random numbers; another for every split.
  """
  functions = make(noise_std)
  shared = {
    f.name: getattr(encoder, f.name)
    for f in dataclasses.fields(encoder_lib.Encoder)
  }
  found = {}
  for variant in variants:
    logging.info('features of %s: %s', source.name, variant)
    changing = _TransformingEncoder(
      **shared,
      transform_fn=functions[variant],
      generator=np.random.default_rng((_SEED, stream, jax.process_index())),
    )
    found[variant] = features_lib.extract_features(changing, source, config)
  return found


def one_variant_each(
  variants: Mapping[str, features_lib.Features], *, layer: str, seed: int
) -> features_lib.Features:
  """Every picture in one variant, at random, each equally often.

  So no picture is there twice, and the examples of a test are independent.

  Args:
    variants: Features of the same pictures, in the same order.
    layer: 'h' or 'z'.
    seed: Of the choice.

  Returns:
    Features whose `h` is that layer and whose labels say which variant.
  """
  parts = list(variants.values())
  count = len(parts[0].labels)
  chosen = np.arange(count) % len(parts)
  np.random.default_rng(seed).shuffle(chosen)
  rows = np.empty_like(getattr(parts[0], layer))
  for variant, part in enumerate(parts):
    rows[chosen == variant] = getattr(part, layer)[chosen == variant]
  return dataclasses.replace(
    parts[0],
    h=rows,
    z=rows,
    labels=chosen.astype(np.int32),
    num_classes=len(parts),
  )
