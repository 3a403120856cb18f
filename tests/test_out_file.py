"""A file that could not be written is refused before the work, and not made."""

import pytest

from simclr_jax import out_file


@pytest.mark.parametrize(
  'path,what',
  [
    ('taken', 'is a folder; name a file'),
    ('file/x.json', 'file is no folder; name another file'),
    ('file/a/b/x.json', 'file is no folder; name another file'),
    ('loop/x.json', 'name another file'),
    ('n' * 300 + '/x.json', 'name another file'),
  ],
)
def test_what_cannot_be(tmp_path, path, what):
  (tmp_path / 'taken').mkdir()
  (tmp_path / 'file').write_text('')
  (tmp_path / 'loop').symlink_to(tmp_path / 'loop')
  with pytest.raises(ValueError, match=f'--sheet=.*{what}'):
    out_file.check(str(tmp_path / path), flag='sheet')


def test_nothing_is_made(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for path in ('x.json', 'a/b/x.json', str(tmp_path / 'c/x.json')):
    out_file.check(path)
  assert not list(tmp_path.iterdir())


def test_remote_files():
  out_file.check('gs://b/x.json')
  with pytest.raises(ValueError, match='must be a local or mounted file'):
    out_file.check('gs://b/x.json', local=True)
