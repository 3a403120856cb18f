from __future__ import annotations

import json
import types

from etils import epath
import numpy as np
import pytest

from simclr_jax.reports import document, judged_steps, run_data
from tests import small_run


def _run(workdir, records=()):
  return run_data.RunData(
    workdir=epath.Path(workdir),
    loaded=types.SimpleNamespace(step=30, passport={}),
    config=small_run.CONFIG,
    train=None,
    records=tuple(records),
    encoder=None,
  )


def _result(workdir, name, step, top1):
  (workdir / 'probe').mkdir(exist_ok=True)
  job = name.split('-')[0]
  score = {'top1': top1, 'top1_interval': [top1 - 0.1, top1 + 0.1]}
  result = {'headline': {'k': 5, **score}} if job == 'knn' else score
  text = json.dumps({'job': job, 'step': step, 'result': result})
  (workdir / 'probe' / f'{name}-step{step}.json').write_text(text)


def test_numbers_that_are_not_comparable_share_no_line(tmp_path):
  _result(tmp_path, 'linear_probe', 10, 0.3)
  _result(tmp_path, 'linear_probe', 20, 0.4)
  _result(tmp_path, 'linear_probe-labels10', 20, 0.2)
  _result(tmp_path, 'knn-random_init', 20, 0.25)
  _result(tmp_path, 'probe_transforms', 20, 0.9)  # Shown elsewhere.
  _result(tmp_path, 'knn', 40, 0.9)  # Behind the checkpoint.
  monitor = [{'step': 10, 'knn_top1': 0.35}, {'step': 20, 'knn_top1': 'NaN'}]
  section = judged_steps.section(_run(tmp_path, monitor))
  (table,) = section.tables
  assert [tuple(cell.text for cell in row) for row in table.rows] == [
    ('kNN, k = 5, random_init', '20', '25.0%'),
    ('linear probe', '10', '30.0%'),
    ('linear probe', '20', '40.0%'),
    ('linear probe, labels10', '20', '20.0%'),
    ('kNN during training', '10', '35.0%'),
  ]
  assert table.rows[1][2].note == '20.0% to 40.0%'
  assert table.rows[4][2].note == '' and 'knn_max_bank' in section.notes[0]
  (picture,) = section.pictures
  assert 'linear probe 40.0% at step 20' in picture.alt


def test_the_monitors_interval_is_that_of_its_share(tmp_path):
  monitor = [{'step': 10, 'knn_top1': 0.35}, {'step': 20, 'knn_top1': 0.8}]
  section = judged_steps.section(_run(tmp_path, monitor), num_test=400)
  for row, share in zip(section.tables[0].rows, (0.35, 0.8), strict=True):
    low, high = (float(x.rstrip('%')) / 100 for x in row[2].note.split(' to '))
    # Of the normal distribution, for so many.
    half = 1.96 * np.sqrt(share * (1 - share) / 400)
    assert low == pytest.approx(share - half, abs=0.2 * half)
    assert high == pytest.approx(share + half, abs=0.2 * half)


def test_one_step_is_a_table_alone(tmp_path):
  _result(tmp_path, 'knn', 20, 0.5)
  section = judged_steps.section(_run(tmp_path))
  assert section.pictures == () and len(section.tables[0].rows) == 1


@pytest.mark.parametrize('text', ['', '{}', '{"job": "x", "step": 1}', '[1]'])
def test_other_files_are_named_and_left_out(tmp_path, text):
  _result(tmp_path, 'knn', 20, 0.5)
  (tmp_path / 'probe' / 'mine-step3.json').write_text(text)
  section = judged_steps.section(_run(tmp_path))
  assert section.notes == (
    'mine-step3.json is left out: no result of probe or kNN.',
  )


def test_nothing_judged(tmp_path):
  missing = judged_steps.section(_run(tmp_path))
  assert isinstance(missing, document.Missing)
  assert '--follow' in missing.reason
