"""Reads a path as a person writes it: `~`, `file://`, relative, `gs://`.

Every flag and config field that takes a path goes through here once, where it
is read, so that the rest of the package meets plain paths and addresses of
object stores alone; and errors of these stores are put into words here.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple
import urllib.parse

# The object stores that etils.epath, which reads workdirs, knows.
REMOTE = ('gs', 's3', 'az', 'hf')
_LIBRARIES = (
  'tensorflow',
  'fsspec',
  'gcsfs',
  's3fs',
  'aiohttp',
  'botocore',
  'google',
)
# What TensorFlow's errors are of that would come again: a wrong argument, not
# found, not allowed, not supported, not authenticated.
_WRONG = (3, 5, 7, 12, 16)
_ADDRESS = re.compile(r'([a-zA-Z][a-zA-Z0-9+.-]*)://')

_REMOTE_ADDRESS = re.compile(rf'({"|".join(REMOTE)})://[^\s\'",;)]+')


def read(text: str, *, remote: bool = True) -> str:
  """A local path without `~`, or the address of an object store.

  Args:
    text: A path, `file://` and a path, or an address such as 'gs://bucket/a'.
      '' stays ''.
    remote: Whether an address of an object store is allowed.

  Raises:
    ValueError: If it is an address of another kind, of another machine, or in
      the home folder of a user who has none.
  """
  if text.lower().startswith('file:'):
    return _from_file_address(text)
  if found := _ADDRESS.match(text):
    if found[1] not in REMOTE:
      known = ', '.join(f'{kind}://' for kind in REMOTE)
      raise ValueError(
        f'{text!r} is an address of the kind {found[1]}://, which cannot be '
        f'read; a local path, file:// or one of {known} is wanted'
      )
    if not remote:
      raise ValueError(
        f'{text!r} must be a local or mounted path: only workdirs, checkpoints '
        'and TFDS data sets are read from object stores'
      )
    return text
  path = os.path.expanduser(text)
  if path == text and re.match(r'~(/|$)', text):
    raise ValueError(
      f'{text!r} lies in the home folder, but HOME is not set and this user '
      'has no entry in passwd; write the whole path'
    )
  return path


def absolute(text: str) -> str:
  """As `read`; a relative path is one of the current folder."""
  path = read(text)
  return path if not path or _ADDRESS.match(path) else os.path.abspath(path)


def _from_file_address(text: str) -> str:
  parts = urllib.parse.urlsplit(text)
  if parts.netloc not in ('', 'localhost') or not parts.path.startswith('/'):
    raise ValueError(
      f'{text!r} names no file of this machine; write the path itself, or '
      'file:// and a path that begins with /'
    )
  # '#' and '?' are ordinary characters in the name of a file.
  path = text.split(':', 1)[1]
  path = path.removeprefix(f'//{parts.netloc}')
  return urllib.parse.unquote(path)


class RemoteError(NamedTuple):
  """An error of an object store.

  Attributes:
    text: In a sentence or two, with what to look at.
    is_mistake: Whether the same command would meet it again.
  """

  text: str
  is_mistake: bool


def explain(error: BaseException) -> RemoteError | None:
  """Explains an error of an object store; None if it is another one."""
  chain: list[BaseException] = []
  cause: BaseException | None = error
  while cause is not None and cause not in chain:
    chain.append(cause)
    cause = cause.__cause__ or cause.__context__
  found = _REMOTE_ADDRESS.search(' '.join(map(str, chain)))
  of_library = [e for e in chain if _library(e) in _LIBRARIES]
  if found is None or not of_library:
    return None
  first = of_library[0]
  is_mistake = getattr(first, 'error_code', None) in _WRONG
  lines = str(first).strip().splitlines() or [type(first).__name__]
  return RemoteError(
    f'{found[0]} cannot be {"used" if is_mistake else "reached now"}: '
    f'{lines[0][:300]}. Look at the name, at the credentials (gcloud auth '
    'application-default login, or GOOGLE_APPLICATION_CREDENTIALS) and at the '
    'network and its proxy',
    is_mistake,
  )


def _library(error: BaseException) -> str:
  """The package that an error is of, or (an ImportError) that it is about."""
  module = (
    getattr(error, 'name', None) if isinstance(error, ImportError) else ''
  )
  return (module or type(error).__module__).partition('.')[0]
