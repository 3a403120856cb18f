"""SimCLR (Chen et al. 2020, arXiv:2002.05709)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from simclr_jax import config as config_lib
from simclr_jax import loss_choice, losses
from simclr_jax.objectives import online_head
from simclr_jax.objectives.objective import (
  ForwardFn,
  LossResult,
  Objective,
  PyTree,
)

NUM_VIEWS = 2


def merge_views(views: jax.Array) -> jax.Array:
  """[B, V, H, W, C] -> [B*V, H, W, C]; rows V*i ... V*i+V-1 show image i.

  The batch stays the major axis, so every device keeps its own images:
  stacking view 1 over view 2 would move half of them between devices.
  """
  return views.reshape(-1, *views.shape[2:])


def label_views(label: jax.Array) -> jax.Array:
  """[B] -> [B*V], each label beside its image's views."""
  return jnp.broadcast_to(label[:, None], (*label.shape, NUM_VIEWS)).reshape(-1)


def contrast(
  z_NxD: jax.Array, loss: config_lib.LossConfig
) -> tuple[jax.Array, Mapping[str, jax.Array]]:
  """NT-Xent of row-sharded z in the form that config and memory ask for."""
  sharding = jax.typeof(z_NxD).sharding
  choice = loss_choice.choose(
    loss,
    num_rows=z_NxD.shape[0],
    dim=z_NxD.shape[1],
    num_devices=z_NxD.shape[0] // sharding.shard_shape(z_NxD.shape)[0],
  )
  settings: dict[str, Any] = {
    'temperature': loss.temperature,
    'scale': loss.scale,
  }
  if choice.implementation == 'ring':
    return losses.nt_xent_ring(
      z_NxD,
      chunk_size=choice.chunk_size,
      axis_name=sharding.spec[0],
      **settings,
    )
  keys_NxD = jax.reshard(z_NxD, P())  # The only all-gather: 2B x d.
  if choice.implementation == 'chunked':
    return losses.nt_xent_chunked(
      z_NxD, keys_NxD, chunk_size=choice.chunk_size, **settings
    )
  return losses.nt_xent(z_NxD, keys_NxD, **settings)


def make_simclr(config: config_lib.Config) -> Objective:
  """NT-Xent between two views of every image in the global batch."""

  def loss_fn(
    forward: ForwardFn,
    params: PyTree,
    extra: PyTree,
    batch: Mapping[str, jax.Array],
    key: jax.Array,
  ) -> LossResult:
    del key  # Nothing random happens after augmentation.
    outputs, model_state = forward(params, merge_views(batch['views']))
    z = losses.l2_normalize(outputs.z) if config.loss.normalize else outputs.z
    loss, metrics = contrast(z, config.loss)
    metrics = {'loss': loss, 'contrast_loss': loss, **metrics}
    if outputs.logits is not None:
      head_loss, head_metrics = online_head.online_head_loss(
        outputs.logits, label_views(batch['label'])
      )
      loss, metrics = loss + head_loss, {**metrics, **head_metrics}
    return LossResult(loss, model_state, extra, metrics, z)

  return Objective(
    name='simclr',
    num_views=NUM_VIEWS,
    couples_batch=True,
    init_extra=lambda params: {},
    loss=loss_fn,
    after_update=lambda extra, params: extra,
  )
