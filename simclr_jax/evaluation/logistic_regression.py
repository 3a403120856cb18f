"""Multinomial logistic regression: a grid of settings in one training.

Every (seed, learning rate, weight decay) is a row of one array, so a minibatch
is read once for all of them and a step is one large matrix product. Settings
are spread over the process' own devices; they do not talk to each other. Each
process of a pod does the same work and gets the same answer.

The features stay in host memory; `minibatches` brings them to the device.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import optax

from simclr_jax import durations, resolve
from simclr_jax.data.progress import Progress
from simclr_jax.evaluation import minibatches, ranks

MOMENTUM = 0.9
_SCORE_ROWS = 2048


@dataclasses.dataclass(frozen=True)
class Grid:
  """The settings of one training: seeds (R) x settings (G).

  Attributes:
    base_lrs, weight_decays: One per setting, [G].
    seeds: Of the order of examples, [R].
  """

  base_lrs: tuple[float, ...]
  weight_decays: tuple[float, ...]
  seeds: tuple[int, ...]


class Fit(NamedTuple):
  """Trained classifiers.

  Attributes:
    kernel_RxGxDxK, bias_RxGxK: Weights, on the standardised features.
    shift_D, scale_D: x -> (x - shift) * scale.
    batch_size: Examples of a step.
    num_steps: Steps taken.
    peak_lrs: After scaling with the batch, [G].
  """

  kernel_RxGxDxK: np.ndarray
  bias_RxGxK: np.ndarray
  shift_D: np.ndarray
  scale_D: np.ndarray
  batch_size: int
  num_steps: int
  peak_lrs: np.ndarray


class Scores(NamedTuple):
  """How classifiers do on labelled rows.

  Attributes:
    nll_RxG: Mean cross-entropy, nats; not finite where training diverged.
    rank_RxGxn: Classes scored above the true one (0: correct). Ties go to the
      lower class; logits that are not finite count as wrong.
  """

  nll_RxG: np.ndarray
  rank_RxGxn: np.ndarray


def fit(
  features_nxD: np.ndarray,
  labels_n: np.ndarray,
  *,
  rows: np.ndarray,
  grid: Grid,
  num_classes: int,
  batch_size: int,
  epochs: int,
  standardize: bool = False,
) -> Fit:
  """Minimises mean cross-entropy + weight_decay / 2 * |kernel|^2.

  SGD with Nesterov momentum 0.9, learning rate base * batch / 256 with cosine
  decay to 0 and no warm-up, over the official number of steps
  (`durations.total_steps`). Example order is that of `data.order`, so it is a
  function of the seed alone. The bias is not decayed.

  Args:
    features_nxD: float32 in host memory; may be a `np.memmap`.
    labels_n: Classes in [0, num_classes).
    rows: Indices of the training examples among the n.
    grid: Settings and seeds.
    num_classes: K.
    batch_size: Cut to the number of rows where that is smaller; the learning
      rate follows the batch that is used.
    epochs: Passes over the rows.
    standardize: Zero mean and unit variance over `rows` first.
  """
  batch_size = min(batch_size, len(rows))
  num_steps = durations.total_steps(
    f'{epochs} epochs', num_examples=len(rows), batch_size=batch_size
  )
  schedule = optax.cosine_decay_schedule(1.0, num_steps)
  peak_lrs = np.array(
    [resolve.scale_lr(lr, batch_size, 'linear') for lr in grid.base_lrs]
  )
  shift_D, scale_D = _standardization(features_nxD, rows, standardize)
  mesh = _mesh(len(peak_lrs))
  replicated = NamedSharding(mesh, P())
  by_setting = NamedSharding(mesh, P('setting'))
  lr_G = jax.device_put(_pad(peak_lrs, mesh), by_setting)
  decay_G = jax.device_put(_pad(np.array(grid.weight_decays), mesh), by_setting)
  # Zero, as the official linear evaluation (zero_init_logits_layer): the loss
  # starts at exactly log(num_classes).
  lead, dim = (len(grid.seeds), len(lr_G)), features_nxD.shape[1]
  params = jax.device_put(
    {
      'kernel': np.zeros((*lead, dim, num_classes), np.float32),
      'bias': np.zeros((*lead, num_classes), np.float32),
    },
    NamedSharding(mesh, P(None, 'setting')),
  )
  velocity = jax.tree.map(jnp.zeros_like, params)
  affine = jax.device_put((shift_D, scale_D), replicated)
  run_fn = _make_run_fn(mesh)
  chunks = minibatches.chunks(
    features_nxD,
    labels_n,
    rows=rows,
    seeds=grid.seeds,
    batch_size=batch_size,
    num_steps=num_steps,
    put=functools.partial(jax.device_put, device=replicated),
  )
  progress = Progress('Linear probe:', num_steps, unit='steps')
  for first_step, data in chunks:
    # The schedule is 0 past the end, so the padding of the last chunk moves
    # nothing and every chunk has the same shape.
    steps = first_step + np.arange(data.rows_TxRxB.shape[0])
    fall_T = jax.device_put(np.asarray(schedule(steps)), replicated)
    params, velocity = run_fn(
      params, velocity, lr_G, decay_G, affine, fall_T, data
    )
    progress.add(len(steps))
  num_settings = len(peak_lrs)
  return Fit(
    kernel_RxGxDxK=np.asarray(params['kernel'])[:, :num_settings],
    bias_RxGxK=np.asarray(params['bias'])[:, :num_settings],
    shift_D=shift_D,
    scale_D=scale_D,
    batch_size=batch_size,
    num_steps=num_steps,
    peak_lrs=peak_lrs,
  )


def score(
  fitted: Fit,
  features_nxD: np.ndarray,
  labels_n: np.ndarray,
  *,
  rows: np.ndarray,
) -> Scores:
  """Cross-entropy and rank of the true class on `rows`, for every setting."""
  num_seeds, num_settings = fitted.bias_RxGxK.shape[:2]
  params = jax.device_put(
    {'kernel': fitted.kernel_RxGxDxK, 'bias': fitted.bias_RxGxK}
  )
  affine = jax.device_put((fitted.shift_D, fitted.scale_D))
  nll_RxGxn = np.empty((num_seeds, num_settings, len(rows)), np.float32)
  rank_RxGxn = np.empty((num_seeds, num_settings, len(rows)), np.int32)
  for start in range(0, len(rows), _SCORE_ROWS):
    block = rows[start : start + _SCORE_ROWS]
    # Whole blocks only, so that the last one compiles nothing new.
    padded = np.resize(block, min(_SCORE_ROWS, len(rows)))
    nll, rank = _score_block(
      params, affine, features_nxD[padded], labels_n[padded]
    )
    stop = start + len(block)
    nll_RxGxn[..., start:stop] = np.asarray(nll)[..., : len(block)]
    rank_RxGxn[..., start:stop] = np.asarray(rank)[..., : len(block)]
  return Scores(
    nll_RxG=nll_RxGxn.mean(-1, dtype=np.float64), rank_RxGxn=rank_RxGxn
  )


def _logits(params: dict[str, jax.Array], x_RxBxD: jax.Array) -> jax.Array:
  """[R,G,B,K]; full precision, for the number must not depend on the device."""
  products = jnp.einsum(
    'rbd,rgdk->rgbk',
    x_RxBxD,
    params['kernel'],
    precision=jax.lax.Precision.HIGHEST,
  )
  return products + params['bias'][:, :, None]


def _objective(
  params: dict[str, jax.Array],
  x_RxBxD: jax.Array,
  labels_RxB: jax.Array,
  decay_G: jax.Array,
) -> jax.Array:
  """Sum over settings of their objectives: each one's gradient is its own."""
  nll_RxGxB = optax.softmax_cross_entropy_with_integer_labels(
    _logits(params, x_RxBxD),
    jnp.broadcast_to(
      labels_RxB[:, None],
      (*params['bias'].shape[:2], labels_RxB.shape[1]),
    ),
  )
  squares_RxG = jnp.sum(jnp.square(params['kernel']), axis=(2, 3))
  return jnp.sum(nll_RxGxB.mean(-1) + 0.5 * decay_G * squares_RxG)


@functools.lru_cache(maxsize=8)
def _make_run_fn(mesh: Mesh) -> Callable[..., Any]:
  """Compiled steps of one chunk, settings sharded over `mesh`."""
  momentum = optax.trace(MOMENTUM, nesterov=True)

  def run(
    params: Any,
    velocity: Any,
    lr_G: jax.Array,
    decay_G: jax.Array,
    affine: tuple[jax.Array, jax.Array],
    fall_T: jax.Array,
    data: minibatches.Chunk,
  ) -> tuple[Any, Any]:
    shift_D, scale_D = affine

    def step(carry: Any, inputs: Any) -> tuple[Any, None]:
      params, velocity = carry
      rows_RxB, fall = inputs
      x_RxBxD = (data.features_mxD[rows_RxB] - shift_D) * scale_D
      grads = jax.grad(_objective)(
        params, x_RxBxD, data.labels_m[rows_RxB], decay_G
      )
      updates, state = momentum.update(grads, optax.TraceState(velocity))
      rate_G = lr_G * fall
      params = {
        'kernel': params['kernel'] - rate_G[:, None, None] * updates['kernel'],
        'bias': params['bias'] - rate_G[:, None] * updates['bias'],
      }
      return (params, state.trace), None

    (params, velocity), _ = jax.lax.scan(
      step, (params, velocity), (data.rows_TxRxB, fall_T)
    )
    return params, velocity

  second = P(None, 'setting')
  mapped = jax.shard_map(
    run,
    mesh=mesh,
    in_specs=(second, second, P('setting'), P('setting'), P(), P(), P()),
    out_specs=(second, second),
  )
  return jax.jit(mapped, donate_argnums=(0, 1))


@jax.jit
def _score_block(
  params: dict[str, jax.Array],
  affine: tuple[jax.Array, jax.Array],
  features_bxD: jax.Array,
  labels_b: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """(cross-entropy, rank of the true class), each [R,G,b]."""
  shift_D, scale_D = affine
  x_bxD = (features_bxD - shift_D) * scale_D
  x_RxbxD = jnp.broadcast_to(x_bxD, (params['bias'].shape[0], *x_bxD.shape))
  logits = _logits(params, x_RxbxD)
  own = jnp.take_along_axis(logits, labels_b[None, None, :, None], axis=-1)
  rank = ranks.rank_of_class(logits, labels_b[None, None, :, None])
  finite = jnp.all(jnp.isfinite(logits), axis=-1)
  rank = jnp.where(finite, rank, logits.shape[-1])
  return jax.nn.logsumexp(logits, axis=-1) - own[..., 0], rank


def _mesh(num_settings: int) -> Mesh:
  """This process' devices, no more than there are settings."""
  devices = jax.local_devices()[:num_settings]
  return Mesh(np.array(devices), ('setting',), axis_types=(AxisType.Explicit,))


def _pad(values: np.ndarray, mesh: Mesh) -> np.ndarray:
  """Repeats settings until they divide over the devices."""
  size = -(-len(values) // mesh.size) * mesh.size
  return np.resize(np.asarray(values, np.float32), size)


def _standardization(
  features_nxD: np.ndarray, rows: np.ndarray, standardize: bool
) -> tuple[np.ndarray, np.ndarray]:
  """(mean, 1 / standard deviation) over rows; a constant one scales by 1."""
  dim = features_nxD.shape[1]
  if not standardize:
    return np.zeros(dim, np.float32), np.ones(dim, np.float32)
  # Two passes over blocks: no copy of the features, no cancellation.
  blocks = [rows[i : i + _SCORE_ROWS] for i in range(0, len(rows), _SCORE_ROWS)]
  total = sum(features_nxD[b].sum(0, dtype=np.float64) for b in blocks)
  mean = np.asarray(total) / len(rows)
  squares = sum(np.square(features_nxD[b] - mean).sum(0) for b in blocks)
  std = np.sqrt(np.asarray(squares) / len(rows))
  scale = 1 / np.where(std > 1e-6 * np.abs(mean) + 1e-12, std, 1.0)
  return mean.astype(np.float32), scale.astype(np.float32)
