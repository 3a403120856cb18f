"""`--check_recipe` of the command that pretrains."""

from __future__ import annotations

import types

from absl import flags
from absl.testing import flagsaver
import pytest

from simclr_jax import cards, data, main
from simclr_jax.cards import card as card_lib
from tests import small_run


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


def test_a_recipe_without_a_card_is_refused_before_it_is_trained(
  tmp_path, monkeypatch
):
  trained = []
  monkeypatch.setattr(
    main.loop, 'pretrain', lambda run, *unused, **more: trained.append(run)
  )

  def pretrain(**more):
    main.run(small_run.CONFIG, str(tmp_path / 'run'), needs_card=True, **more)

  monkeypatch.setattr(card_lib, 'load_all', list)
  with pytest.raises(ValueError, match='no measured card.*nothing has been'):
    pretrain()
  assert not trained and not (tmp_path / 'run').exists()
  source = data.make_source(
    small_run.CONFIG.data, small_run.CONFIG.data.train_split
  )
  card = card_lib.Card(
    'the recipe',
    small_run.CONFIG,
    {'fingerprint': source.fingerprint},
    'c',
    'h',
    {},
    (),
  )
  monkeypatch.setattr(card_lib, 'load_all', lambda: [card])
  with pytest.raises(ValueError, match='goes on from another one'):
    pretrain(continue_from='elsewhere')
  assert not trained
  pretrain()
  assert len(trained) == 1
