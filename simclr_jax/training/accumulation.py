"""A batch through the network in parts, with the loss of the whole batch.

The activations of a large batch do not fit on few devices; its embeddings do.
`exact_forward` is the network as one function of the whole batch that never
holds more than the activations of one micro-batch (GradCache, Gao et al. 2021,
https://arxiv.org/abs/2101.06983): forward, it keeps the outputs alone;
backward, it takes the gradient at the outputs, which is that of the loss of
all of them together, and runs each micro-batch again, forward and backward,
summing the gradients. An objective calls it like the network, as often and with
whatever parameters it likes, and knows nothing of it. The price is that second
forward pass: 4/3 of the arithmetic.

Batch norm sees one micro-batch (its images on all devices). That is all in
which this differs from the whole batch at once: normalisation by the statistics
of batch_size / micro_batches images. Which images these are does not depend on
the devices: every M-th. The moving statistics become the mean over the
micro-batches of what each would leave: the moving mean is that of the whole
batch as far as the layers before agree, the moving variance lacks the variance
between the means of micro-batches, as what training normalised by does.

Accumulation that is not exact is the usual one, the mean of the micro-batches'
losses: right only where an example's loss does not depend on the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import functools
from typing import Any, NamedTuple, TypeVar

import jax
from jax.custom_derivatives import SymbolicZero
import jax.numpy as jnp

from simclr_jax.objectives.objective import ForwardFn, LossResult
from simclr_jax.training.micro_batches import (
  join,
  rows_of_an_image,
  split,
  take,
)

PyTree = Any
C = TypeVar('C')
O = TypeVar('O')  # noqa: E741
# (params, model_state, images [N, H, W, C]) -> (outputs [N, ...] in any tree,
# new model_state).
ApplyFn = Callable[[PyTree, PyTree, jax.Array], tuple[Any, PyTree]]
# (params, extra, batch, key) -> LossResult.
LossFn = Callable[[PyTree, PyTree, Mapping[str, jax.Array], Any], LossResult]


class Accumulation(NamedTuple):
  """How a batch is divided.

  Attributes:
    micro_batches: M, parts of every batch; 1 is all at once.
    exact: By `exact_forward`, else the mean of the micro-batches' losses.
    unroll: The parts as M copies in the program, not one in a loop. Wanted on
      CPUs, where XLA's convolution gradients within a loop are 30 times slower;
      elsewhere it would only compile longer.
  """

  micro_batches: int = 1
  exact: bool = True
  unroll: bool = False


ALL_AT_ONCE = Accumulation()


def exact_forward(
  apply_fn: ApplyFn,
  model_state: PyTree,
  *,
  num_images: int,
  how: Accumulation,
  gather_fn: Callable[[PyTree], PyTree],
) -> ForwardFn:
  """`apply_fn` of a whole batch in the memory of a micro-batch.

  Differentiable (reverse mode) in the parameters alone: no gradient reaches the
  images, and none leaves the new model_state.

  Args:
    apply_fn: The network; row n of its outputs belongs to row n of the images.
    model_state: What every micro-batch starts from.
    num_images: B of the batch; the network is given one or more rows of each,
      which follow each other and stay in one micro-batch.
    how: With micro_batches above 1.
    gather_fn: From the parameters as they lie to those that `apply_fn` takes;
      gradients are summed as they lie.

  Returns:
    (params, images) -> (outputs in the order of the images, new model_state).
    A ValueError is raised, when traced, for images that do not divide.
  """

  def forward(
    params: PyTree, model_state: PyTree, images: jax.Array
  ) -> tuple[Any, PyTree]:
    def run(carry: None, part: _Part) -> tuple[None, tuple[Any, PyTree]]:
      params, model_state, images = part.operands
      return carry, apply_fn(params, model_state, take(images, part.number))

    group = rows_of_an_image(images, num_images)
    images = split(images, how.micro_batches, group=group)
    operands = (gather_fn(params), model_state, images)
    _, (outputs, states) = _one_by_one(run, None, operands, how)
    outputs = jax.tree.map(lambda x: join(x, group=group), outputs)
    return outputs, _mean(states)

  def keep(params: Any, model_state: Any, images: Any) -> tuple[Any, Any]:
    inputs = jax.tree.map(
      lambda primal: primal.value,
      (params, model_state, images),
      is_leaf=lambda x: isinstance(x, jax.custom_derivatives.CustomVJPPrimal),
    )
    return forward(*inputs), inputs

  def backward(inputs: Any, cotangents: Any) -> tuple[PyTree, None, None]:
    params, model_state, images = inputs
    # Outputs that the loss does not read cost nothing.
    slopes, structure = jax.tree.flatten(
      cotangents[0], is_leaf=lambda x: isinstance(x, SymbolicZero)
    )
    known = [not isinstance(slope, SymbolicZero) for slope in slopes]
    group = rows_of_an_image(images, num_images)
    parts = [
      split(x, how.micro_batches, group=group) if k else None
      for x, k in zip(slopes, known, strict=True)
    ]

    gathered, scatter = jax.vjp(gather_fn, params)

    def run(grads: PyTree, part: _Part) -> tuple[PyTree, None]:
      gathered, model_state, images, parts = part.operands
      outputs, pull = jax.vjp(
        lambda p: apply_fn(p, model_state, take(images, part.number))[0],
        gathered,
      )
      slopes = [
        jnp.zeros_like(y) if x is None else take(x, part.number)
        for x, y in zip(parts, jax.tree.leaves(outputs), strict=True)
      ]
      (more,) = pull(jax.tree.unflatten(structure, slopes))
      return _add(grads, *scatter(more)), None

    images = split(images, how.micro_batches, group=group)
    operands = (gathered, model_state, images, parts)
    grads, _ = _one_by_one(run, _zeros(params), operands, how)
    return _like(grads, params), None, None

  whole = jax.custom_vjp(forward)
  whole.defvjp(keep, backward, symbolic_zeros=True)
  return lambda params, images: _constant_state(
    whole(params, model_state, jax.lax.stop_gradient(images))
  )


def loss_and_grad(
  loss_fn: LossFn,
  params: PyTree,
  *,
  extra: PyTree,
  batch: Mapping[str, jax.Array],
  key: jax.Array,
  how: Accumulation,
) -> tuple[LossResult, PyTree]:
  """An objective's result and its gradient.

  Where `how` is not exact, loss, metrics and model_state are means over the
  micro-batches, and so is the gradient. Each micro-batch finds the `extra` that
  the one before it left, and a key of its own. Else the network sees to the
  micro-batches (`exact_forward`).

  Args:
    loss_fn: Of a batch; if not exact, a mean over its examples.
    params: What is differentiated.
    extra: The objective's own state.
    batch: Arrays of rows [B, ...].
    key: Of the step.
    how: In which parts.
  """
  grad_fn = jax.value_and_grad(_with_result(loss_fn), has_aux=True)
  if how.exact or how.micro_batches == 1:
    (_, result), grads = grad_fn(params, extra, batch, key)
    return result, grads

  def run(carry: Any, part: _Part) -> tuple[Any, LossResult]:
    grads, extra = carry
    params, batch, key = part.operands
    mine = {name: take(rows, part.number) for name, rows in batch.items()}
    (_, result), more = grad_fn(
      params, extra, mine, jax.random.fold_in(key, part.number)
    )
    return (_add(grads, more), result.extra), result._replace(extra={})

  rows = {
    name: split(x, how.micro_batches, group=1) for name, x in batch.items()
  }
  images = min(x.shape[0] for x in batch.values()) // how.micro_batches
  (grads, extra), results = _one_by_one(
    run, (_zeros(params), extra), (params, rows, key), how
  )
  result = LossResult(
    loss=jnp.mean(results.loss, axis=0),
    model_state=_mean(results.model_state),
    extra=extra,
    metrics=_mean(results.metrics),
    # Of one micro-batch, [N / M, d].
    z=join(results.z, group=rows_of_an_image(results.z[0], images)),
  )
  grads = jax.tree.map(lambda g: g / how.micro_batches, grads)
  return result, _like(grads, params)


class _Part(NamedTuple):
  """A micro-batch's number, and what all of them work on."""

  number: jax.Array | int
  operands: Any


def _one_by_one(
  run: Callable[[C, _Part], tuple[C, O]],
  carry: C,
  operands: Any,
  how: Accumulation,
) -> tuple[C, O]:
  """Micro-batches one after the other: (last carry, stacked results)."""
  if not how.unroll:
    return jax.lax.scan(
      lambda carry, number: run(carry, _Part(number, operands)),
      carry,
      jnp.arange(how.micro_batches),
    )
  results = []
  for number in range(how.micro_batches):
    carry, result = _as_a_unit(
      functools.partial(_run_part, run, number), carry, operands
    )
    results.append(result)
  return carry, jax.tree.map(lambda *x: jnp.stack(x), *results)


def _run_part(
  run: Callable[[C, _Part], tuple[C, O]], number: int, carry: C, operands: Any
) -> tuple[C, O]:
  return run(carry, _Part(number, operands))


def _as_a_unit(function: Callable[..., O], *args: Any) -> O:
  """function(*args), scheduled in one piece.

  As the branch of a condition that always holds. XLA for CPUs drops barriers
  before it orders a program, and then runs micro-batches side by side, holding
  the activations of all.
  """
  shapes = jax.eval_shape(function, *args)

  def never(*args: Any) -> O:
    del args
    return jax.tree.map(
      lambda x: jax.lax.full(x.shape, 0, x.dtype, sharding=x.sharding), shapes
    )

  # Nothing that the compiler can know to be true.
  always = jax.lax.optimization_barrier(jnp.array(True))
  return jax.lax.cond(always, function, never, *args)


def _with_result(loss_fn: LossFn) -> Callable[..., Any]:
  def loss_and_result(*args: Any) -> tuple[jax.Array, LossResult]:
    result = loss_fn(*args)
    return result.loss, result

  return loss_and_result


def _constant_state(result: tuple[Any, PyTree]) -> tuple[Any, PyTree]:
  outputs, model_state = result
  return outputs, jax.lax.stop_gradient(model_state)


def _mean(stacked: PyTree) -> PyTree:
  return jax.tree.map(lambda x: jnp.mean(x, axis=0), stacked)


def _zeros(params: PyTree) -> PyTree:
  """Where gradients are summed: float32 at least, laid out as params."""
  return jax.tree.map(
    lambda p: jnp.zeros_like(p, jnp.promote_types(p.dtype, jnp.float32)), params
  )


def _add(grads: PyTree, more: PyTree) -> PyTree:
  return jax.tree.map(lambda a, b: a + b.astype(a.dtype), grads, more)


def _like(grads: PyTree, params: PyTree) -> PyTree:
  return jax.tree.map(lambda g, p: g.astype(p.dtype), grads, params)
