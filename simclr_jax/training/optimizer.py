"""Optimizers, composed of optax parts, and which parameters they spare.

The order of the parts is what the recipes depend on. For LARS (official
tf2/lars_optimizer.py): decay is added to the gradient, so the trust ratio sees
both; the ratio has no epsilon and is 1 where either norm is 0 (a parameter
that gets no gradient yet has ratio 0.001 / weight_decay: any epsilon would
change training); the learning rate is inside the momentum, so a change of the
rate does not rescale past gradients.
"""

from __future__ import annotations

from collections.abc import Callable
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from simclr_jax.config import OptimConfig
from simclr_jax.config_checks import PARAM_ROLES

# Any tree of arrays; here nested dicts {scope: {scope: {name: array}}}.
Tree = Any

_BATCH_NORM_SCOPE = re.compile(r'(^|_)bn')
_COLLECTIONS = ('params', 'batch_stats')
ONLINE_HEAD = 'online_head'


class ParamGroup(NamedTuple):
  """Parameters that the optimizer treats alike.

  Attributes:
    role: As `param_roles` gives it.
    decays: Whether weight decay applies.
    adapts: Whether the LARS trust ratio applies (never, for other optimizers).
    num_tensors, num_parameters: Arrays and their elements.
    names: 'scope/scope/name' of every array.
  """

  role: str
  decays: bool
  adapts: bool
  num_tensors: int
  num_parameters: int
  names: tuple[str, ...]


def param_roles(params: Tree) -> Tree:
  """The role of every parameter.

  Args:
    params: Nested dicts with top-level scopes such as 'backbone', 'head' and
      'online_head'; the values may be anything.

  Returns:
    The same structure with, first that applies: 'online_head' below the
    top-level scope of that name; 'batch_norm' where a scope is called bn or has
    a part that starts so ('bn1', 'shortcut_bn'); 'bias' for a leaf of that
    name; else 'kernel'.

  Raises:
    ValueError: If params are wrapped in a collection ('params'), or a
      normalisation scale lies in no 'bn' scope.
  """
  return jax.tree_util.tree_map_with_path(
    lambda path, _: _roles(_name(path))[0], params
  )


def make_optimizer(
  optim: OptimConfig,
  schedule: optax.Schedule,
  *,
  online_lr: float | None = None,
) -> optax.GradientTransformation:
  """Builds the optimizer; its state is arrays only, of the parameters' dtype.

  With g the gradient (clipped to global norm `clip_grad_norm` first, if that
  is above 0), w a parameter, and `decay` and `ratio` only where its role is not
  excluded:

    lars: g += decay * w; v = momentum * v + lr * ratio * g; w -= v, with
      ratio = trust_coefficient * |w| / |g|, 1 if either is 0.
    sgd: g += decay * w; v = momentum * v + lr * g; w -= v (Keras SGD).
    adam: g += decay * w; Adam as in Keras: epsilon is Kingma and Ba's 'epsilon
      hat', beside the square root of the second moment before its bias
      is corrected.
    adamw: the same without decay in g; w -= lr * (step + decay * w).

  Nesterov: w -= momentum * v + lr * ratio * g with the new v.

  The rate is `schedule(number of updates so far)`. `decay_exclude` and
  `adapt_exclude` spare a parameter whose role (`param_roles`) they hold. A bias
  below 'online_head' is spared also where they hold 'bias': so with the
  defaults the classifier's kernel decays and its bias does not, as in the
  official code, which puts that decay into the loss (the same gradient).

  Args:
    optim: Names and numbers.
    schedule: Step to learning rate.
    online_lr: If given, parameters below 'online_head' have SGD at this
      constant rate instead (no momentum, decay, clipping or part in the norm
      that `clip_grad_norm` bounds).

  Raises:
    ValueError: If the name or an excluded role is unknown.
  """
  _check_roles(optim)
  decay = optax.add_decayed_weights(
    optim.weight_decay, mask=_mask_fn(optim.decay_exclude)
  )
  learning_rate = optax.scale_by_learning_rate(schedule)
  momentum = optax.trace(optim.momentum, nesterov=optim.nesterov)
  if optim.name == 'lars':
    adapt = optax.masked(
      optax.scale_by_trust_ratio(trust_coefficient=optim.trust_coefficient),
      _mask_fn(optim.adapt_exclude),
    )
    parts = [decay, adapt, learning_rate, momentum]
  elif optim.name == 'sgd':
    parts = [decay, learning_rate, momentum]
  elif optim.name == 'adam':
    parts = [decay, _scale_by_keras_adam(optim), learning_rate]
  elif optim.name == 'adamw':
    parts = [_scale_by_keras_adam(optim), decay, learning_rate]
  else:
    raise ValueError(
      f'config.optim.name = {optim.name!r}: must be one of '
      "'lars', 'sgd', 'adam', 'adamw'"
    )
  if optim.clip_grad_norm > 0:
    parts.insert(0, optax.clip_by_global_norm(optim.clip_grad_norm))
  encoder = optax.chain(*parts)
  if online_lr is None:
    return encoder
  return optax.partition(
    {'encoder': encoder, ONLINE_HEAD: optax.sgd(online_lr)},
    lambda params: {
      scope: ONLINE_HEAD if scope == ONLINE_HEAD else 'encoder'
      for scope in params
    },
  )


def describe_parameters(params: Tree, optim: OptimConfig) -> list[ParamGroup]:
  """What the optimizer does to which parameters, for the table at the start.

  Args:
    params: Nested dicts of arrays or shape structs.
    optim: As for `make_optimizer`.

  Returns:
    One group for each (role, decays, adapts), the largest first. With
    weight_decay 0 nothing decays.

  Raises:
    ValueError: As `param_roles` and `make_optimizer`.
  """
  _check_roles(optim)
  members: dict[tuple[str, bool, bool], list[tuple[str, int]]] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    name = _name(path)
    roles = _roles(name)
    decays = optim.weight_decay > 0 and not set(roles) & set(
      optim.decay_exclude
    )
    adapts = optim.name == 'lars' and not set(roles) & set(optim.adapt_exclude)
    key = (roles[0], decays, adapts)
    members.setdefault(key, []).append((name, leaf.size))
  groups = [
    ParamGroup(
      role=role,
      decays=decays,
      adapts=adapts,
      num_tensors=len(entries),
      num_parameters=sum(size for _, size in entries),
      names=tuple(name for name, _ in entries),
    )
    for (role, decays, adapts), entries in members.items()
  ]
  return sorted(groups, key=lambda group: -group.num_parameters)


def format_groups(groups: list[ParamGroup]) -> list[str]:
  """Lines of text, one for each group, with its names.

  Numbers within names become '#', so that the blocks of a network share a
  name: 'backbone/layer#_#/conv#/kernel'.
  """
  lines = []
  for group in groups:
    names = dict.fromkeys(re.sub(r'\d+', '#', name) for name in group.names)
    lines.append(
      f'{group.role:<11} {"decays" if group.decays else "no decay":<8} '
      f'{"adapts" if group.adapts else "no trust ratio":<14} '
      f'{group.num_tensors:>4} arrays {group.num_parameters:>12,} parameters: '
      f'{", ".join(names)}'
    )
  return lines


def _scale_by_keras_adam(optim: OptimConfig) -> optax.GradientTransformation:
  """optax's Adam with Keras' epsilon.

  optax divides by sqrt(v / c) + eps, Keras by sqrt(v) + eps before it corrects
  by sqrt(c), c = 1 - b2^step: that is optax's formula with eps / sqrt(c), at
  the first step 32 times as much, which damps gradients below 1e-5.
  """

  def epsilon(count: jax.Array) -> jax.Array:
    return optim.adam_eps / jnp.sqrt(1 - optim.adam_b2 ** (count + 1))

  return optax.inject_hyperparams(
    optax.scale_by_adam,
    static_args=('b1', 'b2', 'eps_root', 'mu_dtype', 'nesterov'),
  )(b1=optim.adam_b1, b2=optim.adam_b2, eps=epsilon)


def _mask_fn(excluded: tuple[str, ...]) -> Callable[[Tree], Tree]:
  """Parameters to a tree of bools, false where a role is excluded."""

  def mask(params: Tree) -> Tree:
    return jax.tree_util.tree_map_with_path(
      lambda path, _: not set(_roles(_name(path))) & set(excluded), params
    )

  return mask


def _name(path: tuple[Any, ...]) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='/')


def _roles(name: str) -> tuple[str, ...]:
  """Role of the parameter 'scope/.../leaf'; for the online head, two.

  The second is the role that the parameter would have elsewhere, so that
  excluding biases reaches the online head's bias.
  """
  *scopes, leaf = name.split('/')
  top = scopes[0] if scopes else ''
  if top in _COLLECTIONS:
    raise ValueError(
      f'parameter {name!r} lies in the collection {top!r}: pass '
      f"variables['params'] alone; else the online head would not be found"
    )
  if any(_BATCH_NORM_SCOPE.search(scope) for scope in scopes):
    role = 'batch_norm'
  elif leaf == 'scale':
    raise ValueError(
      f"parameter {name!r} is a normalisation's scale but no scope of it is "
      "called 'bn...' or '..._bn...': it would get weight decay and a trust "
      'ratio like a kernel'
    )
  else:
    role = 'bias' if leaf == 'bias' else 'kernel'
  return (ONLINE_HEAD, role) if top == ONLINE_HEAD else (role,)


def _check_roles(optim: OptimConfig) -> None:
  for field in ('decay_exclude', 'adapt_exclude'):
    unknown = set(getattr(optim, field)) - set(PARAM_ROLES)
    if unknown:
      raise ValueError(
        f'config.optim.{field} holds {sorted(unknown)}: may only hold '
        f'{", ".join(PARAM_ROLES)}; an unknown role would exclude nothing'
      )
