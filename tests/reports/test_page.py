from __future__ import annotations

import base64
from html.parser import HTMLParser
import io
import re

from PIL import Image
import pytest

from simclr_jax.reports import document, page
from tests.reports import browser


def _png(size: tuple[int, int] = (30, 20)) -> bytes:
  buffer = io.BytesIO()
  Image.new('RGB', size, 'white').save(buffer, 'PNG')
  return buffer.getvalue()


def _document(**changes) -> document.Document:
  values = {
    'title': 'A & <b>',
    'facts': (('Network', 'ResNet-18 <script>alert(1)</script>'),),
    'sections': (
      document.Section(
        'What <i>was</i> learnt',
        'Top-1 & more',
        tables=(
          document.Table(
            ('features', 'kNN'),
            [
              [document.Cell('random'), document.Cell('20 %', '<low>')],
              [document.Cell('ours'), document.Cell('75 %', '70 to 80 %')],
            ],
            highlighted=(1,),
          ),
          document.Table(('x',), [[document.Cell('y')]], folded='All <1>'),
        ),
        pictures=(
          document.Picture('a', _png(), alt='loss "falls"', caption='<c>'),
          document.Picture('b', _png((900, 300)), alt='views', form='sheet'),
          document.Picture('c', _png((40, 40)), alt='places', form='map'),
        ),
        warnings=('<em>careful</em>',),
        notes=('left out & said',),
        verdict='fail',
      ),
      document.Missing('Speed', 'too <short>'),
    ),
  }
  return document.Document(**{**values, **changes})


class _Outline(HTMLParser):
  """Fails on a tag that is not closed where it should be; keeps the rest."""

  def __init__(self):
    super().__init__()
    self.open: list[str] = []
    self.tags: list[str] = []
    self.images: list[dict[str, str]] = []

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    if tag == 'img':
      self.images.append(dict(attrs))
    if tag not in ('meta', 'img', 'link'):
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


def _outline(text: str) -> _Outline:
  outline = _Outline()
  outline.feed(text)
  assert not outline.open
  return outline


def test_is_complete_in_itself_and_well_formed():
  text = page.render(_document())
  outline = _outline(text)
  assert not re.search(r'(src|href)="(?!data:|#)', text)
  assert 'url(' not in text and '@import' not in text
  assert [base64.b64decode(i['src'].split(',')[1]) for i in outline.images] == [
    _png(),
    _png((40, 40)),
    _png((900, 300)),
  ]


def test_every_picture_has_a_text_and_its_size():
  first, _, sheet = _outline(page.render(_document())).images
  assert first['alt'] == 'loss "falls"'
  assert (first['width'], first['height']) == ('30', '20')
  assert (sheet['width'], sheet['height']) == ('900', '300')


def test_escapes_what_it_is_given():
  text = page.render(_document())
  tags = set(_outline(text).tags)
  assert not tags & {'script', 'b', 'i', 'em', 'c', 'low', 'short'}
  assert 'A &amp; &lt;b&gt;' in text and 'too &lt;short&gt;' in text


def test_what_is_missing_is_listed_with_its_reason():
  text = page.render(_document())
  assert text.index('<h2 id="not-shown">') > text.index('What &lt;i&gt;')
  assert '<th scope="row">Speed</th>' in text
  whole = _document(sections=_document().sections[:1])
  assert 'not-shown' not in page.render(whole)


def test_links_of_the_contents_lead_somewhere():
  text = page.render(_document())
  links = re.findall(r'href="#([^"]+)"', text)
  assert len(links) == 2
  assert set(links) == set(re.findall(r'<h2 id="([^"]+)"', text))


@pytest.mark.parametrize('dark', [False, True])
def test_a_phone_scrolls_no_page_sideways(tmp_path, dark):
  file = tmp_path / 'page.html'
  file.write_text(page.render(_document()))
  with browser.visit(width=375, dark=dark) as visit:
    visit.open(file)
    width = visit.page.evaluate('document.documentElement.scrollWidth')
    shade = visit.page.evaluate(
      'getComputedStyle(document.body).backgroundColor'
    )
  assert width == 375
  assert visit.complaints == [] and visit.requests == []
  assert (sum(map(int, re.findall(r'\d+', shade)[:3])) < 200) is dark


def test_the_page_may_ask_for_nothing(tmp_path):
  text = page.render(_document())
  # Planted: were the policy not there, both would be asked for.
  planted = '<img alt="" src="http://127.0.0.1:9/x.png"><script>x()</script>'
  file = tmp_path / 'page.html'
  file.write_text(text.replace('</main>', f'{planted}</main>'))
  with browser.visit() as visit:
    visit.open(file)
  assert len(visit.complaints) == 2
  assert all('Content Security Policy' in c for c in visit.complaints)
