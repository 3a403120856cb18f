"""Planted copies among features, and what the section says of them."""

from __future__ import annotations

import dataclasses
import types

from etils import epath
import jax
import numpy as np
import pytest

from simclr_jax import data as data_lib
from simclr_jax.evaluation import comparison, features
from simclr_jax.reports import document, near_duplicates, run_data
from simclr_jax.training import mesh as mesh_lib
from tests import small_run

N = 60


@pytest.fixture(scope='module')
def run():
  config = small_run.CONFIG
  return run_data.RunData(
    workdir=epath.Path('unused'),
    loaded=types.SimpleNamespace(step=3, passport={'objective': 'simclr'}),
    config=config,
    train=data_lib.make_source(config.data, f'train[:{N}]'),
    records=(),
    encoder=types.SimpleNamespace(mesh=mesh_lib.make_mesh(jax.devices()[:1])),
  )


def _judged(h, labels=None):
  labelled = labels is not None
  labels = np.zeros(len(h), np.int32) - 1 if labels is None else labels
  split = features.Features(h, h, labels, 3, 'n', 's', 'e')
  both = comparison.EncoderFeatures(split, split)
  return run_data.Judged(
    {'checkpoint': both}, test=None, held_out=True, labelled=labelled
  )


@pytest.fixture(scope='module')
def h():
  """Far apart but for 3 ~ 40 ~ 41 and 7 = 30, of any lengths."""
  h = np.random.default_rng(0).normal(size=(N, 32)).astype(np.float32)
  h[40], h[30] = h[3] + 0.02, 4 * h[7]
  h[41] = h[40] + 0.02
  return h


def _numbers(section):
  return {row[0].text: row[1].text for row in section.tables[0].rows}


def test_copies_are_counted_and_shown(run, h):
  labels = np.arange(N, dtype=np.int32) % 3
  section = near_duplicates.section(run, _judged(h, labels))
  assert _numbers(section) == {
    'groups': '2',
    'pictures that repeat another': '3',
    'groups of several classes': '2',  # 7 and 30, 3 and 40
  }
  (picture,) = section.pictures
  assert picture.png[:4] == b'\x89PNG' and 'orange' in picture.caption
  assert section.notes[0].startswith('Names, bytes and all groups')


def test_no_label_is_no_class(run, h, monkeypatch):
  labels = np.zeros(N, np.int32)
  labels[30] = -1  # Of 7 and 30.
  labels[[40, 41]] = -1, 2  # Of 3, 40 and 41: two classes.
  framed = []
  monkeypatch.setattr(
    near_duplicates.plots,
    'pair_sheet',
    lambda pairs, *, matches: framed.append(matches.tolist()) or None,
  )
  monkeypatch.setattr(near_duplicates.plots, 'to_png', lambda figure: b'')
  section = near_duplicates.section(run, _judged(h, labels))
  assert _numbers(section)['groups of several classes'] == '1'
  # 3 and 40 are the first two of their group.
  assert framed == [[None, None]]


def test_without_labels_there_are_no_frames(run, h):
  section = near_duplicates.section(run, _judged(h))
  assert list(_numbers(section)) == ['groups', 'pictures that repeat another']
  assert 'frames' not in section.pictures[0].caption


def test_rows_of_a_large_set_are_drawn_and_it_is_said(run, h, monkeypatch):
  monkeypatch.setattr(near_duplicates, 'MAX_ROWS', 30)
  asked = []
  monkeypatch.setattr(
    near_duplicates,
    'read_images',
    lambda source, rows, config: asked.append(rows) or np.zeros((2, 8, 8, 3)),
  )
  rows = np.sort(np.random.default_rng(0).permutation(N)[:30])
  planted = np.array(h)
  planted[rows[5]] = planted[rows[20]]
  section = near_duplicates.section(run, _judged(planted))
  # Positions among those drawn are not rows of the data set.
  assert asked[0][:2].tolist() == [rows[5], rows[20]]
  assert 'Of 60 training pictures 30 were drawn' in section.notes[0]
  assert 'about 25.0%' in section.notes[0]


def test_none_or_nothing_but_copies(run):
  none = near_duplicates.section(run, _judged(np.eye(8, dtype=np.float32)))
  assert _numbers(none)['groups'] == '0' and none.pictures == ()
  collapsed = near_duplicates.section(run, _judged(np.ones((8, 4))))
  assert isinstance(collapsed, document.Missing)
  assert dataclasses.asdict(collapsed)['reason'].endswith('has collapsed')
