"""Batches of views on the devices, wherever the views are made.

`config.data.augment_on` decides what the host sends: finished views, uint8
crops with their draws, or indices with their draws. The step sees views in
every case. On the devices views are made by a program of their own, one batch
ahead of the step, in the type that the network computes in; from the host they
come as float32, and the network rounds them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax import augmentation, processes
from simclr_jax.data import background, pipeline
from simclr_jax.data import plan as plan_lib
from simclr_jax.training import mesh as mesh_lib
from simclr_jax.training.run import Run

Arrays = Mapping[str, jax.Array]
Feed = Iterator[tuple[dict[str, jax.Array], np.ndarray]]


def train_feed(run: Run, *, start_step: int) -> Feed:
  """Batches of the run's steps from `start_step` on, under its mesh.

  With augment_on='device' the data set is put on the devices first.

  Yields:
    ({'views' [B,V,H,W,C] in [0, 1], 'label' i32 [B], and what the run's
    extend_batch_fn adds} as global arrays sharded on B, this host's example
    indices [b]).

  Raises:
    ValueError: If the data do not fit on the devices; while iterating, if an
      example cannot be used.
    retries.DataAway: While iterating, if one cannot be read now.
  """
  feed = _view_feed(run, start_step=start_step)
  if run.extend_batch_fn is None:
    return feed
  return _extended(feed, run.extend_batch_fn)


def _extended(feed: Feed, extend_fn: mesh_lib.FinishFn) -> Feed:
  for batch, index in feed:
    yield {**batch, **extend_fn(batch)}, index


def _view_feed(run: Run, *, start_step: int) -> Feed:
  config = run.config
  share: dict[str, Any] = {
    'augment': config.augment,
    'batch_size': config.train.batch_size,
    'seed': config.seed,
    'num_views': run.objective.num_views,
    'start_step': start_step,
    'num_steps': run.resolved.total_steps - start_step,
    'host_index': jax.process_index(),
    'num_hosts': jax.process_count(),
  }
  if config.data.augment_on == 'device':
    cache = augmentation.build_cache(
      run.source, data=config.data, mesh=run.mesh
    )
    plan = plan_lib.train_plan(
      run.source, image_size=config.data.image_size, **share
    )
    batches = background.run_ahead(
      augmentation.index_batches(plan, cache),
      ahead=config.data.prefetch_batches,
    )
    return mesh_lib.feed(batches, run.mesh, finish_fn=_from_cache(run, cache))
  if config.data.augment_on == 'hybrid':
    with processes.together():
      batches = pipeline.crop_batches(run.source, data=config.data, **share)
    batches = processes.begun(batches)
    return mesh_lib.feed(batches, run.mesh, finish_fn=_from_crops(run))
  with processes.together():
    batches = pipeline.train_batches(run.source, data=config.data, **share)
  return mesh_lib.feed(processes.begun(batches), run.mesh)


def _make_views_fn(run: Run) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """(pixels, draws) -> views in the type that the network computes in.

  The network would round them to it first thing: the same values, half the
  memory.
  """
  data, model = run.config.data, run.config.model
  view_fn = augmentation.make_device_views(
    run.config.augment,
    image_size=data.image_size,
    augment_on=data.augment_on,
  )
  if model.compute_dtype != 'bfloat16':
    return view_fn
  return lambda pixels, draws: view_fn(pixels, draws).astype(jnp.bfloat16)


def _from_crops(run: Run) -> mesh_lib.FinishFn:
  make_views = jax.jit(_make_views_fn(run))

  def finish(batch: Arrays) -> dict[str, jax.Array]:
    views = make_views(batch['crops'], batch['draws'])
    return {'views': views, 'label': batch['label']}

  return finish


def _from_cache(run: Run, cache: augmentation.PixelCache) -> mesh_lib.FinishFn:
  views_fn = _make_views_fn(run)

  # The pixels are an argument: closed over they would be in the program too.
  @jax.jit
  def make_views(pixels: Any, index: jax.Array, draws: jax.Array) -> jax.Array:
    return views_fn(pixels.take(index), draws)

  def finish(batch: Arrays) -> dict[str, jax.Array]:
    views = make_views(cache.pixels, batch['index'], batch['draws'])
    return {'views': views, 'label': batch['label']}

  return finish
