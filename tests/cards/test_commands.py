"""`--check_recipe` of the command that pretrains."""

from __future__ import annotations

import types

from absl import flags
from absl.testing import flagsaver
import pytest

from simclr_jax import cards, main


@pytest.mark.parametrize(
  'finished,passed,code',
  [(True, True, 0), (True, False, 1), (True, None, 2), (False, True, 75)],
)
def test_the_verdict_is_the_exit_code(
  monkeypatch, capsys, finished, passed, code
):
  flags.FLAGS(['main'])
  outcome = types.SimpleNamespace(finished=finished)
  monkeypatch.setattr(main, 'run', lambda *unused, **more: outcome)
  monkeypatch.setattr(main.config_lib, 'from_config_dict', lambda values: None)
  verdict = cards.Verdict(None, (), passed, ('a note',))
  asked = []
  monkeypatch.setattr(
    main.cards, 'check_recipe', lambda workdir: asked.append(workdir) or verdict
  )
  with flagsaver.flagsaver(workdir='/the/run', check_recipe=True):
    assert main.main(['main']) == code
  assert asked == (['/the/run'] if finished else [])
  written = capsys.readouterr()
  said = 'a note' in written.out + written.err
  assert said is finished and ('error:' in written.err) is (code == 2)
  with flagsaver.flagsaver(workdir='/the/run'):
    assert main.main(['main']) == (0 if finished else 75)
