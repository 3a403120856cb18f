"""What follows from a config once data set and devices are known (pure)."""

from __future__ import annotations

import dataclasses
import math

from simclr_jax import config as config_lib
from simclr_jax import durations, loss_choice


@dataclasses.dataclass(frozen=True)
class Resolved:
  """Derived numbers of a pretraining run.

  Attributes:
    num_examples: Training images.
    num_classes: Classes of the labels; 0 without labels.
    num_devices, num_hosts: Of the mesh.
    per_device_batch, per_host_batch: Images.
    micro_batch: Images of all devices that go through the network at once.
    steps_per_epoch: num_examples / batch_size, not rounded.
    total_steps, warmup_steps: Optimizer steps.
    peak_lr: After scaling with the batch.
    log_every_steps, diagnostics_every_steps: Periods; 0 is never.
    checkpoint_every_steps, knn_every_steps: Likewise.
    negatives_per_anchor: 2 * (batch_size - 1) for two views.
    loss_implementation, loss_chunk_size, loss_bytes_per_device: What the
      objective chooses, see `loss_choice.LossChoice`.
  """

  num_examples: int
  num_classes: int
  num_devices: int
  num_hosts: int
  per_device_batch: int
  per_host_batch: int
  micro_batch: int
  steps_per_epoch: float
  total_steps: int
  warmup_steps: int
  peak_lr: float
  log_every_steps: int
  diagnostics_every_steps: int
  checkpoint_every_steps: int
  knn_every_steps: int
  negatives_per_anchor: int
  loss_implementation: str
  loss_chunk_size: int
  loss_bytes_per_device: int


def stem_of(model: config_lib.ModelConfig, image_size: int) -> str:
  """'cifar' or 'imagenet'; 'auto' takes CIFAR's up to 32 px."""
  if model.stem != 'auto':
    return model.stem
  return 'cifar' if image_size <= 32 else 'imagenet'


def settle(config: config_lib.Config) -> config_lib.Config:
  """`config` with what 'auto' decides of the weights' form written out.

  A checkpoint's passport holds this: whoever uses the weights with images of
  another size must not decide again.
  """
  stem = stem_of(config.model, config.data.image_size)
  model = dataclasses.replace(config.model, stem=stem)
  return dataclasses.replace(config, model=model)


def scale_lr(base_lr: float, batch_size: int, scaling: str) -> float:
  """Peak learning rate (official model.py:WarmUpAndCosineDecay)."""
  if scaling == 'linear':
    return base_lr * batch_size / 256
  if scaling == 'sqrt':
    return base_lr * math.sqrt(batch_size)
  return base_lr


def resolve(
  config: config_lib.Config,
  *,
  num_examples: int,
  num_classes: int,
  num_devices: int,
  num_hosts: int = 1,
  num_views: int = 2,
  embedding_dim: int = 0,
) -> Resolved:
  """Derives a run's numbers.

  Args:
    config: Of the run.
    num_examples: Training images.
    num_classes: Classes of the labels; 0 without labels.
    num_devices: Of the mesh.
    num_hosts: Of the mesh.
    num_views: Of each image.
    embedding_dim: Width of z; 0 is model.head_dim, which it is unless a head of
      no layers gives h itself.

  Raises:
    ValueError: If the batch does not divide over the devices (and the
      micro-batches over them), is larger than
      the data set, the warm-up is longer than the run, or the best checkpoint
      is to be chosen by a metric that checkpoints would not have.
  """
  batch = config.train.batch_size
  problems = []
  parts = config.train.micro_batches
  # A single view has no negatives, so an image may come twice.
  most = num_examples if num_views > 1 else batch
  fits = _fitting_batch(batch, multiple=num_devices * parts, most=most)
  if batch % num_devices:
    problems.append(
      f'config.train.batch_size = {batch} does not divide over {num_devices} '
      f'devices; --config.train.batch_size={fits} does'
    )
  elif batch // num_devices % parts:
    works = math.gcd(batch // num_devices, parts)
    problems.append(
      f'config.train.micro_batches = {parts} does not divide the '
      f'{batch // num_devices} images of each of {num_devices} devices (batch '
      f'{batch}): each micro-batch takes as many from every device; '
      f'--config.train.micro_batches={works} does'
    )
  if num_devices % num_hosts:
    problems.append(
      f'{num_devices} devices do not divide over {num_hosts} hosts'
    )
  if batch > most:
    hint = f'; --config.train.batch_size={fits} fits' if fits <= most else ''
    problems.append(
      f'config.train.batch_size = {batch} is larger than the training split '
      f'({num_examples} images): a batch would hold an image twice and score '
      f'it as its own negative{hint}'
    )
  size = {'num_examples': num_examples, 'batch_size': batch}
  total = durations.total_steps(config.train.duration, **size)
  warmup = durations.warmup_steps(config.optim.warmup, total=total, **size)
  if warmup >= total and warmup > 0:
    problems.append(
      f'config.optim.warmup = {config.optim.warmup!r} ({warmup} steps) is not '
      f'shorter than config.train.duration = {config.train.duration!r} '
      f'({total} steps): the peak learning rate would never be reached; a '
      f"tenth of the run: --config.optim.warmup='{total // 10} steps'"
    )
  periods = {
    name: durations.period_in_steps(text, **size)
    for name, text in (
      ('log', config.train.log_every),
      ('diagnostics', config.train.diagnostics_every),
      ('checkpoint', config.checkpoint.every),
      ('knn', config.monitor.knn_every),
    )
  }
  problems += _best_metric_problems(
    config,
    checkpoint_steps=periods['checkpoint'],
    knn_steps=periods['knn'],
    num_classes=num_classes,
  )
  if problems:
    raise ValueError('\n'.join(problems))
  choice = loss_choice.choose(
    config.loss,
    num_rows=num_views * batch,
    dim=embedding_dim or config.model.head_dim,
    num_devices=num_devices,
  )
  return Resolved(
    num_examples=num_examples,
    num_classes=num_classes,
    num_devices=num_devices,
    num_hosts=num_hosts,
    per_device_batch=batch // num_devices,
    per_host_batch=batch // num_hosts,
    micro_batch=batch // parts,
    steps_per_epoch=num_examples / batch,
    total_steps=total,
    warmup_steps=warmup,
    peak_lr=scale_lr(config.optim.base_lr, batch, config.optim.lr_scaling),
    log_every_steps=periods['log'],
    diagnostics_every_steps=periods['diagnostics'],
    checkpoint_every_steps=periods['checkpoint'],
    knn_every_steps=periods['knn'],
    negatives_per_anchor=num_views * (batch - 1),
    loss_implementation=choice.implementation,
    loss_chunk_size=choice.chunk_size,
    loss_bytes_per_device=choice.bytes_per_device,
  )


def _fitting_batch(batch: int, *, multiple: int, most: int) -> int:
  """The largest multiple up to `batch` and `most`, at least one."""
  return max(min(batch, most) // multiple, 1) * multiple


def _best_metric_problems(
  config: config_lib.Config,
  *,
  checkpoint_steps: int,
  knn_steps: int,
  num_classes: int,
) -> list[str]:
  """Reasons why checkpoints would be without the metric that ranks them.

  Args:
    config: What is trained.
    checkpoint_steps: Steps between checkpoints.
    knn_steps: Steps between kNN evaluations; 0 is never.
    num_classes: Of the labels; 0 without.
  """
  if config.checkpoint.keep_best <= 0:
    return []
  where = f'config.checkpoint.best_metric = {config.checkpoint.best_metric!r}'
  if config.checkpoint.best_metric == 'online_top1' and num_classes < 2:
    return [
      f'{where} needs labels of two classes or more, and the training split '
      'has none; use --config.checkpoint.best_metric=loss'
    ]
  # A metric counts for the checkpoint of its own step. Where either period is
  # a multiple of the other, every rarer event falls together with the other.
  if (
    config.checkpoint.best_metric == 'knn_top1'
    and knn_steps
    and knn_steps % checkpoint_steps
    and checkpoint_steps % knn_steps
  ):
    return [
      f'{where}: config.monitor.knn_every = {config.monitor.knn_every!r} '
      f'({knn_steps} steps) and config.checkpoint.every = '
      f'{config.checkpoint.every!r} ({checkpoint_steps} steps) rarely or never '
      'fall on the same step, so most evaluations would choose no checkpoint; '
      'give both the same duration '
      f"(--config.checkpoint.every='{config.monitor.knn_every}'), or both in "
      'steps with one a multiple of the other'
    ]
  return []
