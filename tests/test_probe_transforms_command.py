"""What the command of the transform probe asks of its flags."""

from __future__ import annotations

from absl import flags
import pytest

from simclr_jax import probe_transforms, section_flags
from simclr_jax.evaluation import command_line


def test_every_process_must_have_the_same_tasks_and_a_flag_counts(monkeypatch):
  asked = {}
  monkeypatch.setattr(
    command_line, 'run', lambda argv, **more: asked.update(more) or 0
  )
  assert probe_transforms.main(['probe_transforms']) == 0
  assert {flag.name for flag in asked['same']} == {'tasks', 'noise_std'}
  # As in the passport: no difference, but given all the same.
  monkeypatch.setattr(
    section_flags, 'given', lambda names: {'probe': {'standardize': False}}
  )
  with pytest.raises(ValueError, match='--probe.standardize=False: h and z'):
    asked['judge_fn'](None, out=None)


def test_flags_of_a_command_are_compared(monkeypatch):
  compared = {}

  def check_same(values, *, consequence):
    del consequence
    compared.update(values)
    raise ValueError('stop here')

  monkeypatch.setattr(command_line.processes, 'check_same', check_same)
  monkeypatch.setattr(section_flags, 'given', lambda names: {})
  monkeypatch.setattr(command_line, '_kind', lambda: 'checkpoint')
  monkeypatch.setattr(
    command_line.multi_process, 'run', lambda body, **unused: body()
  )
  flags.FLAGS(['probe_transforms'])
  with pytest.raises(ValueError, match='stop here'):
    probe_transforms.main(['probe_transforms'])
  assert compared['--noise_std'] == 0.1 and 'color' in compared['--tasks']
