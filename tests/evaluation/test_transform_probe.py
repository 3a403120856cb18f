from __future__ import annotations

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax.evaluation import jobs, transform_probe
from simclr_jax.training import mesh as mesh_lib
from tests import small_run

ROOT = pathlib.Path(__file__).parents[2]
TASKS = ('color', 'classes')


@pytest.fixture(scope='module')
def subject(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('run')
  small_run.save_small_run(workdir)
  return jobs.open_subject(workdir, mesh=mesh_lib.make_mesh(jax.devices()[:1]))


@pytest.fixture(scope='module')
def report(subject):
  shown = []
  made = transform_probe.run(subject, tasks=TASKS, show_fn=shown.append)
  assert shown[0]['result'] == made['result']
  return made


def test_writes_what_it_found(subject, report):
  # Some of the tasks: not in the place of all of them.
  name = transform_probe._file_name(TASKS, 0.1)
  assert name == transform_probe._file_name(TASKS[::-1], 0.1)
  assert name != transform_probe.NAME
  file = subject.workdir / 'probe' / f'{name}-step3.json'
  written = json.loads(file.read_text())
  color, classes = written['result']['tasks']
  assert color['task'] == 'color' and color['variants'] == ['original', 'gray']
  assert color['chance'] == 0.5 and color['paper'] == [0.993, 0.974]
  assert classes['task'] == 'classes' and classes['paper'] is None
  for task in (color, classes):
    for layer in ('h', 'z'):
      low, high = task[layer]['top1_interval']
      assert low <= task[layer]['top1'] <= high
  # As the probe command finds them: h of the original pictures.
  assert written['result']['dim_z'] == 4
  (line,) = (
    (subject.workdir / 'probe' / 'metrics.jsonl').read_text().split('\n')[:1]
  )
  assert json.loads(line)[f'{name}/color_h'] == color['h']['top1']


def test_what_is_asked_for_has_its_file():
  name, all_of_them = transform_probe._file_name, transform_probe.DEFAULT_TASKS
  assert name(all_of_them, 0.1) == name(all_of_them[::-1], 0.1)
  assert name(all_of_them, 0.1) == 'probe_transforms'
  names = {name(all_of_them, 0.2), name(('color',), 0.1), name(('color',), 0.2)}
  assert len(names) == 3 and 'probe_transforms' not in names


def test_states_the_probe_that_was_used(subject):
  trained = config_lib.replace(
    subject.config, probe={'standardize': False, 'labels_per_class': 3}
  )
  made = transform_probe.run(
    dataclasses.replace(subject, config=trained), tasks=('classes',)
  )
  for field, value in transform_probe.FIXED.items():
    assert made['config']['probe'][field] == value
  rows = json.loads(
    (ROOT / 'docs/results/probe_transforms_cifar10_cpu.json').read_text()
  )['rows']
  assert all(row['probe']['standardize'] for row in rows)


@pytest.mark.parametrize(
  'field,value',
  [('mode', 'official'), ('labels_per_class', 10), ('standardize', False)],
)
def test_fields_that_would_not_be_obeyed_are_refused(subject, field, value):
  changed = dataclasses.replace(subject, overridden={f'probe.{field}': value})
  with pytest.raises(ValueError, match=f'--probe.{field}={value}: h and z'):
    transform_probe.run(changed)


def test_table_names_the_better_one(report):
  text = transform_probe.format_table(report)
  lines = text.splitlines()
  assert len(lines) == 4
  assert lines[2].startswith('color') and '99.3%, 97.4%' in lines[2]


def test_the_papers_direction_holds_on_cifar10():
  """In the result that benchmarks/transforms.py wrote."""
  path = ROOT / 'docs/results/probe_transforms_cifar10_cpu.json'
  rows = json.loads(path.read_text())['rows']
  (row,) = [row for row in rows if row['encoder'] == 'checkpoint']
  assert {task['task']: task['direction'] for task in row['tasks']} == {
    'color': 'h',
    'rotation': 'h',
    'noise': 'h',
    'classes': 'h',
  }
  text = (ROOT / 'docs/results/README.md').read_text()
  for task in row['tasks']:
    for layer in ('h', 'z'):
      assert f'| {task[layer]["top1"]:.1%} [' in text


def test_direction_needs_intervals_apart():
  result = transform_probe.linear_probe.ProbeResult
  interval = transform_probe.linear_probe.intervals.Interval
  fields = dict.fromkeys(
    (f for f in result.__dataclass_fields__ if f != 'top1_interval'), 0
  )

  def score(low, high):
    return result(**{**fields, 'top1_interval': interval(low, high)})

  assert transform_probe._direction(score(0.6, 0.7), score(0.4, 0.5)) == 'h'
  assert transform_probe._direction(score(0.4, 0.5), score(0.6, 0.7)) == 'z'
  assert transform_probe._direction(score(0.4, 0.6), score(0.5, 0.7)) == 'none'


@pytest.mark.parametrize(
  'changes,match',
  [
    ({'tasks': ('rotations',)}, "did you mean 'rotation'"),
    ({'tasks': ()}, '--tasks is empty'),
    ({'noise_std': 0.0}, '--noise_std=0'),
    ({'noise_std': float('nan')}, '--noise_std=nan'),
  ],
)
def test_refuses_what_means_nothing(subject, changes, match):
  with pytest.raises(ValueError, match=match):
    transform_probe.run(subject, **changes)


def test_raw_pixels_have_no_z(subject):
  with pytest.raises(ValueError, match='h and z are the same'):
    transform_probe.run(
      jobs.open_subject(subject.workdir, kind='raw_pixels', mesh=subject.mesh)
    )


def test_grey_pictures_have_no_colour_to_lose():
  one = np.ones((3, 2), np.float32)

  def features(h):
    return transform_probe.features_lib.Features(
      h, h, np.zeros(3, np.int32), 1, 'n', 's', 'e'
    )

  assert transform_probe._same(features(one), features(one * 1.0001))
  assert not transform_probe._same(features(one), features(one * 1.1))
