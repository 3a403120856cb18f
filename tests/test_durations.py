from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
import pytest

from simclr_jax import durations

SIZE = {'num_examples': 50_000, 'batch_size': 512}


@pytest.mark.parametrize(
  'text,amount,unit',
  [
    ('100 epochs', 100, 'epochs'),
    ('1 epoch', 1, 'epochs'),
    ('0.5 epochs', 0.5, 'epochs'),
    ('.5 epochs', 0.5, 'epochs'),
    ('5000 steps', 5000, 'steps'),
    ('1 Step', 1, 'steps'),
    ('1e6 examples', 1e6, 'examples'),
    ('  7steps ', 7, 'steps'),
    ('0 steps', 0, 'steps'),
  ],
)
def test_parse(text, amount, unit):
  assert durations.parse(text) == durations.Duration(amount=amount, unit=unit)


@pytest.mark.parametrize(
  'text',
  [
    '',
    '100',
    'epochs',
    '100 hours',
    '-1 epochs',
    '1.5 steps',
    '2.5 examples',
    '1.2.3 epochs',
    '. epochs',
    'nan epochs',
    'inf steps',
    '1e999 steps',
    '1e999 epochs',
    '10 epochs 5 steps',
  ],
)
def test_parse_refuses(text):
  with pytest.raises(ValueError):
    durations.parse(text)


@pytest.mark.parametrize(
  'text,steps',
  [('10 %', 97), ('12.5%', 122), ('0 %', 0), ('0.01 %', 1), ('5 epochs', 488)],
)
def test_warmup_is_a_duration_or_a_share_of_the_run(text, steps):
  assert durations.warmup_steps(text, total=976, **SIZE) == steps


def test_share_of_a_run_of_one_step_leaves_that_step_its_peak():
  assert durations.warmup_steps('10 %', total=1, **SIZE) == 0


@pytest.mark.parametrize('text', ['100 %', '-1 %', '1e3%', '% 10'])
def test_no_share_of_a_run(text):
  with pytest.raises(ValueError):
    durations.parse(text, share=True)


def test_only_a_warmup_is_a_share():
  with pytest.raises(ValueError, match='not a duration'):
    durations.parse('10 %')


# The official code: get_train_steps and WarmUpAndCosineDecay, written out.
@pytest.mark.parametrize(
  'num_examples,batch,epochs',
  [(50_000, 512, 1000), (1_281_167, 4096, 100), (1000, 10, 3), (7, 7, 1)],
)
def test_epochs_follow_the_official_rules(num_examples, batch, epochs):
  size = {'num_examples': num_examples, 'batch_size': batch}
  total = num_examples * epochs // batch + 1
  warmup = int(round(epochs * num_examples // batch))
  text = f'{epochs} epochs'
  assert durations.total_steps(text, **size) == total
  assert durations.to_steps(text, **size) == warmup


def test_published_step_counts():
  # ImageNet, batch 4096, 100 epochs: some 31,200 steps in the paper's table.
  assert (
    durations.total_steps('100 epochs', num_examples=1_281_167, batch_size=4096)
    == 31_279
  )


def test_steps_and_examples_are_as_given():
  assert durations.total_steps('5000 steps', **SIZE) == 5000
  assert durations.total_steps('1e6 examples', **SIZE) == 1_000_000 // 512
  assert durations.to_steps('0 steps', **SIZE) == 0


def test_a_run_has_a_step_and_a_period_is_never_rounded_to_never():
  assert durations.total_steps('1 examples', **SIZE) == 1
  assert durations.period_in_steps('1 examples', **SIZE) == 1
  assert durations.period_in_steps('0 epochs', **SIZE) == 0


@given(st.integers(0, 10**6), st.integers(1, 10**7), st.integers(1, 10**4))
def test_units_agree(amount, num_examples, batch_size):
  size = {'num_examples': num_examples, 'batch_size': batch_size}
  assert durations.to_steps(f'{amount} steps', **size) == amount
  assert (
    durations.to_steps(f'{amount} examples', **size) == amount // batch_size
  )
  epochs = amount % 2000
  assert durations.to_steps(f'{epochs} epochs', **size) == math.floor(
    epochs * num_examples / batch_size
  )
