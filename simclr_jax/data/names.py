"""Names of files and records as a person, a log and a terminal may get them."""

from __future__ import annotations


def printable(name: str) -> str:
  """The name with escapes for what ends a line, moves a cursor or is no text.

  Names come from whoever made the data: a line break in one would write lines
  of its own into the log and into lists of files.
  """
  if name.isprintable():
    return name
  return ''.join(
    c if c.isprintable() else c.encode('unicode_escape').decode() for c in name
  )
