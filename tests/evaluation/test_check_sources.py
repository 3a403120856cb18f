"""Splits that share examples are refused before anything is computed."""

from __future__ import annotations

import numpy as np
from PIL import Image
import pytest

from simclr_jax import config as config_lib
from simclr_jax import data
from simclr_jax.data import source as source_lib
from simclr_jax.data.sources import tfds_source
from simclr_jax.evaluation import features as features_lib


def _make(source, *splits, workdir=None, **fields):
  config = config_lib.DataConfig(source=source, **fields)
  return [data.make_source(config, s, workdir=workdir) for s in splits]


@pytest.mark.parametrize('source', ['digits', 'procedural'])
@pytest.mark.parametrize(
  'train,test,count',
  [
    ('train', 'train[:100]', 100),
    ('train[:100]', 'train', 100),
    ('train[:60]', 'train[50:]', 10),
    ('train[:50]', 'train[50:90]', 0),
    ('train', 'test', 0),
  ],
)
def test_parts_of_generated_and_bundled_data(source, train, test, count):
  pair = _make(source, train, test)
  if not count:
    features_lib.check_sources(*pair)
    return
  # The first shared example is named.
  name = next(
    pair[0].example_id(i)
    for i in range(pair[0].num_examples)
    if i >= (50 if count == 10 else 0)
  )
  with pytest.raises(ValueError, match=f'^{count} examples .*e.g. {name}:'):
    features_lib.check_sources(*pair)


@pytest.fixture
def pictures(tmp_path):
  """a/cat, a/dog, a/b/cat, a/b/dog and c/cat, c/dog; two pictures each."""
  root = tmp_path / 'pictures'
  for folder in ('a', 'a/b', 'c'):
    for label in ('cat', 'dog'):
      (root / folder / label).mkdir(parents=True)
      for i in range(2):
        image = Image.fromarray(np.full((4, 4, 3), i, np.uint8))
        image.save(root / folder / label / f'{i}.png')
  return root


def _labelled(root, train, test):
  # Numbered by the second level, so that 'a' and 'a/b' have as many classes.
  pair = _make(
    'folder',
    train,
    test,
    workdir=root.parent / 'work',
    path=str(root),
    train_split=train,
    test_split=test,
  )
  return [
    source_lib.Source(**{**vars(source), 'num_classes': 2}) for source in pair
  ]


def test_folders_apart_pass(pictures):
  features_lib.check_sources(*_labelled(pictures, 'a', 'c'))


@pytest.mark.parametrize('train,test', [('a', 'a/b'), ('a/b', 'a')])
def test_a_folder_within_the_other(pictures, train, test):
  with pytest.raises(ValueError, match=r'^4 examples .*a/b/cat/0\.png:'):
    features_lib.check_sources(*_labelled(pictures, train, test))


def test_links_and_other_spellings_of_a_folder(pictures):
  (pictures / 'link').symlink_to('a/b')
  (pictures / 'd').mkdir()
  (pictures / 'd/x.png').symlink_to('../a/dog/1.png')
  for test, count in (('link', 4), ('./a/b', 4), ('c/../a/b/', 4), ('d', 1)):
    with pytest.raises(ValueError, match=f'^{count} examples '):
      features_lib.check_sources(*_labelled(pictures, 'a', test))


def _tfds(monkeypatch, parts):
  """The source of a part of a data set of shards, without any files.

  Args:
    monkeypatch: Replaces the steps that look at files.
    parts: (shard, skip, take) of each span.
  """
  shards, skip, take = zip(*parts, strict=True)
  spans = tfds_source._Spans(
    paths=[f'/data/x-train.tfrecord-0000{s}-of-00002' for s in shards],
    stamps=[(1,)] * len(parts),
    skip=np.array(skip),
    take=np.array(take),
    in_file=np.full(len(parts), 10),
  )
  features = tfds_source._Features('image', 'label', 3, (), True)
  for name, value in {
    '_load_builder': lambda data: None,
    '_find_features': lambda builder, data: features,
    '_find_spans': lambda builder, split, data: spans,
    '_make_reader': lambda builder, spans, workdir: None,
    '_fingerprint': lambda *args, tag: str(parts),
  }.items():
    monkeypatch.setattr(tfds_source, name, value)
  return _make('tfds', 'any', name='x')[0]


def test_records_of_tfds_files(monkeypatch):
  train = _tfds(monkeypatch, [(0, 0, 10), (1, 0, 5)])
  apart = _tfds(monkeypatch, [(1, 5, 5)])
  shared = _tfds(monkeypatch, [(1, 3, 4)])
  features_lib.check_sources(train, apart)
  with pytest.raises(
    ValueError, match=r'^2 examples .*00001-of-00002 record 3'
  ):
    features_lib.check_sources(train, shared)
