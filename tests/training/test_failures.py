from __future__ import annotations

import json

import pytest

from simclr_jax.training import failures


def record(workdir, *, saved_steps, **metrics):
  with pytest.raises(failures.NonFiniteLoss) as caught:
    failures.record_non_finite(
      workdir,
      step=12,
      metrics={
        'total_loss': 0.5,
        'grad_norm': 1.0,
        'state_norm': 2.0,
        **metrics,
      },
      example_ids=['cat/1.jpg', 'dog/2.jpg'],
      saved_steps=saved_steps,
    )
  path = workdir / 'failure-step-12.json'
  assert str(path) in str(caught.value)
  return json.loads(path.read_text()), str(caught.value)


def test_record_of_a_gradient_that_is_no_number(tmp_path):
  written, message = record(
    tmp_path, saved_steps=[8, 10], grad_norm=float('nan')
  )
  good = str(tmp_path / 'checkpoints' / '10')
  assert written == {
    'step': 12,
    'loss': 0.5,
    'metrics': {'total_loss': 0.5, 'grad_norm': 'NaN', 'state_norm': 2.0},
    'last_good_checkpoint': good,
    'newest_checkpoint': good,
    'example_ids': ['cat/1.jpg', 'dog/2.jpg'],
  }
  assert message.startswith('grad_norm is nan at step 12. ')
  assert 'Start in a new workdir' in message


@pytest.mark.parametrize(
  ('saved_steps', 'newest', 'good'),
  [
    # Step 12 computes the loss of the state after 11: it may have diverged.
    ([9, 10, 11], '11', '10'),
    ([5, 11], '11', '5'),
    ([11], '11', None),
    ([], None, None),
  ],
)
def test_the_checkpoint_that_fails_is_not_called_good(
  tmp_path, saved_steps, newest, good
):
  written, message = record(
    tmp_path, saved_steps=saved_steps, total_loss=float('inf')
  )

  def path(step):
    return str(tmp_path / 'checkpoints' / step) if step else None

  assert written['newest_checkpoint'] == path(newest)
  assert written['last_good_checkpoint'] == path(good)
  assert f'Newest checkpoint: {path(newest) or "none"}; ' in message
  assert f'finite loss): {path(good) or "none"}. ' in message


@pytest.mark.parametrize('name', ['total_loss', 'grad_norm', 'state_norm'])
def test_what_must_be_finite(name):
  metrics = {'total_loss': 0.5, 'grad_norm': 1.0, 'state_norm': 2.0}
  assert failures.is_finite(metrics)
  assert not failures.is_finite({**metrics, name: float('nan')})
  assert not failures.is_finite({**metrics, name: float('inf')})
