"""Writes that the system refuses, and files that are there whole or not."""

from __future__ import annotations

import os

import pytest

from simclr_jax import writes


@pytest.mark.parametrize(
  'error',
  [
    OSError(28, 'Error writing bytes to file'),  # Arrow: no name of a file.
    RuntimeError('write error: No space left on device (os error 28)'),
  ],
)
def test_place_cause_space_and_remedy_are_named(tmp_path, error):
  with (
    pytest.raises(writes.StorageFailed) as caught,
    writes.to(tmp_path / 'out'),
  ):
    raise error
  text = str(caught.value)
  assert (
    f'cannot write {tmp_path / "out"}: No space left on device, ENO' in text
  )
  assert 'free there). Make room there or name another place' in text


@pytest.mark.parametrize(
  'error', [PermissionError(13, 'no'), OSError(5, 'a read'), ValueError('x')]
)
def test_what_may_be_a_reading_passes(tmp_path, error):
  with pytest.raises(type(error)) as caught, writes.to(tmp_path):
    raise error
  assert caught.value is error


def test_whole_or_not_at_all(tmp_path, monkeypatch):
  (tmp_path / 'link').symlink_to('file')
  writes.whole(tmp_path / 'link', 'old')
  assert (tmp_path / 'file').read_text() == 'old'

  def full(descriptor):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(os, 'fsync', full)
  for name in ('file', 'other'):
    with pytest.raises(writes.StorageFailed, match=name):
      writes.whole(tmp_path / name, b'new')
  assert (tmp_path / 'file').read_text() == 'old'
  assert sorted(p.name for p in tmp_path.iterdir()) == ['file', 'link']
  writes.whole('/dev/null', 'a device stays one')
  assert not os.path.isfile('/dev/null')
