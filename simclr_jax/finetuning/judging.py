"""Accuracy of a classifier: inference-mode batch norm, every picture once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax import models
from simclr_jax.data.source import Source
from simclr_jax.evaluation import encoder as encoder_lib
from simclr_jax.evaluation import features as features_lib
from simclr_jax.evaluation import intervals, occurring, ranks
from simclr_jax.training import state_sharding


@dataclasses.dataclass(frozen=True)
class Accuracy:
  """Of one classifier on one split.

  Attributes:
    top1, top5: In [0, 1]; top5 is None where five classes or fewer occur.
    top1_interval, top5_interval: 95 % bootstrap over the pictures.
    nll: Mean cross-entropy, nats; None where it is not finite.
    num_images: Judged.
    majority: Share of the commonest class, what guessing it would give.
    num_train_classes, num_test_classes: Classes that occur among the labels
      that it was fitted to, and is judged by.
    notes: What a reader of the number should know.
  """

  top1: float
  top5: float | None
  top1_interval: intervals.Interval
  top5_interval: intervals.Interval | None
  nll: float | None
  num_images: int
  majority: float
  num_train_classes: int
  num_test_classes: int
  notes: tuple[str, ...] = ()


class Judge:
  """Judges classifiers of one network; compiled once.

  Args:
    config: Of the classifier's run.
    num_classes: Of the classifier.
    classes: Those that it is fitted to labels of.
    input_form: What the network wants of pictures.
    mesh: Axis 'data'.
  """

  def __init__(
    self,
    config: config_lib.Config,
    *,
    num_classes: int,
    classes: Sequence[int],
    input_form: encoder_lib.InputForm,
    mesh: Mesh,
  ):
    self._config, self._mesh, self._classes = config, mesh, classes
    self._apply_fn = make_logits_fn(
      config, num_classes=num_classes, input_form=input_form
    )

  def logits(
    self,
    variables: Any,
    source: Source,
    *,
    stop_fn: Callable[[], bool] | None = None,
  ) -> tuple[np.ndarray, np.ndarray]:
    """(f32 [n, K], labels i32 [n]) of what has a label, in the source's order.

    Raises:
      features.GivenUp: If `stop_fn` said so.
      NoAccuracy: If nothing has a label.
    """
    classifier = encoder_lib.Encoder(
      kind='checkpoint',
      apply_fn=self._apply_fn,
      # A state may lie in pieces over the devices (train.state_sharding).
      variables=state_sharding.replicate(variables, self._mesh),
      config=self._config,
      mesh=self._mesh,
    )
    found = features_lib.encode_all(classifier, source, self._config, stop_fn)
    rows = np.flatnonzero(found['labels'] >= 0)
    if not len(rows):
      raise occurring.NoAccuracy(f'{source.name} has no labels to judge by')
    return found['logits'][rows], found['labels'][rows]

  def accuracy(
    self,
    variables: Any,
    source: Source,
    *,
    num_bootstrap: int,
    stop_fn: Callable[[], bool] | None = None,
  ) -> Accuracy:
    """Of these variables on a labelled split; see `logits`."""
    logits, labels = self.logits(variables, source, stop_fn=stop_fn)
    found = score(
      logits, labels, classes=self._classes, num_bootstrap=num_bootstrap
    )
    notes = occurring.unlabelled_notes(
      (source.name, len(labels), source.num_examples)
    )
    return dataclasses.replace(found, notes=(*notes, *found.notes))


def score(
  logits_nxK: np.ndarray,
  label_n: np.ndarray,
  *,
  classes: Sequence[int],
  num_bootstrap: int,
) -> Accuracy:
  """Accuracy of logits of a classifier that was fitted to `classes`."""
  found = occurring.find(classes, label_n)
  rank_n = np.asarray(
    ranks.rank_of_class(jnp.asarray(logits_nxK), jnp.asarray(label_n)[:, None])
  )
  first = rank_n == 0
  five = ranks.in_top5(rank_n, found)
  bootstrap = {'num_resamples': num_bootstrap}
  mean_nll = float(nll(logits_nxK, label_n).mean())
  return Accuracy(
    top1=float(first.mean()),
    top5=None if five is None else float(five.mean()),
    top1_interval=intervals.bootstrap_accuracy(first, **bootstrap),
    top5_interval=(
      None if five is None else intervals.bootstrap_accuracy(five, **bootstrap)
    ),
    nll=mean_nll if np.isfinite(mean_nll) else None,
    num_images=len(label_n),
    majority=float(np.bincount(label_n).max() / len(label_n)),
    num_train_classes=found.num_train_classes,
    num_test_classes=found.num_test_classes,
    notes=found.notes,
  )


def nll(logits_nxK: np.ndarray, label_n: np.ndarray) -> np.ndarray:
  """Cross-entropy [n] in float64, nats; infinite for a class beyond K."""
  logits = logits_nxK.astype(np.float64)
  logits -= logits.max(1, keepdims=True)
  known_n = label_n < logits.shape[1]
  own = np.full(len(label_n), -np.inf)
  own[known_n] = logits[known_n, label_n[known_n]]
  return np.asarray(np.log(np.exp(logits).sum(1)) - own)


def make_logits_fn(
  config: config_lib.Config,
  *,
  num_classes: int,
  input_form: encoder_lib.InputForm,
) -> Callable[[Any, jax.Array], dict[str, jax.Array]]:
  """Compiled (variables, images [N,H,W,3]) -> {'logits' f32 [N,K]}."""
  model = models.make_model(
    config.model, image_size=config.data.image_size, num_classes=num_classes
  )

  @jax.jit
  def apply_fn(variables: Any, images: jax.Array) -> dict[str, jax.Array]:
    outputs: Any = model.apply(variables, input_form.apply(images), train=False)
    return {'logits': outputs.logits.astype(jnp.float32)}

  return apply_fn
