"""What a report consists of, before it is HTML."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import Literal, NamedTuple


class Cell(NamedTuple):
  """Of a table: the text, and what is printed small behind it."""

  text: str
  note: str = ''


@dataclasses.dataclass(frozen=True)
class Table:
  """Rows of cells.

  Attributes:
    columns: Headings; the first column names the row.
    rows: Each as long as `columns`.
    highlighted: Rows set off from the others.
    folded: Title under which the table is folded away; '' shows it.
  """

  columns: Sequence[str]
  rows: Sequence[Sequence[Cell]]
  highlighted: tuple[int, ...] = ()
  folded: str = ''


@dataclasses.dataclass(frozen=True)
class Picture:
  """A figure.

  Attributes:
    name: Without suffix; unique in a report.
    png: The bytes of the file.
    alt: What a person who cannot see it should know.
    caption: Printed under it.
    form: 'plot' is small, and a dark page inverts it; 'map' takes half of the
      page and keeps its colours, as does a 'sheet' of photographs, which takes
      all of it.
    in_folder: Whether it is also kept as a file beside the page.
  """

  name: str
  png: bytes
  alt: str
  caption: str = ''
  form: Literal['plot', 'map', 'sheet'] = 'plot'
  in_folder: bool = False


@dataclasses.dataclass(frozen=True)
class Section:
  """Part of the page under one heading.

  Attributes:
    heading: Also names it in the list of contents.
    text: What to see in it, one paragraph.
    tables, pictures: In order.
    warnings: Sentences that must not be overlooked.
    notes: What is missing or limited, and why.
    verdict: 'pass', 'fail' or ''; a mark beside the heading.
  """

  heading: str
  text: str = ''
  tables: tuple[Table, ...] = ()
  pictures: tuple[Picture, ...] = ()
  warnings: tuple[str, ...] = ()
  notes: tuple[str, ...] = ()
  verdict: str = ''


@dataclasses.dataclass(frozen=True)
class Missing:
  """A section that cannot be shown honestly, and why."""

  heading: str
  reason: str


@dataclasses.dataclass(frozen=True)
class Document:
  """The page.

  Attributes:
    title: Of the run.
    facts: (name, value) of the run, at the top.
    sections: In order; what is missing is listed at the end.
  """

  title: str
  facts: tuple[tuple[str, str], ...]
  sections: tuple[Section | Missing, ...]

  @property
  def shown(self) -> tuple[Section, ...]:
    """Sections with something in them."""
    return tuple(s for s in self.sections if isinstance(s, Section))

  @property
  def missing(self) -> tuple[Missing, ...]:
    """What is left out."""
    return tuple(s for s in self.sections if isinstance(s, Missing))

  @property
  def pictures(self) -> tuple[Picture, ...]:
    """All of them."""
    return tuple(p for section in self.shown for p in section.pictures)
