from __future__ import annotations

import json
import types

from etils import epath
import pytest

from simclr_jax.reports import document, layers, run_data
from tests import small_run

SCORES = {
  layer: {'top1': top1, 'top1_interval': [top1 - 0.1, top1 + 0.1]}
  for layer, top1 in (('h', 0.8), ('z', 0.4))
}
RESULT = {
  'dim_h': 8,
  'dim_z': 4,
  'noise_std': 0.25,
  'warnings': ['color is left out'],
  'tasks': [
    {'task': 'noise', 'variants': ['original', 'noisy'], 'chance': 0.5} | SCORES
  ],
}


def _run(workdir):
  return run_data.RunData(
    workdir=epath.Path(workdir),
    loaded=types.SimpleNamespace(step=30, passport={'objective': 'simclr'}),
    config=small_run.CONFIG,
    train=None,
    records=(),
    encoder=None,
  )


def test_shows_what_the_command_found(tmp_path):
  (tmp_path / 'probe').mkdir()
  file = tmp_path / 'probe' / 'probe_transforms-step30.json'
  file.write_text(json.dumps({'result': RESULT}))
  section = layers.section(_run(tmp_path))
  ((what, h, z, chance),) = section.tables[0].rows
  assert tuple(what) == ('noise', 'original, noisy')
  assert tuple(h) == ('80.0%', '70.0% to 90.0%')
  assert z.text == '40.0%' and chance.text == '50.0%'
  assert section.notes == ('color is left out',)
  assert 'standard deviation of 0.25,' in section.text


@pytest.mark.parametrize(
  'text',
  [
    None,
    '{}',
    '[]',
    'x',
    '{"result": "x"}',
    json.dumps({'result': {'tasks': []}}),
    json.dumps({'result': RESULT | {'tasks': [{'task': 'x', **SCORES}]}}),
    json.dumps({'result': RESULT | {'tasks': 'x'}}),
  ],
)
def test_what_is_not_there_is_missing(tmp_path, text):
  (tmp_path / 'probe').mkdir()
  file = tmp_path / 'probe' / 'probe_transforms-step30.json'
  if text is not None:
    file.write_text(text)
  missing = layers.section(_run(tmp_path))
  assert isinstance(missing, document.Missing)
  wanted = 'cannot be read' if text is not None else 'nobody has compared'
  assert wanted in missing.reason
