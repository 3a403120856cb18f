"""How a command ends whose memory runs out."""

from __future__ import annotations

import types

import jax
import pytest

from simclr_jax import console, multi_process


@pytest.mark.parametrize(
  'error',
  [
    MemoryError(),
    jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory\nat ...'),
  ],
  ids=lambda error: type(error).__name__,
)
def test_memory_that_runs_out_is_one_line_and_its_own_code(
  error, monkeypatch, capsys
):
  session = types.SimpleNamespace(is_single=True, finish=lambda: None)
  monkeypatch.setattr(console, 'start', lambda **given: None)
  monkeypatch.setattr(multi_process, '_join', lambda: session)

  def body():
    raise error

  assert multi_process.run(body, codes={ValueError: 2}) == 3
  said = capsys.readouterr().err
  assert said.startswith('error: memory ran out') and said.count('\n') == 1


def test_the_others_of_a_run_end_with_the_code_of_memory():
  assert multi_process._final(console.EXIT_DOES_NOT_FIT) == 3
