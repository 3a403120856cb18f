"""`epath.Path.glob` of a folder whose name holds '[', '*' or '?'.

epath puts the folder's own path into the pattern, so in 'run[1]' nothing is
found: Orbax then skips, with a warning, the merging of what its threads wrote,
and no checkpoint of such a workdir can be read.
"""

from __future__ import annotations

from collections.abc import Iterator
import glob
import os
from typing import Any

from etils import epath

_Path: Any = type(epath.Path('/'))
_glob = _Path.glob


def _literal_glob(self: Any, pattern: str) -> Iterator[epath.Path]:
  escaped = type(self)(glob.escape(os.fspath(self)))
  found: Iterator[epath.Path] = _glob(escaped, pattern)
  return found


def install() -> None:
  """Makes every path of epath literal; more than once is no error."""
  _Path.glob = _literal_glob
