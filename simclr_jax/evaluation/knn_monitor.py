"""kNN accuracy of an encoder while it trains."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from typing import Any

from absl import logging
import jax
from jax.sharding import Mesh
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax import data
from simclr_jax.data import Source, part
from simclr_jax.evaluation import encoder as encoder_lib
from simclr_jax.evaluation import features as features_lib
from simclr_jax.evaluation import knn, occurring, splits
from simclr_jax.training import state_sharding

_BANK_SEED = 0


class KnnMonitor:
  """Judges the test split against (a part of) the training split.

  The number is the headline of `python -m simclr_jax.knn` (the first k, the
  first temperature), on a bank of at most `monitor.knn_max_bank` images. The
  same images every time, so that the curve shows the encoder and nothing else.
  """

  def __init__(
    self,
    config: config_lib.Config,
    *,
    workdir: str | None = None,
    train: Source | None = None,
  ):
    """Opens the splits, so that what is missing is said before training.

    Args:
      config: Of the run.
      workdir: Where a folder scan is cached.
      train: The training split, where the run has it open already.

    Raises:
      ValueError: If there is no test split, labels allow no accuracy, the bank
        has fewer labels than k, or batches do not divide over the hosts.
    """
    if not config.data.test_split:
      raise ValueError(
        'config.monitor.knn_every needs images to judge on that are not '
        f'trained on: {splits.advise(config.data.train_split)}; or '
        "--config.monitor.knn_every='0 steps'"
      )
    if train is None:
      train = data.make_source(
        config.data, config.data.train_split, workdir=workdir
      )
    self._test = data.make_source(
      config.data, config.data.test_split, workdir=workdir
    )
    # All of the training split: a few shared images could miss the bank.
    features_lib.check_sources(train, self._test)
    self._bank = random_part(part.labelled(train), config.monitor.knn_max_bank)
    self._test = part.labelled(self._test)
    _check_sizes(config, num_bank=self._bank.num_examples)
    features_lib.check_source_labels(
      self._bank, self._test, least=config.knn.ks[0]
    )
    logging.info(
      'kNN during training: bank %s (%d images), judged on %s (%d images)',
      self._bank.name,
      self._bank.num_examples,
      self._test.name,
      self._test.num_examples,
    )
    self._config = config
    self._knn = dataclasses.replace(
      config.knn,
      ks=config.knn.ks[:1],
      temperatures=config.knn.temperatures[:1],
    )
    self._apply_fn: Callable[..., Any] | None = None
    self._told = False

  def evaluate(
    self,
    model: Any,
    variables: Any,
    *,
    mesh: Mesh,
    stop_fn: Callable[[], bool] | None = None,
  ) -> dict[str, float] | None:
    """{'knn_top1': accuracy in [0, 1]} of these variables.

    None if `stop_fn`, asked before each batch by every process, said so.
    """
    if self._apply_fn is None:
      self._apply_fn = encoder_lib.make_apply_fn(model)
    encoder = encoder_lib.Encoder(
      kind='checkpoint',
      apply_fn=self._apply_fn,
      # A state may lie in pieces over the devices (train.state_sharding).
      variables=state_sharding.replicate(variables, mesh),
      config=self._config,
      mesh=mesh,
    )
    try:
      bank, test = (
        features_lib.extract_features(
          encoder, source, self._config, stop_fn=stop_fn
        )
        for source in (self._bank, self._test)
      )
    except features_lib.GivenUp:
      return None
    with jax.set_mesh(mesh):
      result = knn.knn_accuracy(bank, test, self._knn, mesh=mesh)
    self._tell(result)
    return {'knn_top1': result.headline.top1}

  def _tell(self, result: knn.KnnResult) -> None:
    """Logs, once, what the numbers rest on."""
    if self._told:
      return
    self._told = True
    logging.info(
      'kNN during training: %s in the bank, %s in the test split',
      occurring.classes_text(result.num_train_classes),
      occurring.classes_text(result.num_test_classes),
    )
    for warning in result.warnings:
      logging.warning('kNN during training: %s', warning)


def _check_sizes(config: config_lib.Config, *, num_bank: int) -> None:
  """Refuses what would otherwise fail at the first evaluation."""
  k = config.knn.ks[0]
  if k > num_bank:
    raise ValueError(
      f'config.knn.ks[0] = {k} is larger than the bank of {num_bank} labelled '
      'training images that config.monitor.knn_every judges with: '
      f'--config.knn.ks={num_bank}'
    )
  num_hosts = jax.process_count()
  if config.eval.batch_size % num_hosts:
    raise ValueError(
      f'config.eval.batch_size = {config.eval.batch_size} does not divide over '
      f'{num_hosts} hosts; --config.eval.batch_size='
      f'{max(config.eval.batch_size // num_hosts, 1) * num_hosts} does'
    )


def random_part(source: Source, max_examples: int) -> Source:
  """At most `max_examples` of a source, a fixed random choice in its order."""
  if source.num_examples <= max_examples:
    return source
  order = np.random.default_rng(_BANK_SEED).permutation(source.num_examples)
  rows = np.sort(order[:max_examples])
  return part.take(source, rows, name=f'{max_examples} at random')
