"""Numbers and links of README and docs are those of their files."""

import json
import math
import pathlib
import re
import tomllib

import pytest

from docs_site import hooks

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [
  'README.md',
  'CONTRIBUTING.md',
  *(str(p.relative_to(ROOT)) for p in sorted((ROOT / 'docs').rglob('*.md'))),
]


@pytest.mark.parametrize('page', PAGES)
def test_links_lead_somewhere(page):
  path = ROOT / page
  links = re.findall(r'\]\(([^)#]+)\)', path.read_text())
  local = [link for link in links if '://' not in link]
  missing = [link for link in local if not (path.parent / link).exists()]
  # What the site's build writes.
  written = {(ROOT / 'docs' / name) for name in hooks.generated_pages()}
  assert not [link for link in missing if path.parent / link not in written]


@pytest.mark.parametrize('page', ['README.md', 'docs/data.md'])
def test_named_files_exist(page):
  text = (ROOT / page).read_text()
  named = set(
    re.findall(r'`((?:configs|benchmarks|docs|launch)/[\w/.]+\w)', text)
  )
  assert named
  assert not [name for name in named if not (ROOT / name).exists()]


def test_recipes_state_the_recorded_numbers():
  result = json.loads(
    (ROOT / 'docs/results/cifar10_cpu/result.json').read_text()
  )
  rows = {row['kind']: row for row in result['comparison']['rows']}
  (line,) = [
    line
    for line in (ROOT / 'docs/recipes.md').read_text().splitlines()
    if line.startswith('| `configs/cifar10.py:cpu`')
  ]
  for row in rows.values():
    for score in (row['probe_all'], row['knn']):
      assert f'{100 * score["top1"]:.1f}' in line


def test_judging_states_the_colour_shortcut():
  path = ROOT / 'docs/results/color_shortcut.json'
  rows = {r['encoder']: r for r in json.loads(path.read_text())['rows']}
  text = (ROOT / 'docs/judging.md').read_text()
  for row in rows.values():
    assert f'{100 * row["class_top1"]:.1f} %' in text
  assert f'{rows["crops"]["contrast_acc"]:.3f}' in text


def test_the_guide_to_few_labels_states_the_measured_numbers():
  path = ROOT / 'docs/results/label_efficiency/digits.json'
  rows = json.loads(path.read_text())['summary']
  lines = (ROOT / 'docs/guides/few_labels.md').read_text().splitlines()
  for row in rows:
    (line,) = [s for s in lines if s.startswith(f'| {row["num_labels"]:,} |')]
    assert f'{100 * row["top1_mean"]:.1f} ± {100 * row["top1_std"]:.1f}' in line


def test_questions_state_the_weights_of_negatives_by_temperature():
  text = ' '.join((ROOT / 'docs/faq.md').read_text().split())
  negatives = (0.75, 0.4, 0.1)
  shares = []
  for temperature in (0.1, 0.5, 1.0):
    weights = [math.exp(cosine / temperature) for cosine in negatives]
    shares.append(round(100 * max(weights) / sum(weights)))
  assert (
    f'{shares[0]} % of the weight at 0.1, {shares[1]} % at 0.5 and '
    f'{shares[2]} % at 1.'
  ) in text


def test_questions_name_every_measured_card():
  text = (ROOT / 'docs/faq.md').read_text()
  cards = sorted((ROOT / 'simclr_jax/cards/measured').glob('*.json'))
  assert len(cards) == 2 and 'cards of two recipes' in text
  for path in cards:
    card = json.loads(path.read_text())
    count = {4: 'four', 8: 'eight'}[len(card['runs'])]
    assert re.search(rf'`{card["name"]}` \([^)]*{count}\s+seeds\)', text)


def test_start_explains_every_extra():
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  rows = re.findall(
    r'^\| (`.*?) \|', (ROOT / 'docs/start.md').read_text(), re.M
  )
  explained = set(re.findall(r'`([\w-]+)`', ' '.join(rows)))
  assert explained == set(project['optional-dependencies']) - {'dev'}
