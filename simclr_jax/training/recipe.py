"""The resolved recipe in words, printed before the first step."""

from __future__ import annotations

import jax

from simclr_jax import losses, models
from simclr_jax.data import part
from simclr_jax.training import optimizer as optimizer_lib
from simclr_jax.training import state_sharding
from simclr_jax.training.run import Run
from simclr_jax.training.state import TrainState


def flops_per_step(run: Run) -> float:
  """FLOPs of forward and backward of one global step (model only).

  Forward cost of every view times three: the backward pass multiplies each
  weight and each activation once more (Kaplan et al. 2020, section 2.1).
  """
  images = run.config.train.batch_size * run.objective.num_views
  forward = models.count_flops(run.model, run.config.data.image_size)
  return 3.0 * images * forward


def _table(rows: list[tuple[str, str]]) -> str:
  width = max(len(name) for name, _ in rows)
  return '\n'.join(f'  {name:<{width}}  {value}' for name, value in rows)


def describe(run: Run, state: TrainState, *, start_step: int) -> str:
  """A block of text that says what this run is about to do."""
  config, resolved = run.config, run.resolved
  devices = run.mesh.devices.flat
  optim = config.optim
  labels = part.describe_labels(run.source, num_classes=resolved.num_classes)
  rows = [
    (
      'data',
      f'{run.source.name}: {resolved.num_examples:,} images, {labels}, '
      f'{len(run.source.skipped)} unreadable skipped',
    ),
    ('views', _views(run)),
    (
      'mesh',
      f'{len(devices)} x {devices[0].device_kind} on '
      f'{resolved.num_hosts} host(s), axes {dict(run.mesh.shape)}',
    ),
    (
      'batch',
      f'{config.train.batch_size} images ({resolved.per_device_batch} per '
      f'device, {resolved.per_host_batch} per host)',
    ),
    *_micro_batches(run),
    *(_nt_xent(run) if run.loss_rows is None else run.loss_rows),
    (
      'steps',
      f'{resolved.total_steps:,} ({resolved.steps_per_epoch:.1f} per epoch), '
      f'{resolved.warmup_steps:,} of warm-up',
    ),
    (
      'learning rate',
      f'{optim.schedule}, peak {resolved.peak_lr:g} '
      f'({optim.base_lr:g}, {optim.lr_scaling} scaling)',
    ),
    ('parameters', _parameters(run, state)),
    ('state', _state(run, state)),
    (
      'start',
      f'checkpoint of step {start_step:,}'
      if start_step
      else f'step 0, {run.beginning}',
    ),
  ]
  groups = optimizer_lib.describe_parameters(state.params, optim)
  return '\n'.join(
    [
      f'{run.objective.name}:',
      _table(rows),
      f'{optim.name}, weight decay {optim.weight_decay:g}:',
      *(f'  {line}' for line in optimizer_lib.format_groups(groups)),
    ]
  )


def _micro_batches(run: Run) -> list[tuple[str, str]]:
  """A row where a batch goes through the network in parts."""
  train, resolved = run.config.train, run.resolved
  if train.micro_batches == 1:
    return []
  per_device = resolved.micro_batch // resolved.num_devices
  kind = {
    'exact': 'one loss over all (exact; the network runs forward twice)',
    'plain': 'the mean of their losses (plain)',
  }[train.accumulation]
  return [
    (
      'micro-batches',
      f'{train.micro_batches} of {resolved.micro_batch} images ({per_device} '
      f'per device), {kind}; batch norm sees one at a time',
    )
  ]


def _state(run: Run, state: TrainState) -> str:
  """How much of it each device holds."""
  stored = (state.params, state.opt_state)
  whole = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(stored))
  held = state_sharding.bytes_per_device(stored)
  return (
    f'{run.config.train.state_sharding}: {held / 2**20:,.1f} of '
    f'{whole / 2**20:,.1f} MiB of parameters and optimizer state per device'
  )


def _nt_xent(run: Run) -> list[tuple[str, str]]:
  config = run.config
  chance = losses.chance_loss(config.train.batch_size, config.loss.scale)
  return [
    (
      'loss',
      f'NT-Xent, temperature {config.loss.temperature:g}, '
      f'{config.loss.scale} scale, {run.resolved.negatives_per_anchor:,} '
      f'negatives per anchor; uniform embeddings give {chance:.3f}',
    ),
    ('loss memory', _loss_memory(run)),
  ]


def _loss_memory(run: Run) -> str:
  resolved = run.resolved
  name, named = resolved.loss_implementation, run.config.loss.implementation
  keys = f', {resolved.loss_chunk_size:,} keys at a time'
  return (
    name
    + (keys if resolved.loss_chunk_size else '')
    + (' (chosen by auto)' if named == 'auto' else ' (by config)')
    + f', about {resolved.loss_bytes_per_device / 2**20:.3g} MiB per device'
  )


def _views(run: Run) -> str:
  """How many, of what size, and who makes them."""
  data = run.config.data
  makers = {
    'host': f'made on the host by the {data.loader} loader',
    'hybrid': f'cropped to uint8 by the {data.loader} loader, made on the '
    'devices',
    'device': 'made on the devices from pixels kept there',
  }
  return (
    f'{run.objective.num_views} of {data.image_size} px, '
    f'{makers[data.augment_on]}'
  )


def _parameters(run: Run, state: TrainState) -> str:
  parts = ', '.join(
    f'{name} {models.count_parameters(tree):,}'
    for name, tree in state.params.items()
  )
  flops = models.count_flops(run.model, run.config.data.image_size)
  return (
    f'{models.count_parameters(state.params):,} ({parts}); '
    f'{flops / 1e9:.3g} GFLOP forward per view'
  )
