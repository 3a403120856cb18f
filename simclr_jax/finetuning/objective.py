"""What a classifier is trained by: true labels, or a teacher's predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from simclr_jax import losses
from simclr_jax.finetuning import mixing
from simclr_jax.finetuning.config import (
  AugmentChanges,
  DistillConfig,
  FinetuneConfig,
)
from simclr_jax.objectives.objective import (
  ForwardFn,
  LossResult,
  Objective,
  PyTree,
)

FINETUNE, DISTILL = 'finetune', 'distill'
# Of a batch: what the teacher says of its pictures, [B, K].
TEACHER_LOGITS = 'teacher_logits'
InputFn = Callable[[jax.Array], jax.Array]
Metrics = dict[str, jax.Array]


def make_finetune(stage: FinetuneConfig, *, input_fn: InputFn) -> Objective:
  """Cross-entropy with true labels, of pictures that may be mixed.

  Args:
    stage: Its label_smoothing and augment.
    input_fn: From pictures in [0, 1] to what the network wants.
  """

  def loss_fn(
    forward: ForwardFn,
    params: PyTree,
    extra: PyTree,
    batch: Mapping[str, jax.Array],
    key: jax.Array,
  ) -> LossResult:
    images, share = batch['views'][:, 0], None
    if mixing.is_on(stage.augment):
      images, share = mixing.mix(images, key, augment=stage.augment)
    outputs, model_state = forward(params, input_fn(images))
    loss, metrics = label_loss(
      outputs.logits,
      batch['label'],
      share=share,
      smoothing=stage.label_smoothing,
    )
    z = losses.l2_normalize(outputs.h)
    return LossResult(loss, model_state, extra, metrics, z)

  return _objective(FINETUNE, loss_fn)


def make_distill(stage: DistillConfig, *, input_fn: InputFn) -> Objective:
  """Cross-entropy with the teacher's predictions (SimCLR v2, eq. 2 and 3).

  -sum_y P_teacher(y | x; T) log P_student(y | x; T), both softmax(logits / T),
  weighted with 1 - labelled_weight; the cross-entropy with true labels, of the
  pictures of the batch that have one, with labelled_weight.
  """
  weight = stage.labelled_weight

  def loss_fn(
    forward: ForwardFn,
    params: PyTree,
    extra: PyTree,
    batch: Mapping[str, jax.Array],
    key: jax.Array,
  ) -> LossResult:
    del key
    outputs, model_state = forward(params, input_fn(batch['views'][:, 0]))
    loss, metrics = teacher_loss(
      outputs.logits, batch[TEACHER_LOGITS], temperature=stage.temperature
    )
    if weight > 0:
      of_labels, more = label_loss(outputs.logits, batch['label'])
      loss = (1 - weight) * loss + weight * of_labels
      metrics |= {'label_loss': of_labels, **more}
    z = losses.l2_normalize(outputs.h)
    return LossResult(loss, model_state, extra, metrics, z)

  return _objective(DISTILL, loss_fn)


def label_loss(
  logits_BxK: jax.Array,
  label_B: jax.Array,
  *,
  share: jax.Array | None = None,
  smoothing: float = 0.0,
) -> tuple[jax.Array, Metrics]:
  """Mean cross-entropy over the rows that have a label, and accuracy on them.

  Args:
    logits_BxK: Of pictures that may be mixed with their neighbour's.
    label_B: Own labels; negative where there is none.
    share: Of the neighbour in the picture; None where nothing is mixed.
    smoothing: Share of the target that is spread over all classes.

  Returns:
    (loss, {'train_top1'}). The loss is NaN, which stops a run, if a label is
    not below K: data and classifier disagree on the classes.
  """
  dtype = jnp.promote_types(logits_BxK.dtype, jnp.float32)
  logits_BxK = logits_BxK.astype(dtype)
  num_classes = logits_BxK.shape[-1]
  targets = jax.nn.one_hot(jnp.maximum(label_B, 0), num_classes, dtype=dtype)
  has_label = label_B >= 0
  if share is not None:
    targets = (1 - share) * targets + share * mixing.swap(targets)
    has_label &= mixing.swap(has_label)
  targets = (1 - smoothing) * targets + smoothing / num_classes
  loss_B = -(targets * jax.nn.log_softmax(logits_BxK)).sum(-1)
  loss_B = jnp.where(label_B < num_classes, loss_B, jnp.nan)
  counted = has_label.astype(dtype)
  count = jnp.maximum(counted.sum(), 1)
  correct = (logits_BxK.argmax(-1) == label_B).astype(dtype)
  top1 = (correct * counted).sum() / count
  return (loss_B * counted).sum() / count, {'train_top1': top1}


def teacher_loss(
  student_BxK: jax.Array, teacher_BxK: jax.Array, *, temperature: float
) -> tuple[jax.Array, Metrics]:
  """Cross-entropy between the softened predictions, and how they compare.

  Returns:
    (loss, {'teacher_entropy', 'teacher_agreement'}): the loss cannot fall below
    the teacher's entropy (of the softened predictions, nats); the agreement is
    the share of pictures that both put into the same class.
  """
  dtype = jnp.promote_types(student_BxK.dtype, jnp.float32)
  student = jax.nn.log_softmax(student_BxK.astype(dtype) / temperature)
  teacher = jax.nn.log_softmax(teacher_BxK.astype(dtype) / temperature)
  predicted = jax.lax.stop_gradient(jnp.exp(teacher))
  loss = -(predicted * student).sum(-1).mean()
  same = student.argmax(-1) == teacher.argmax(-1)
  return loss, {
    'teacher_entropy': -(predicted * teacher).sum(-1).mean(),
    'teacher_agreement': same.astype(dtype).mean(),
  }


def describe_mixing(augment: AugmentChanges) -> str:
  """In words, for the recipe."""
  parts = []
  if augment.randaugment_layers:
    parts.append(
      f'RandAugment({augment.randaugment_layers}, '
      f'{augment.randaugment_magnitude})'
    )
  if augment.mixup_alpha > 0:
    parts.append(f'mixup {augment.mixup_alpha:g}')
  if augment.cutmix_alpha > 0:
    parts.append(f'CutMix {augment.cutmix_alpha:g}')
  if mixing.is_on(augment) and augment.mix_prob < 1:
    parts.append(f'in {augment.mix_prob:.0%} of the batches')
  return ', '.join(parts) or 'crop and flip alone'


def _objective(name: str, loss_fn: Any) -> Objective:
  return Objective(
    name=name,
    num_views=1,
    couples_batch=False,
    init_extra=lambda params: {},
    loss=loss_fn,
    after_update=lambda extra, params: extra,
  )
