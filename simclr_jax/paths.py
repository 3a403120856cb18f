"""Reads a path as a person writes it: `~`, `file://`, relative, `gs://`.

Every flag and config field that takes a path goes through here once, where it
is read, so that the rest of the package meets plain paths and addresses of
object stores alone.
"""

from __future__ import annotations

import os
import re
import urllib.parse

# The object stores that etils.epath, which reads workdirs, knows.
REMOTE = ('gs', 's3', 'az', 'hf')
_ADDRESS = re.compile(r'([a-zA-Z][a-zA-Z0-9+.-]*)://')


def read(text: str) -> str:
  """A local path without `~`, or the address of an object store.

  Args:
    text: A path, `file://` and a path, or an address such as 'gs://bucket/a'.
      '' stays ''.

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
