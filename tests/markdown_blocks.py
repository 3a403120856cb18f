"""Code blocks of Markdown pages, and the command lines within."""

from __future__ import annotations

from collections.abc import Iterator
import pathlib
import re
import shlex
from typing import NamedTuple

_FENCE = re.compile(
  r'(?:^<!-- not run: (?P<reason>[^>]+?) -->\n)?'
  r'^```(?P<language>\w*)\n(?P<text>.*?)^```$',
  re.MULTILINE | re.DOTALL,
)
_CONSOLE = ('', 'console', 'bash', 'sh')


class Block(NamedTuple):
  """One fenced block.

  Attributes:
    page: File name.
    line: Of its fence, from 1.
    language: 'console', 'python' or another that its fence names.
    text: Between the fences.
    reason: Why it is not run; '' if it is not marked so.
  """

  page: str
  line: int
  language: str
  text: str
  reason: str

  def __str__(self) -> str:
    return f'{self.page}:{self.line}'


def blocks(path: pathlib.Path, name: str) -> list[Block]:
  """All fenced blocks of a page."""
  text = path.read_text()
  found = []
  for match in _FENCE.finditer(text):
    language = match['language']
    found.append(
      Block(
        page=name,
        line=text.count('\n', 0, match.start('language')) + 1,
        language='console' if language in _CONSOLE else language,
        text=match['text'],
        reason=match['reason'] or '',
      )
    )
  return found


def command_lines(text: str) -> Iterator[list[str]]:
  """Words of each command; `a && b` is two, what is behind '#' none."""
  for line in text.replace('\\\n', ' ').splitlines():
    words: list[str] = []
    for word in shlex.split(line, comments=True):
      if word in ('&&', ';'):
        yield words
        words = []
      else:
        words.append(word)
    if words:
      yield words
