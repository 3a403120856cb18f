"""Features of a whole data split: every example once, in order, cached."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import dataclasses
from typing import NamedTuple

from etils import epath
import jax
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax import processes, retries
from simclr_jax.data import part, pipeline
from simclr_jax.data import source as source_lib
from simclr_jax.data.progress import Progress
from simclr_jax.data.source import Batch
from simclr_jax.evaluation import encoder as encoder_lib
from simclr_jax.evaluation import feature_cache, neighbours
from simclr_jax.evaluation import occurring as occurring_lib
from simclr_jax.training import mesh as mesh_lib


class GivenUp(Exception):
  """Somebody asked to stop before all features were there."""


@dataclasses.dataclass(frozen=True)
class Features:
  """Features of n examples, in the order of the source.

  Attributes:
    h: f32 [n,D], output of the backbone.
    z: f32 [n,d], output of the projection head; the array h itself for raw
      pixels.
    labels: i32 [n]; -1 where there is none.
    num_classes: Of the source; 0 without labels.
    name: Of the source, for people.
    source_fingerprint, encoder_fingerprint: What they were computed from.
    num_left_out: Examples of the split that were left out before, for want of a
      label.
  """

  h: np.ndarray
  z: np.ndarray
  labels: np.ndarray
  num_classes: int
  name: str
  source_fingerprint: str
  encoder_fingerprint: str
  num_left_out: int = 0


def extract_features(
  encoder: encoder_lib.Encoder,
  source: source_lib.Source,
  config: config_lib.Config,
  *,
  cache_dir: epath.PathLike | None = None,
  stop_fn: Callable[[], bool] | None = None,
) -> Features:
  """Encodes every example of a source exactly once.

  All hosts call it and all get everything, in host memory: (D + d) * 4 bytes
  an example, 11 GB for ImageNet with ResNet-50.

  Args:
    encoder: Frozen encoder; its mesh is used.
    source: A data split.
    config: Its `data` and `eval` sections say how images are prepared.
    cache_dir: Folder of the on-disk cache ('WORKDIR/features'); None for no
      cache. An entry is used only if encoder, data and preprocessing are the
      same and it can be read whole; a damaged one is computed again.
    stop_fn: Asked before each batch; by every process.

  Raises:
    GivenUp: If `stop_fn` said so.
    ValueError: If the encoder changed meanwhile, an example came twice or not
      at all, or a feature is not finite.
  """
  entry = cached = None
  with encoder_lib.frozen(encoder) as fingerprint:
    if cache_dir is not None:
      entry = epath.Path(cache_dir) / feature_cache.entry_name(
        encoder, source, config
      )
      cached = feature_cache.read_entry(entry, source)
    arrays = cached or encode_all(encoder, source, config, stop_fn)
  features = Features(
    h=arrays['h'],
    z=arrays.get('z', arrays['h']),
    labels=arrays['labels'],
    num_classes=source.num_classes,
    name=source.name,
    source_fingerprint=source.fingerprint,
    encoder_fingerprint=fingerprint,
  )
  _check_finite(features, source)
  # Only now: what is refused must not be found by the next command.
  if entry is not None and cached is None:
    feature_cache.write_entry(entry, arrays)
  return features


class Comparable(NamedTuple):
  """The labelled examples of two splits.

  Attributes:
    train, test: Their features.
    occurring: The classes among their labels; its notes also count the examples
      without a label, which are left out.
  """

  train: Features
  test: Features
  occurring: occurring_lib.Occurring


def comparable(train: Features, test: Features) -> Comparable:
  """The part of both splits from which an honest test accuracy can follow.

  Raises:
    NoAccuracy: If a split has no labels, or training labels are of one class.
    ValueError: If labels are impossible, if test and training data are the
      same, or if two different encoders made them.
  """
  given, (train, test) = (train, test), (labelled(train), labelled(test))
  _check_two_splits(
    (train.name, train.num_classes, train.source_fingerprint),
    (test.name, test.num_classes, test.source_fingerprint),
  )
  if train.encoder_fingerprint != test.encoder_fingerprint:
    raise ValueError(
      'training and test features come from different encoders '
      f'({train.encoder_fingerprint[:12]} and {test.encoder_fingerprint[:12]}):'
      ' the encoder changed between them'
    )
  found = occurring_lib.find(train.labels, test.labels)
  notes = occurring_lib.unlabelled_notes(
    *(
      (all_.name, len(some.labels), len(all_.labels) + all_.num_left_out)
      for all_, some in zip(given, (train, test), strict=True)
    )
  )
  found = dataclasses.replace(found, notes=(*notes, *found.notes))
  return Comparable(train, test, found)


def check_sources(train: source_lib.Source, test: source_lib.Source) -> None:
  """The part of `comparable` that needs neither features nor labels.

  It asks both sources for the names of all their examples: some seconds for
  ImageNet.

  Raises:
    NoAccuracy: If a split has no labels.
    ValueError: If one is empty, or both have an example in common.
  """
  for source in (train, test):
    if not source.num_examples:
      raise ValueError(f'{source.name} is empty')
    if not source.num_classes:
      raise occurring_lib.NoAccuracy(
        f'{source.name} has no labels (for a folder that has a folder for '
        'each class: config.data.labels_from=folders)'
      )
  _check_two_splits(
    (train.name, train.num_classes, train.fingerprint),
    (test.name, test.num_classes, test.fingerprint),
  )
  held_out = {test.example_id(i) for i in range(test.num_examples)}
  both = [
    name
    for name in map(train.example_id, range(train.num_examples))
    if name in held_out
  ]
  if both:
    raise ValueError(
      f'{len(both)} examples are in {train.name} and in {test.name}, e.g. '
      f'{both[0]}: the accuracy would in part be that on the training images; '
      'make data.train_split and data.test_split disjoint'
    )


def check_source_labels(
  train: source_lib.Source, test: source_lib.Source, *, least: int = 1
) -> None:
  """Refuses, before anything is computed, labels that allow no accuracy.

  Where labels stand in the records it reads some of these, at random, until
  enough are found: few, unless they are missing.

  Args:
    train: Whose labels are learnt.
    test: Whose labels are judged by.
    least: Labels that the training split must have.

  Raises:
    NoAccuracy: If a split has too few, or `train` those of one class.
  """
  for source, number, classes in ((train, least, 2), (test, 1, 1)):
    found = part.some_labels(source, examples=number, classes=classes)
    if len(found) < number:
      raise occurring_lib.NoAccuracy(
        f'{source.name} has {len(found):,} labels, at least {number:,} '
        f'{"is" if number == 1 else "are"} needed'
      )
    if classes > 1:
      occurring_lib.require_two(set(found))


def labelled(features: Features) -> Features:
  """The examples that have a label.

  Raises:
    NoAccuracy: If none has.
    ValueError: If a label is no class.
  """
  labels, num_classes = features.labels, features.num_classes
  if not len(labels):
    raise ValueError(f'{features.name} is empty')
  rows = np.flatnonzero(labels >= 0) if num_classes else ()
  if not len(rows):
    raise occurring_lib.NoAccuracy(f'{features.name} has no labels')
  if labels.max() >= num_classes:
    raise ValueError(
      f'{features.name} has label {labels.max()}, but only {num_classes} '
      'classes'
    )
  if len(rows) == len(labels):
    return features
  return dataclasses.replace(
    features,
    h=features.h[rows],
    z=features.z[rows],
    labels=labels[rows],
  )


def _check_two_splits(
  train: tuple[str, int, str], test: tuple[str, int, str]
) -> None:
  """Each (name, number of classes, fingerprint)."""
  # More in the test split: classes behind those of training, see
  # data/sources/folder_classes.py.
  if train[1] > test[1]:
    raise ValueError(
      f'{train[0]} has {train[1]} classes, {test[0]} has {test[1]}: their '
      'labels do not mean the same'
    )
  if train[2] == test[2]:
    raise ValueError(
      f'{train[0]} and {test[0]} hold the same examples: the accuracy would be '
      'that on the training images; set data.test_split to a held-out split'
    )


def encode_all(
  encoder: encoder_lib.Encoder,
  source: source_lib.Source,
  config: config_lib.Config,
  stop_fn: Callable[[], bool] | None = None,
) -> dict[str, np.ndarray]:
  """What the encoder gives for every example once, and 'labels', in order.

  All hosts call it and all get everything. Arguments as of `extract_features`,
  which is this and its checks.

  Raises:
    GivenUp: If `stop_fn` said so.
    retries.DataAway: If data cannot be read, and it did not.
    ValueError: If an example came twice or not at all.
  """
  num_examples = source.num_examples
  times_seen = np.zeros(num_examples, np.int32)
  out: dict[str, np.ndarray] = {}
  batches = pipeline.eval_batches(
    source,
    data=config.data,
    eval_config=config.eval,
    host_index=jax.process_index(),
    num_hosts=jax.process_count(),
  )
  ahead = None
  progress = Progress(
    'Encoded', num_examples, unit=f'pictures of {source.name}'
  )
  for batch in _until_stopped(batches, stop_fn):
    batch = pad_rows(batch, len(encoder.mesh.local_devices))
    # Dispatched before the last one is fetched: devices work while we copy.
    encoded = encoder.encode(batch['image'])
    if ahead is not None:
      progress.add(_store(out, times_seen, ahead))
    # The same way as the images: whatever order the devices of the mesh and
    # their hosts have, row i of all of them is one example.
    rows = {name: batch[name].astype(np.int32) for name in ('label', 'index')}
    rows['mask'] = batch['mask']
    ahead = {**encoded, **mesh_lib.put_batch(rows, encoder.mesh)}
  if ahead is not None:
    progress.add(_store(out, times_seen, ahead))
  if not np.all(times_seen == 1):
    wrong = np.flatnonzero(times_seen != 1)
    raise ValueError(
      f'{wrong.size} examples of {source.name} were not seen exactly once '
      f'(example {wrong[0]}: {times_seen[wrong[0]]} times); the accuracy would '
      'not be that of the split'
    )
  return out


def _until_stopped(
  batches: Iterator[Batch], stop_fn: Callable[[], bool] | None
) -> Iterator[Batch]:
  """Batches until `stop_fn` says so; of a run, which goes on to save.

  Data that are away are a reason to ask it: in a run it has been told of them.
  """
  try:
    for batch in retries.one_ahead(processes.begun(batches)):
      if stop_fn is not None and stop_fn():
        raise GivenUp
      yield batch
  except retries.DataAway:
    if stop_fn is None or not stop_fn():
      raise
    raise GivenUp from None
  except processes.AgreedFailure as error:
    if stop_fn is None or not error.is_away:
      raise
    raise GivenUp from None


def _store(
  out: dict[str, np.ndarray],
  times_seen: np.ndarray,
  batch: Mapping[str, jax.Array],
) -> int:
  """Writes one global batch to its rows of `out`; how many examples."""
  rows: dict[str, np.ndarray] = neighbours.to_host(dict(batch))
  mask = rows.pop('mask')
  index = rows.pop('index')[mask]
  rows['labels'] = rows.pop('label')
  for name, values in rows.items():
    if name not in out:
      out[name] = np.zeros((len(times_seen), *values.shape[1:]), values.dtype)
    out[name][index] = values[mask]
  np.add.at(times_seen, index, 1)
  return len(index)


def pad_rows(
  batch: Mapping[str, np.ndarray], multiple: int
) -> dict[str, np.ndarray]:
  """Rows of zeros (mask False) until the batch divides over the devices."""
  missing = -len(batch['mask']) % multiple
  return {
    name: np.pad(rows, [(0, missing)] + [(0, 0)] * (rows.ndim - 1))
    for name, rows in batch.items()
  }


def _check_finite(features: Features, source: source_lib.Source) -> None:
  finite = np.isfinite(features.h).all(-1) & np.isfinite(features.z).all(-1)
  bad = np.flatnonzero(~finite)
  if bad.size:
    raise ValueError(
      f'the features of {bad.size} of {len(finite)} examples of '
      f'{features.name} are not finite (first: '
      f'{source.example_id(int(bad[0]))}); the encoder has diverged'
    )
