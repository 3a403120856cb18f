"""How fast a run goes and how long it still takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import time

from simclr_jax import chips


def peak_flops(
  device_kind: str, compute_dtype: str, *, precision: str
) -> float | None:
  """Published peak of a device in FLOP/s; None where it is not known (CPU).

  Args:
    device_kind: As in `jax.Device.device_kind`.
    compute_dtype: 'bfloat16' or 'float32'.
    precision: config.train.matmul_precision; for 'highest' there is no figure,
      since the table holds those of the fast passes that it rules out.
  """
  chip = chips.find(device_kind)
  if precision != 'default' or chip is None:
    return None
  peak = chip.bfloat16 if compute_dtype == 'bfloat16' else chip.float32
  return peak / chip.devices_per_chip


@dataclasses.dataclass(frozen=True)
class Report:
  """Speed since the report before; None where nothing was measured yet.

  Attributes:
    step, total_steps: Finished steps, and of the whole run.
    steps_per_second: Without pauses and without the step that compiles.
    images_per_second: Images (not views), over all devices.
    images_per_second_per_device: The same divided by the devices.
    input_wait_percent: Share of the time in which the loop waited for a batch.
    mfu_percent: Model FLOP/s as a share of the devices' published peak; None
      where the peak or the model's FLOPs are not known.
    eta_seconds: Time to the last step at the mean pace so far, pauses included.
  """

  step: int
  total_steps: int
  steps_per_second: float | None = None
  images_per_second: float | None = None
  images_per_second_per_device: float | None = None
  input_wait_percent: float | None = None
  mfu_percent: float | None = None
  eta_seconds: float | None = None

  @property
  def scalars(self) -> dict[str, float]:
    """What is known, for the metric writers."""
    values = dataclasses.asdict(self)
    del values['step'], values['total_steps']
    return {name: v for name, v in values.items() if v is not None}

  def line(self, headline: str) -> str:
    """Short line for people: step, `headline`, images/s, time left."""
    parts = [f'step {self.step}/{self.total_steps}', headline]
    if self.images_per_second is not None:
      parts.append(f'{_rate(self.images_per_second)} images/s')
    if self.eta_seconds is not None:
      parts.append(f'{format_seconds(self.eta_seconds)} left')
    return ' | '.join(parts)


def headline(
  metrics: Mapping[str, float], *, chance: float | None, batch_size: int
) -> str:
  """States how far a step is from chance.

  Args:
    metrics: Numbers of the step.
    chance: Contrastive loss of embeddings that ignore the image; None for an
      objective that contrasts nothing.
    batch_size: Global batch, in images: `contrast_acc` is 1 / B by chance.
  """
  if chance is None or 'contrast_loss' not in metrics:
    parts = [f'loss {metrics["loss"]:.3f}']
    if 'train_top1' in metrics:
      parts.append(f'training top-1 {100 * metrics["train_top1"]:.1f} %')
    return ' | '.join(parts)
  return (
    f'contrast_loss {metrics["contrast_loss"]:.3f} (chance {chance:.2f}) | '
    f'contrast_acc {100 * metrics["contrast_acc"]:.1f} % '
    f'(chance {100 / batch_size:.1f} %)'
  )


def _rate(value: float) -> str:
  return f'{value:,.0f}' if value >= 10 else f'{value:.2g}'


def format_metrics(metrics: Mapping[str, float]) -> str:
  """'loss 5.12 | contrast_acc 0.31', in their order."""
  return ' | '.join(f'{name} {value:.4g}' for name, value in metrics.items())


def format_seconds(seconds: float) -> str:
  """'45 s', '12 min 5 s', '3 h 12 min', '2 d 4 h': the two largest units."""
  left = round(seconds)
  parts: list[tuple[int, str]] = []
  for unit, length in (('d', 86_400), ('h', 3_600), ('min', 60), ('s', 1)):
    count, left = divmod(left, length)
    if count or parts:
      parts.append((count, unit))
  return ' '.join(f'{n} {unit}' for n, unit in parts[:2] if n) or '0 s'


class Progress:
  """Measures a loop of `waiting_for_input`, step, `report` now and then.

  The first step compiles, so the clock starts when the loop comes back for the
  second batch: dispatching the first step has returned by then.
  """

  def __init__(
    self,
    total_steps: int,
    *,
    start_step: int,
    batch_size: int,
    num_devices: int,
    flops_per_step: float | None = None,
    peak_flops: float | None = None,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Starts before the first step.

    Args:
      total_steps: Of the whole run.
      start_step: Finished steps.
      batch_size: Global batch, in images.
      num_devices: Of the mesh.
      flops_per_step: Of one step over the whole global batch (all devices).
      peak_flops: Of one device, see `peak_flops`.
      clock: Seconds; replaced in tests.
    """
    self._total_steps = total_steps
    self._first_step = start_step + 1
    self._batch_size = batch_size
    self._num_devices = num_devices
    self._flops_per_step = flops_per_step
    self._peak_flops = peak_flops
    self._clock = clock
    self._num_waits = 0
    # Of the whole measurement, and of the window since the last report.
    self._begin: float | None = None
    self._window_begin = 0.0
    self._window_step = self._first_step
    self._waited = 0.0
    self._paused = 0.0

  @contextlib.contextmanager
  def waiting_for_input(self) -> Iterator[None]:
    """Encloses the fetching of a batch."""
    begin = self._clock()
    self._num_waits += 1
    if self._num_waits == 2:
      self._begin = self._window_begin = begin
      self._paused = 0.0
    try:
      yield
    finally:
      if self._begin is not None:
        self._waited += self._clock() - begin

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Encloses what is no training, such as an evaluation."""
    begin = self._clock()
    try:
      yield
    finally:
      self._paused += self._clock() - begin

  def report(self, step: int) -> Report:
    """Speed since the last report; `step` has finished on the devices."""
    now = self._clock()
    blank = Report(step=step, total_steps=self._total_steps)
    num_steps = step - self._window_step
    seconds = now - self._window_begin - self._paused
    if self._begin is None or num_steps <= 0 or seconds <= 0:
      return blank
    rate = num_steps / seconds
    pace = (now - self._begin) / (step - self._first_step)
    report = dataclasses.replace(
      blank,
      steps_per_second=rate,
      images_per_second=rate * self._batch_size,
      images_per_second_per_device=rate * self._batch_size / self._num_devices,
      input_wait_percent=100 * min(self._waited / seconds, 1.0),
      mfu_percent=self._mfu_percent(rate),
      eta_seconds=max(self._total_steps - step, 0) * pace,
    )
    self._window_begin, self._window_step = now, step
    self._waited = self._paused = 0.0
    return report

  def _mfu_percent(self, steps_per_second: float) -> float | None:
    if not self._flops_per_step or not self._peak_flops:
      return None
    peak = self._peak_flops * self._num_devices
    return 100 * self._flops_per_step * steps_per_second / peak
