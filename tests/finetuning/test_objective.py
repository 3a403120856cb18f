"""The two losses against NumPy, in value and gradient."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from simclr_jax.finetuning import judging, objective

BATCH, CLASSES = 6, 4


@pytest.fixture(scope='module')
def logits():
  rng = np.random.default_rng(0)
  return rng.normal(size=(2, BATCH, CLASSES)).astype(np.float32) * 2


def softmax(x):
  e = np.exp(x - x.max(1, keepdims=True))
  return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize('temperature', [1.0, 0.1, 3.0])
def test_teacher_loss(logits, temperature):
  student, teacher = logits
  p_teacher = softmax(teacher / temperature)
  p_student = softmax(student / temperature)
  (loss, metrics), grad = jax.value_and_grad(
    lambda s: objective.teacher_loss(s, teacher, temperature=temperature),
    has_aux=True,
  )(student)
  wanted = -(p_teacher * np.log(p_student)).sum(1).mean()
  assert float(loss) == pytest.approx(wanted, rel=1e-5)
  np.testing.assert_allclose(
    grad, (p_student - p_teacher) / temperature / BATCH, atol=2e-6
  )
  entropy = -(p_teacher * np.log(p_teacher + 1e-30)).sum(1).mean()
  assert float(metrics['teacher_entropy']) == pytest.approx(
    entropy, rel=1e-4, abs=1e-6
  )
  agreement = (student.argmax(1) == teacher.argmax(1)).mean()
  assert float(metrics['teacher_agreement']) == pytest.approx(agreement)


def test_a_student_equal_to_its_teacher_has_no_gradient(logits):
  teacher = logits[0]
  grad = jax.grad(
    lambda s: objective.teacher_loss(s, teacher, temperature=0.5)[0]
  )(teacher)
  np.testing.assert_allclose(grad, 0, atol=1e-7)


def test_rows_without_a_label_do_not_count(logits):
  labels = np.array([0, -1, 3, -1, 2, 1], np.int32)
  here = labels >= 0
  (loss, metrics), grad = jax.value_and_grad(
    objective.label_loss, has_aux=True
  )(logits[0], labels)
  p = softmax(logits[0])
  own = p[np.flatnonzero(here), labels[here]]
  assert float(loss) == pytest.approx(-np.log(own).mean(), rel=1e-5)
  np.testing.assert_allclose(
    grad,
    np.where(here[:, None], (p - np.eye(CLASSES)[labels]) / here.sum(), 0),
    atol=1e-6,
  )
  right = logits[0].argmax(1)[here] == labels[here]
  assert float(metrics['train_top1']) == pytest.approx(right.mean())
  nobody, _ = objective.label_loss(logits[0], np.full(BATCH, -1, np.int32))
  assert float(nobody) == 0


def test_a_class_that_the_classifier_lacks_stops_the_run(logits):
  labels = np.array([0, 1, 2, 3, CLASSES, 0], np.int32)
  assert np.isnan(objective.label_loss(logits[0], labels)[0])


def test_a_class_that_was_never_fitted_to_has_no_likelihood():
  found = judging.nll(np.zeros((2, 3), np.float32), np.array([1, 3]))
  np.testing.assert_allclose(found, [np.log(3), np.inf])
