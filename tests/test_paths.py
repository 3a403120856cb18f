"""Paths as a person writes them, and errors of object stores in words."""

from __future__ import annotations

import pathlib

import pytest

from simclr_jax import config as config_lib
from simclr_jax import paths


@pytest.mark.parametrize(
  'text,want',
  [
    ('', ''),
    ('a/b', 'a/b'),
    ('~', '/home/me'),
    ('~/a b', '/home/me/a b'),
    ('a/~', 'a/~'),
    ('file:///a/b', '/a/b'),
    ('FILE://localhost/a%20b#c', '/a b#c'),
    ('file:/a', '/a'),
    ('gs://b/c', 'gs://b/c'),
    ('s3://b/~', 's3://b/~'),
  ],
)
def test_reads(text, want, monkeypatch):
  monkeypatch.setenv('HOME', '/home/me')
  assert paths.read(text) == want


@pytest.mark.parametrize(
  'text,says',
  [
    ('file://a/b', 'names no file of this machine'),
    ('file:a', 'names no file of this machine'),
    ('https://a/b', 'an address of the kind https://'),
    ('hdfs://a/b', 'one of gs://, s3://'),
  ],
)
def test_refuses(text, says):
  with pytest.raises(ValueError, match=says):
    paths.read(text)


def test_what_must_be_local_and_who_has_no_home(monkeypatch):
  with pytest.raises(ValueError, match='must be a local or mounted path'):
    paths.read('gs://b/c', remote=False)
  monkeypatch.setattr(paths.os.path, 'expanduser', lambda text: text)
  with pytest.raises(ValueError, match='write the whole path'):
    paths.read('~/a')
  assert paths.read('~a') == '~a'


def test_a_config_holds_whole_paths(tmp_path, monkeypatch):
  (tmp_path / 'here').mkdir()
  monkeypatch.chdir(tmp_path / 'here')
  monkeypatch.setenv('HOME', '/home/me')
  config = config_lib.replace(
    config_lib.Config(),
    data={'source': 'folder', 'path': '../pictures', 'data_dir': '~/tfds'},
  )
  assert config.data.path == str(tmp_path / 'pictures')
  assert config.data.data_dir == '/home/me/tfds'
  monkeypatch.chdir('/')
  # As from a passport, in another folder.
  assert config_lib.from_config_dict(config_lib.to_dict(config)) == config
  with pytest.raises(ValueError, match=r'config\.data\.path: .*of the kind'):
    config_lib.replace(config, data={'path': 'ftp://a/b'})


def test_an_object_store_is_explained():
  # TensorFlow's errors are no OSError, and their number says what they are.
  kind = type('OpError', (Exception,), {'__module__': 'tensorflow.errors'})
  error = kind('no such host\n\t when reading metadata of gs://b/run/a')
  found = paths.explain(error)
  assert found is not None and not found.is_mistake
  assert found.text.startswith('gs://b/run/a cannot be reached now: no such')
  assert 'credentials' in found.text
  error.error_code = 7
  caused = ValueError('cannot look')
  caused.__cause__ = error
  found = paths.explain(caused)
  assert found is not None and found.is_mistake
  missing = ModuleNotFoundError('gcsfs is needed for gs://b', name='gcsfs')
  assert paths.explain(missing)
  assert paths.explain(kind('no address')) is None
  assert paths.explain(ValueError('gs://b/run')) is None
  assert pathlib.Path(paths.absolute('a')).is_absolute()
