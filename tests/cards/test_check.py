from __future__ import annotations

import dataclasses
import json

import pytest

from simclr_jax import cards, report
from simclr_jax import config as config_lib
from simclr_jax.cards import card as card_lib
from simclr_jax.cards import check
from simclr_jax.training import checkpoint, metrics
from tests import small_run

# 96 pictures in batches of 32: three steps an epoch, and one more at the end.
CONFIG = config_lib.replace(
  small_run.CONFIG, train={'duration': '2 epochs', 'log_every': '1 steps'}
)
LOSSES = (8.0, 7.5, 7.0, 6.0, 5.5, 5.0, 4.9)


def _write(workdir, losses):
  writer = metrics.MetricWriter(workdir, primary=True)
  for step, loss in enumerate(losses, start=1):
    line = {'contrast_loss': loss, 'contrast_acc': 1 / loss}
    writer.write_scalars(step, line)
  writer.close()


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  path = tmp_path_factory.mktemp('run')
  small_run.save_small_run(path, config=CONFIG, steps=(4, 7))
  _write(path, LOSSES)
  return path


@pytest.fixture(scope='module')
def card(workdir):
  passport = checkpoint.load_encoder(workdir).passport
  records = metrics.read_lines(workdir / 'metrics.jsonl')
  curve = check.run_curve(passport, records)
  assert [point['epoch'] for point in curve] == [1, 2]
  assert curve[0]['contrast_loss'] == pytest.approx(7.5)
  assert curve[1]['contrast_loss'] == pytest.approx(5.35)
  runs = tuple(
    card_lib.CardRun(
      seed=seed,
      curve=[
        {
          # Better in one epoch is worse in the next: they tell twice as much.
          k: v if k == 'epoch' else v * scale ** (-1) ** p['epoch']
          for k, v in p.items()
        }
        for p in curve
      ],
      final={'knn_top1': 0.5 * scale},
    )
    for seed, scale in ((1, 0.99), (2, 1.0), (3, 1.01))
  )
  data = {k: passport['data'][k] for k in ('name', 'fingerprint')}
  return card_lib.Card('the recipe', CONFIG, data, 'c', 'h', {}, runs)


def _check(workdir, *known, **more):
  return cards.check_recipe(workdir, cards=known, published=(), **more)


def test_a_run_like_the_others_passes(workdir, card):
  verdict = _check(workdir, card)
  assert verdict.passed and cards.exit_code(verdict) == 0
  assert [(p.metric, p.epoch) for p in verdict.points] == [
    ('contrast_loss', 1),
    ('contrast_loss', 2),
    ('contrast_acc', 1),
    ('contrast_acc', 2),
  ]
  assert 'simclr_jax.knn' in verdict.notes[0]
  assert 'pass, all 4 numbers' in check.format_verdict(verdict)


@pytest.mark.parametrize('factor', [0.8, 1.2])
def test_a_loss_that_is_too_low_fails_like_one_too_high(workdir, card, factor):
  losses = [*LOSSES[:3], *(factor * loss for loss in LOSSES[3:])]
  _write(workdir, losses)
  try:
    verdict = _check(workdir, card)
  finally:
    _write(workdir, LOSSES)
  assert verdict.passed is False and cards.exit_code(verdict) == 1
  bad = {(p.metric, p.epoch) for p in verdict.points if not p.good}
  assert ('contrast_loss', 2) in bad and ('contrast_loss', 1) not in bad
  assert 'FAIL' in verdict.headline
  assert 'epoch 2' in check.format_verdict(verdict)


def test_a_loss_that_is_no_number_fails(workdir, card):
  _write(workdir, [*LOSSES[:5], float('nan'), 4.9])
  try:
    verdict = _check(workdir, card)
  finally:
    _write(workdir, LOSSES)
  assert verdict.passed is False


def test_an_unfinished_run_is_compared_as_far_as_it_is(workdir, card):
  verdict = _check(workdir, card, step=4)
  # Step 4 is the first of epoch 2.
  assert {p.epoch for p in verdict.points} == {1}
  assert verdict.passed and 'step 4 of 7' in verdict.notes[0]


@pytest.mark.parametrize('top1,passed', [(0.2, False), (0.9, True)])
def test_a_better_knn_is_no_failure(workdir, card, top1, passed):
  (workdir / 'probe').mkdir(exist_ok=True)
  file = workdir / 'probe' / 'knn-step7.json'
  result = {'headline': {'top1': top1}}
  file.write_text(json.dumps({'result': result, 'overridden': {}}))
  try:
    verdict = _check(workdir, card)
    assert verdict.passed is passed
    assert [p.value for p in verdict.points if p.epoch is None] == [top1]
    file.write_text(json.dumps({'result': result, 'overridden': {'a': 1}}))
    assert all(p.epoch for p in _check(workdir, card).points)
  finally:
    file.unlink()


@pytest.mark.parametrize('text', ['x', '[]', '{"result": []}', '{}'])
def test_a_damaged_result_is_none(workdir, card, text):
  (workdir / 'probe').mkdir(exist_ok=True)
  file = workdir / 'probe' / 'knn-step7.json'
  file.write_text(text)
  try:
    verdict = _check(workdir, card)
  finally:
    file.unlink()
  assert verdict.passed and all(p.epoch for p in verdict.points)
  assert 'no (readable) result: run simclr_jax.knn' in verdict.notes[0]


def test_before_the_first_epoch_there_is_a_card_and_nothing_to_compare(card):
  early = check.Verdict(card, (), None, ())
  assert early.headline == (
    'recipe check against the recipe: nothing to compare yet'
  )


def test_a_passport_without_the_length_of_an_epoch(workdir, card, monkeypatch):
  loaded = checkpoint.load_encoder(workdir)
  old = dataclasses.replace(loaded, passport={**loaded.passport, 'derived': {}})
  monkeypatch.setattr(checkpoint, 'load_encoder', lambda *_, **__: old)
  verdict = _check(workdir, card)
  assert verdict.passed is None and cards.exit_code(verdict) == 2
  assert 'how long an epoch is' in verdict.notes[0]


def test_process_0_decides_for_all(card, monkeypatch, capsys):
  """What this process has read of a file that is being written says FAIL."""
  monkeypatch.setattr(check.processes, 'from_first', lambda code: 0)
  assert cards.announce(check.Verdict(card, (), False, ())) == 0
  assert 'FAIL' in capsys.readouterr().out


def test_knn_of_another_k_is_not_compared(workdir, card):
  other = dataclasses.replace(
    card, config=config_lib.replace(CONFIG, knn={'ks': (7,)})
  )
  verdict = _check(workdir, other)
  assert verdict.passed and 'knn.ks' in verdict.notes[0]


def test_another_recipe_has_no_card(workdir, card):
  other = dataclasses.replace(
    card, config=config_lib.replace(CONFIG, loss={'temperature': 0.2})
  )
  published = card_lib.Published('theirs', CONFIG, '12.3 %')
  verdict = cards.check_recipe(workdir, cards=[other], published=[published])
  assert verdict.passed is None and cards.exit_code(verdict) == 2
  assert 'loss.temperature: 0.2 -> 0.1' in verdict.notes[0]
  assert verdict.notes[1] == 'known of theirs, but no measured card: 12.3 %'
  assert 'no measured card' in verdict.headline


def test_other_pictures_have_no_card(workdir, card):
  other = dataclasses.replace(card, data={'fingerprint': 'x'})
  assert 'another fingerprint' in _check(workdir, other).notes[0]


def test_seed_and_places_are_no_part_of_a_recipe():
  moved = config_lib.replace(
    CONFIG, seed=7, data={'num_workers': 3, 'augment_on': 'hybrid'}
  )
  assert card_lib.differences(CONFIG, moved) == []
  longer = config_lib.replace(CONFIG, train={'duration': '3 epochs'})
  assert len(card_lib.differences(CONFIG, longer)) == 1


def test_command_says_so_by_its_exit_code(workdir, card, monkeypatch, capsys):
  flags = [f'--workdir={workdir}', '--check_recipe']
  monkeypatch.setattr(check.card_lib, 'load_all', lambda: [card])
  assert report.main(flags) == 0
  assert 'recipe check against the recipe: pass' in capsys.readouterr().out
  monkeypatch.setattr(check.card_lib, 'load_all', list)
  assert report.main(flags) == 2
  assert 'error: recipe check: no measured card' in capsys.readouterr().err
  assert not (workdir / 'report').exists()
