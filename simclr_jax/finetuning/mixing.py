"""mixup and CutMix: pictures and labels of neighbours in a batch, mixed.

Row i is mixed with row i + 1 or i - 1 (rows 2i and 2i + 1 with each other). A
batch comes in random order, so its neighbours are a random pair; and since both
lie on one device, no picture crosses devices, and the result does not depend on
how many there are. The share is drawn once for a batch, as in the code of both
papers.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from simclr_jax.finetuning.config import AugmentChanges


class Mixed(NamedTuple):
  """A batch of mixtures.

  Attributes:
    images: [B, H, W, C].
    share: Of the neighbour in every picture, and so in its label; scalar.
  """

  images: jax.Array
  share: jax.Array


def is_on(augment: AugmentChanges) -> bool:
  """Whether any batch is mixed."""
  return augment.mix_prob > 0 and (
    augment.mixup_alpha > 0 or augment.cutmix_alpha > 0
  )


def mix(
  images_BxHxWxC: jax.Array, key: jax.Array, *, augment: AugmentChanges
) -> Mixed:
  """Mixes each picture with its neighbour; see `is_on`.

  mixup (Zhang et al. 2018, arXiv:1710.09412): the share is Beta(alpha, alpha),
  everywhere in the picture. CutMix (Yun et al. 2019, arXiv:1905.04899): a box
  of that share of the area, centred anywhere and cut off at the border, comes
  from the neighbour; the label's share is the area that is left of it.

  Args:
    images_BxHxWxC: Sharded on B; every device holds an even number.
    key: Of the step.
    augment: Its mixup_alpha, cutmix_alpha and mix_prob.

  Raises:
    ValueError: When traced, if a device holds an odd number of pictures.
  """
  _check_pairs(images_BxHxWxC)
  height, width = images_BxHxWxC.shape[1:3]
  decide, choose, first, second = jax.random.split(key, 4)
  maps = []
  if augment.mixup_alpha > 0:
    maps.append(mixup_map(first, augment.mixup_alpha, size=(height, width)))
  if augment.cutmix_alpha > 0:
    maps.append(cutmix_map(second, augment.cutmix_alpha, size=(height, width)))
  weight_HxW = maps[0]
  if len(maps) == 2:
    weight_HxW = jnp.where(jax.random.bernoulli(choose), maps[0], maps[1])
  is_mixed = jax.random.bernoulli(decide, augment.mix_prob)
  weight_HxW = jnp.where(is_mixed, weight_HxW, 0.0)
  weight = weight_HxW[None, :, :, None].astype(images_BxHxWxC.dtype)
  images = images_BxHxWxC * (1 - weight) + swap(images_BxHxWxC) * weight
  return Mixed(images, jnp.mean(weight_HxW))


def mixup_map(
  key: jax.Array, alpha: float, *, size: tuple[int, int]
) -> jax.Array:
  """Weight of the neighbour at every pixel: the same everywhere."""
  share = 1 - jax.random.beta(key, alpha, alpha)
  return jnp.broadcast_to(share, size)


def cutmix_map(
  key: jax.Array, alpha: float, *, size: tuple[int, int]
) -> jax.Array:
  """Weight of the neighbour at every pixel: 1 within a box, 0 outside."""
  of_share, of_centre = jax.random.split(key)
  share = 1 - jax.random.beta(of_share, alpha, alpha)
  inside = []
  centres = jax.random.uniform(of_centre, (2,))
  for axis, side in enumerate(size):
    # As the authors' code: whole pixels, cut off at the border.
    length = jnp.floor(side * jnp.sqrt(share)).astype(jnp.int32)
    centre = jnp.floor(centres[axis] * side).astype(jnp.int32)
    low = jnp.clip(centre - length // 2, 0, side)
    high = jnp.clip(centre + length // 2, 0, side)
    places = jnp.arange(side)
    inside.append((places >= low) & (places < high))
  return (inside[0][:, None] & inside[1][None, :]).astype(jnp.float32)


def swap(rows: jax.Array) -> jax.Array:
  """[B, ...] with rows 2i and 2i + 1 exchanged."""
  pairs = rows.reshape(-1, 2, *rows.shape[1:])
  return pairs[:, ::-1].reshape(rows.shape)


def _check_pairs(images: jax.Array) -> None:
  sharding = jax.typeof(images).sharding
  held = images.shape[0]
  if not sharding.mesh.empty:
    held = sharding.shard_shape(images.shape)[0]
  if held % 2:
    raise ValueError(
      f'mixup and CutMix mix pairs, and each device holds {held} pictures of a '
      'batch (or of a micro-batch); make config.train.batch_size a multiple of '
      'twice the number of devices'
    )
