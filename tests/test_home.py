"""A user without HOME and without an entry in passwd."""

from __future__ import annotations

import getpass
import os
import pathlib
import pwd
import tempfile

import pytest

from simclr_jax import home


@pytest.fixture
def nobody(tmp_path, monkeypatch):
  """Temporary folder of a user whom nothing is known of."""

  def unknown(uid: int) -> None:
    raise KeyError(f'getpwuid(): uid not found: {uid}')

  monkeypatch.setattr(pwd, 'getpwuid', unknown)
  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
  for name in ('HOME', 'XDG_CACHE_HOME', 'USER', 'LOGNAME', 'LNAME'):
    monkeypatch.setenv(name, '')
    monkeypatch.delenv(name)
  return tmp_path


def test_caches_lie_among_the_temporary_files(nobody):
  folder = home.cache_folder()
  folder.mkdir(parents=True)
  assert folder.is_relative_to(nobody)
  (top,) = nobody.iterdir()
  assert top.stat().st_mode & 0o77 == 0
  top.rename(nobody / 'another')
  top.symlink_to(nobody / 'another')
  with pytest.raises(PermissionError, match='XDG_CACHE_HOME'):
    home.cache_folder()


def test_libraries_are_told_of_a_home_and_a_name(nobody):
  home.provide()
  assert pathlib.Path.home().is_relative_to(nobody)
  assert getpass.getuser() == str(os.getuid())


def test_what_is_set_is_kept(nobody, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', '/cache')
  assert home.cache_folder() == pathlib.Path('/cache/simclr_jax')
  monkeypatch.delenv('XDG_CACHE_HOME')
  monkeypatch.setenv('HOME', str(nobody / 'me'))
  home.provide()
  assert home.cache_folder() == nobody / 'me' / '.cache' / 'simclr_jax'
  # As of the user `nobody`: a home that cannot be made.
  (nobody / 'file').touch()
  monkeypatch.setenv('HOME', str(nobody / 'file' / 'none'))
  assert home.cache_folder().is_relative_to(nobody)
