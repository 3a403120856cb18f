"""Linear probe by the official protocol: SGD on augmented crops.

A linear classifier on h, normal(0, 0.01) weights, nesterov momentum 0.9,
learning rate base * batch / 256 with cosine decay and no warm-up, images
cropped and flipped at random (no colour), tested on centre crops. Weight decay
falls on kernel and bias: the official code spares the bias only under LARS.

The one difference is on purpose: batch norm is in inference mode.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import optax

from simclr_jax import config as config_lib
from simclr_jax import durations, resolve
from simclr_jax.data import part, pipeline
from simclr_jax.data import source as source_lib
from simclr_jax.data.progress import Progress
from simclr_jax.evaluation import encoder as encoder_lib
from simclr_jax.evaluation import features as features_lib
from simclr_jax.evaluation import linear_probe, logistic_regression
from simclr_jax.evaluation import occurring as occurring_lib
from simclr_jax.training import mesh as mesh_lib
from simclr_jax.training import optimizer as optimizer_lib

INIT_STD = 0.01


@dataclasses.dataclass(frozen=True)
class _Trained:
  """One classifier: weights and its last epoch's mean loss on crops."""

  kernel_DxK: np.ndarray
  bias_K: np.ndarray
  train_nll: float


def probe_official(
  encoder: encoder_lib.Encoder,
  train: source_lib.Source,
  test: source_lib.Source,
  config: config_lib.Config,
  *,
  cache_dir: epath.PathLike | None = None,
) -> linear_probe.ProbeResult:
  """Linear-probe accuracy under the official protocol.

  Args:
    encoder: Frozen.
    train: Training images; those without a label are left out.
    test: Held-out images; likewise.
    config: Reads `probe` (the first learning rate and weight decay), `data`,
      `augment` (crop and flip) and `eval`.
    cache_dir: Of the test features.

  Raises:
    NoAccuracy: If labels allow none.
    ValueError: If the encoder changed, the splits hold the same examples, the
      loss did not fall, or the batch does not divide.
  """
  probe = config.probe
  _check(train, test, config, encoder.mesh.size)
  workdir = None if cache_dir is None else epath.Path(cache_dir).parent
  whole, classes = train, np.arange(train.num_classes)
  if not part.are_complete(whole):
    classes = part.read_labels(whole, workdir=workdir)
    train = part.labelled(whole, classes)
  num_steps = durations.total_steps(
    f'{probe.epochs} epochs',
    num_examples=train.num_examples,
    batch_size=probe.batch_size,
  )
  peak_lr = resolve.scale_lr(probe.base_lrs[0], probe.batch_size, 'linear')
  with encoder_lib.frozen(encoder) as fingerprint:
    runs = [
      _train(encoder, train, config, seed=seed, num_steps=num_steps)
      for seed in range(probe.num_seeds)
    ]
    features = features_lib.extract_features(
      encoder, test, config, cache_dir=cache_dir
    )
    judged = features_lib.labelled(features)
    if features.encoder_fingerprint != fingerprint:
      raise ValueError('the encoder changed between training and test')
  train_nll = float(np.mean([run.train_nll for run in runs]))
  setting = (probe.base_lrs[0], probe.weight_decays[0])
  linear_probe.check_loss_fell(
    train_nll,
    num_classes=train.num_classes,
    setting=setting,
    advice='try other --probe.base_lrs (the first counts) or more '
    '--probe.epochs',
  )
  dim = runs[0].kernel_DxK.shape[0]
  fitted = logistic_regression.Fit(
    kernel_RxGxDxK=np.stack([run.kernel_DxK for run in runs])[:, None],
    bias_RxGxK=np.stack([run.bias_K for run in runs])[:, None],
    shift_D=np.zeros(dim, np.float32),
    scale_D=np.ones(dim, np.float32),
    batch_size=probe.batch_size,
    num_steps=num_steps,
    peak_lrs=np.array([peak_lr]),
  )
  scores = logistic_regression.score(
    fitted, judged.h, judged.labels, rows=np.arange(len(judged.labels))
  )
  return linear_probe.summarize(
    scores.rank_RxGxn[:, 0],
    judged.labels,
    mode='official',
    config=probe,
    num_classes=train.num_classes,
    occurring=occurring_lib.find(classes, judged.labels),
    train_nll=train_nll,
    num_train=train.num_examples,
    base_lr=setting[0],
    weight_decay=setting[1],
    peak_lr=peak_lr,
    batch_size=probe.batch_size,
    num_steps=num_steps,
    warnings=(
      *occurring_lib.unlabelled_notes(
        (whole.name, train.num_examples, whole.num_examples),
        (test.name, len(judged.labels), test.num_examples),
      ),
      *_ignored(probe),
    ),
  )


def crop_and_flip(
  augment: config_lib.AugmentConfig,
) -> config_lib.AugmentConfig:
  """The pretraining's crops and flips, without colour, blur and solarize."""
  return dataclasses.replace(
    augment, jitter_prob=0.0, gray_prob=0.0, blur_prob=0.0, solarize_prob=0.0
  )


def _train(
  encoder: encoder_lib.Encoder,
  source: source_lib.Source,
  config: config_lib.Config,
  *,
  seed: int,
  num_steps: int,
) -> _Trained:
  """Trains one classifier on h of augmented images."""
  probe, mesh = config.probe, encoder.mesh
  peak_lr = resolve.scale_lr(probe.base_lrs[0], probe.batch_size, 'linear')
  optimizer = optimizer_lib.make_optimizer(
    config_lib.OptimConfig(
      name='sgd',
      momentum=0.9,
      nesterov=True,
      weight_decay=probe.weight_decays[0],
      decay_exclude=(),
      adapt_exclude=(),
    ),
    optax.cosine_decay_schedule(peak_lr, num_steps),
  )
  batches = pipeline.train_batches(
    source,
    data=config.data,
    augment=crop_and_flip(config.augment),
    num_views=1,
    batch_size=probe.batch_size,
    seed=seed,
    num_steps=num_steps,
    host_index=jax.process_index(),
    num_hosts=jax.process_count(),
  )
  step_fn = _make_step_fn(optimizer, source.num_classes)
  # Of the last epoch: earlier ones describe another classifier.
  first_counted = num_steps - max(1, source.num_examples // probe.batch_size)
  losses: list[Any] = []
  params = opt_state = None
  progress = Progress('Official probe:', num_steps, unit='steps')
  with jax.set_mesh(mesh):
    for step, batch in enumerate(batches):
      h_BxD = encoder.encode(batch['views'][:, 0])['h']
      if params is None:
        params = _init(h_BxD.shape[1], source.num_classes, seed)
        opt_state = optimizer.init(params)
        params, opt_state = jax.device_put(
          (params, opt_state), mesh_lib.replicated(mesh)
        )
      label_B = mesh_lib.put_batch({'label': batch['label']}, mesh)['label']
      params, opt_state, loss = step_fn(params, opt_state, h_BxD, label_B)
      if step >= first_counted:
        losses.append(loss)
      progress.add(1)
  assert params is not None  # num_steps is at least 1
  linear = jax.tree.map(np.asarray, params['linear'])
  return _Trained(
    kernel_DxK=linear['kernel'],
    bias_K=linear['bias'],
    train_nll=float(np.mean([np.asarray(loss) for loss in losses])),
  )


def _init(dim: int, num_classes: int, seed: int) -> Any:
  normal = jax.random.normal(jax.random.key(seed), (dim, num_classes))
  return {
    'linear': {'kernel': INIT_STD * normal, 'bias': jnp.zeros(num_classes)}
  }


def _make_step_fn(
  optimizer: optax.GradientTransformation, num_classes: int
) -> Callable[..., Any]:
  """Compiled (params, opt_state, h, labels) -> (params, opt_state, loss)."""

  def loss_fn(params: Any, h_BxD: jax.Array, label_B: jax.Array) -> jax.Array:
    linear = params['linear']
    logits = linear['bias'] + jnp.dot(
      h_BxD, linear['kernel'], precision=jax.lax.Precision.HIGHEST
    )
    targets = jax.nn.one_hot(label_B, num_classes)
    return optax.softmax_cross_entropy(logits, targets).mean()

  def step(
    params: Any, opt_state: Any, h_BxD: jax.Array, label_B: jax.Array
  ) -> tuple[Any, Any, jax.Array]:
    loss, grads = jax.value_and_grad(loss_fn)(params, h_BxD, label_B)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss

  return jax.jit(step, donate_argnums=(0, 1))


def _check(
  train: source_lib.Source,
  test: source_lib.Source,
  config: config_lib.Config,
  num_devices: int,
) -> None:
  """Refuses before hours of training what can be refused."""
  features_lib.check_sources(train, test)
  features_lib.check_source_labels(train, test)
  if config.probe.batch_size % num_devices:
    raise ValueError(
      f'probe.batch_size = {config.probe.batch_size} does not divide over '
      f'{num_devices} devices; --probe.batch_size='
      f'{max(config.probe.batch_size // num_devices, 1) * num_devices} does'
    )
  if config.probe.labels_per_class:
    raise ValueError(
      "probe.labels_per_class is for probe.mode='features'; in the official "
      'mode name a smaller training split, such as '
      f"--data.train_split='{config.data.train_split.split('[')[0]}[:10%]'"
    )


def _ignored(probe: config_lib.ProbeConfig) -> tuple[str, ...]:
  """Says which swept values the official protocol does not try."""
  names = [
    name
    for name in ('base_lrs', 'weight_decays')
    if len(getattr(probe, name)) > 1
  ]
  return tuple(
    f'the official mode uses the first of probe.{name} only' for name in names
  )
