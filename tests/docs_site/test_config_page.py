"""The page of config fields says of each what the code says."""

from __future__ import annotations

import dataclasses

import pytest

from docs_site import config_page
from simclr_jax import command_help
from simclr_jax import config as config_lib


def test_every_field_is_there_once_with_its_default():
  fields = config_page.fields()
  assert sorted(f.path for f in fields) == sorted(command_help.config_fields())
  by_path = {f.path: f for f in fields}
  temperature = by_path['loss.temperature']
  assert (temperature.type, temperature.default) == ('float', '0.1')
  assert temperature.meaning == 'Divides the similarities; > 0.'
  assert by_path['augment.hue'].meaning.startswith('Strengths at s = 1')
  assert by_path['data.loader'].meaning.endswith('with the same views.')
  assert by_path['augment.crop_area'].type == 'tuple[float, float]'
  assert all(len(f.meaning) > 3 for f in fields)


def test_page_has_a_row_for_each():
  page = config_page.page()
  for field in config_page.fields():
    assert page.count(f'\n| `{field.path}` |') == 1
  rows = [line for line in page.splitlines() if line.startswith('| `')]
  assert all(row.replace('\\|', '').count('|') == 5 for row in rows)


@dataclasses.dataclass(frozen=True)
class Unexplained:
  """Some.

  Attributes:
    a: Said.
  """

  a: int = 1
  b: int = 2


@dataclasses.dataclass(frozen=True)
class Gone:
  """Some.

  Attributes:
    a: Said.
    b: Said too.
  """

  a: int = 1


@pytest.mark.parametrize('cls,named', [(Unexplained, 'b'), (Gone, 'b')])
def test_docstring_and_fields_must_agree(cls, named):
  with pytest.raises(ValueError, match=named):
    config_page.fields(cls)


def test_sections_carry_their_summary():
  page = config_page.page()
  for field in dataclasses.fields(config_lib.Config):
    if dataclasses.is_dataclass(field.type):
      assert f'\n## {field.name}\n' in page
  assert 'How one image becomes views' in page
