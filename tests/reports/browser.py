"""A real browser without a window, and everything that it complains of.

Debian's Chromium, driven by Playwright's package: its own browsers are no
packages. `BROWSER` names another executable.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import os
import pathlib
import shutil
from typing import Any

import pytest

_NAMES = (
  'chromium',
  'chromium-browser',
  'chromium-headless-shell',
  'google-chrome',
)


def find() -> str:
  """Path of a browser; skips the test where there is none."""
  pytest.importorskip('playwright', reason='playwright is not installed')
  candidates = (os.environ.get('BROWSER', ''), *_NAMES)
  for name in filter(None, candidates):
    if path := shutil.which(name):
      return path
  pytest.skip('no Chromium found (Debian: apt-get install chromium)')


class Visit:
  """A page in a browser, and what went on while it was opened.

  Attributes:
    page: Playwright's.
    complaints: Errors and warnings of the console, and exceptions.
    requests: Addresses asked for, but for the page and what it holds itself.
  """

  def __init__(self, page: Any):
    self.page = page
    self.complaints: list[str] = []
    self.requests: list[str] = []
    self._address = ''
    page.on('console', self._console)
    page.on('pageerror', lambda error: self.complaints.append(str(error)))
    page.on('request', self._request)

  def open(self, file: pathlib.Path) -> None:
    """Loads a file and waits until every picture is decoded."""
    self._address = file.resolve().as_uri()
    self.page.goto(self._address, wait_until='load')

  def _console(self, message: Any) -> None:
    if message.type in ('error', 'warning'):
      self.complaints.append(message.text)

  def _request(self, request: Any) -> None:
    if request.url != self._address and not request.url.startswith('data:'):
      self.requests.append(request.url)


@contextlib.contextmanager
def visit(
  *, width: int = 1280, height: int = 900, dark: bool = False
) -> Iterator[Visit]:
  """An empty page of that size, in a browser of its own."""
  path = find()
  from playwright import sync_api

  with sync_api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(
      executable_path=path, args=['--no-sandbox', '--disable-gpu']
    )
    try:
      context = browser.new_context(
        viewport={'width': width, 'height': height},
        color_scheme='dark' if dark else 'light',
      )
      yield Visit(context.new_page())
    finally:
      browser.close()
