from __future__ import annotations

import dataclasses

import pytest

from simclr_jax.training import progress as progress_lib


@dataclasses.dataclass
class Clock:
  now: float = 1000.0

  def __call__(self) -> float:
    return self.now

  def tick(self, seconds: float) -> None:
    self.now += seconds


def run_steps(progress, clock, steps, *, wait=0.0, compute=1.0, compile=0.0):
  for step in steps:
    with progress.waiting_for_input():
      clock.tick(wait)
    clock.tick(compile if step == steps[0] else 0.0)
    clock.tick(compute)


def make(clock, **changes):
  arguments = {
    'start_step': 0,
    'batch_size': 64,
    'num_devices': 4,
    'clock': clock,
    **changes,
  }
  return progress_lib.Progress(100, **arguments)


def test_speed_without_the_step_that_compiles():
  clock = Clock()
  progress = make(clock)
  run_steps(progress, clock, range(1, 12), compute=0.5, compile=60.0)
  report = progress.report(11)
  # Ten steps of half a second after the first.
  assert report.steps_per_second == pytest.approx(2.0)
  assert report.images_per_second == pytest.approx(128.0)
  assert report.images_per_second_per_device == pytest.approx(32.0)
  assert report.input_wait_percent == 0
  assert report.eta_seconds == pytest.approx(89 * 0.5)
  assert report.mfu_percent is None
  assert 'mfu_percent' not in report.scalars
  assert report.scalars['eta_seconds'] == report.eta_seconds


def test_a_report_covers_the_steps_since_the_last():
  clock = Clock()
  progress = make(clock)
  run_steps(progress, clock, range(1, 12), wait=0.0, compute=0.5)
  progress.report(11)
  run_steps(progress, clock, range(12, 22), wait=1.0, compute=3.0)
  report = progress.report(21)
  assert report.steps_per_second == pytest.approx(0.25)
  assert report.input_wait_percent == pytest.approx(25.0)
  # The pace since the start: 10 steps in 5 s and 10 in 40 s.
  assert report.eta_seconds == pytest.approx(79 * 45 / 20)


def test_resumed_run_counts_its_own_steps():
  clock = Clock()
  progress = make(clock, start_step=50)
  run_steps(progress, clock, range(51, 62), compute=2.0, compile=30.0)
  report = progress.report(61)
  assert report.steps_per_second == pytest.approx(0.5)
  assert report.eta_seconds == pytest.approx(39 * 2.0)


def test_pauses_are_no_training_but_take_time():
  clock = Clock()
  progress = make(clock)
  run_steps(progress, clock, range(1, 7))
  with progress.paused():
    clock.tick(20.0)
  run_steps(progress, clock, range(7, 12))
  report = progress.report(11)
  assert report.steps_per_second == pytest.approx(1.0)
  assert report.eta_seconds == pytest.approx(89 * 3.0)
  run_steps(progress, clock, range(12, 14))
  assert progress.report(13).steps_per_second == pytest.approx(1.0)


def test_nothing_is_claimed_before_it_is_measured():
  clock = Clock()
  progress = make(clock)
  assert progress.report(0).scalars == {}
  run_steps(progress, clock, [1], compile=60.0)
  assert progress.report(1).scalars == {}
  assert progress.report(1).line('loss 1') == 'step 1/100 | loss 1'


def test_model_flops_utilisation():
  clock = Clock()
  # 4 devices of 100 FLOP/s; a step of 80 FLOP over all of them takes 0.5 s.
  progress = make(clock, flops_per_step=80.0, peak_flops=100.0)
  run_steps(progress, clock, range(1, 12), compute=0.5)
  assert progress.report(11).mfu_percent == pytest.approx(100 * 160 / 400)


def test_an_exception_while_waiting_passes():
  clock = Clock()
  progress = make(clock)
  with pytest.raises(StopIteration), progress.waiting_for_input():
    next(iter(()))


def test_line_for_people():
  report = progress_lib.Report(
    step=1200,
    total_steps=31_200,
    steps_per_second=2.0,
    images_per_second=1234.5,
    images_per_second_per_device=154.3,
    input_wait_percent=1.6,
    mfu_percent=41.23,
    eta_seconds=11_533.0,
  )
  metrics = {'loss': 9.1, 'contrast_loss': 5.12345, 'contrast_acc': 0.256}
  headline = progress_lib.headline(metrics, chance=12.473, batch_size=256)
  assert report.line(headline) == (
    'step 1200/31200 | contrast_loss 5.123 (chance 12.47) | '
    'contrast_acc 25.6 % (chance 0.4 %) | 1,234 images/s | 3 h 12 min left'
  )


def test_headline_of_a_classifier():
  metrics = {'loss': 0.51234, 'train_top1': 0.5}
  found = progress_lib.headline(metrics, chance=None, batch_size=8)
  assert found == 'loss 0.512 | training top-1 50.0 %'


@pytest.mark.parametrize(
  ('seconds', 'text'),
  [
    (0, '0 s'),
    (45.4, '45 s'),
    (60, '1 min'),
    (725, '12 min 5 s'),
    (3605, '1 h'),
    (187_200, '2 d 4 h'),
  ],
)
def test_format_seconds(seconds, text):
  assert progress_lib.format_seconds(seconds) == text


@pytest.mark.parametrize(
  ('device_kind', 'bfloat16', 'float32'),
  [
    ('TPU v3', 61.5e12, 61.5e12),
    ('TPU v4', 275e12, 275e12),
    ('TPU v5 lite', 197e12, 197e12),
    ('TPU v5p', 459e12, 459e12),
    ('TPU v6 lite', 918e12, 918e12),
    ('NVIDIA A100-SXM4-40GB', 312e12, 156e12),
    ('NVIDIA H100 80GB HBM3', 989e12, 494.5e12),
    ('NVIDIA H100 PCIe', 756e12, 378e12),
    ('NVIDIA H200', 989e12, 494.5e12),
    ('cpu', None, None),
    ('NVIDIA GeForce RTX 3090', None, None),
    ('TPU v4 lite', None, None),
  ],
)
def test_peak_flops(device_kind, bfloat16, float32):
  for dtype, peak in (('bfloat16', bfloat16), ('float32', float32)):
    got = progress_lib.peak_flops(device_kind, dtype, precision='default')
    assert got == peak
    exact = progress_lib.peak_flops(device_kind, dtype, precision='highest')
    assert exact is None
