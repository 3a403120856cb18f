"""End-to-end time of a pretraining, and how good its encoder is.

  python -m benchmarks.train --config=configs/cifar10.py:dkobak_100 \
    --config.data.augment_on=device --config.model.compute_dtype=bfloat16 \
    --workdir=runs/dkobak_100 --out=docs/results/train_NAME.json

Runs what `simclr_jax.main` runs, then the linear probe and kNN on the last
checkpoint. The clock starts before data and program are prepared, so that
reading, compiling, evaluation during the run and saving count; probe and kNN
are timed by themselves. The result holds accuracy with its interval, rate,
input wait, and loss, contrast_acc and kNN by epoch, which is what a recipe card
needs. JAX's compilation cache is off here, whatever the environment says (the
row records it), so that compiling counts every time. A workdir with a
checkpoint is refused: a resumed run has no time of its own. Times are stated on
accelerators only; a CPU's row says so.
"""

from __future__ import annotations

import pathlib
import time
from typing import Any

from absl import app, flags
import jax

from benchmarks import result_file
from simclr_jax import config as config_lib
from simclr_jax import console
from simclr_jax import main as pretrain_command
from simclr_jax.cards import curve as curve_lib
from simclr_jax.evaluation import jobs
from simclr_jax.training import checkpoint
from simclr_jax.training import metrics as metrics_lib
from simclr_jax.training import progress as progress_lib

# --config and --workdir are those of simclr_jax.main.
_OUT = flags.DEFINE_string('out', '', 'Result file, .json; empty: none.')


def measure(config: config_lib.Config, workdir: str) -> dict[str, Any]:
  """One row: pretraining, then probe and kNN."""
  if checkpoint.list_steps(workdir):
    raise ValueError(
      f'{workdir} holds checkpoints: a resumed run would have no time of its '
      'own; name another --workdir'
    )
  begin = time.monotonic()
  outcome = pretrain_command.run(config, workdir)
  pretrain_seconds = time.monotonic() - begin
  if not outcome.finished:
    raise ValueError(f'stopped by a signal at step {outcome.step}')
  begin = time.monotonic()
  subject = jobs.open_subject(workdir)
  probe = jobs.run_probe(subject)['result']
  knn = jobs.run_knn(subject)['result']
  judge_seconds = time.monotonic() - begin
  passport = checkpoint.load_encoder(workdir).passport
  derived = passport['derived']
  path = pathlib.Path(workdir) / metrics_lib.FILE_NAME
  records = metrics_lib.read_lines(path)
  # Those of the second half: nothing compiles there any more.
  late = [r for r in records if r['step'] > derived['total_steps'] / 2]
  settings: Any = jax.config  # Its attributes have no annotations.
  return {
    'pretrain_seconds': pretrain_seconds,
    'probe_and_knn_seconds': judge_seconds,
    'images_per_second': _median(late, 'images_per_second'),
    'input_wait_percent': _median(late, 'input_wait_percent'),
    'mfu_percent': _median(late, 'mfu_percent'),
    'linear_top1': probe['top1'],
    'linear_top1_interval': probe['top1_interval'],
    'knn': knn,
    'compilation_cache': settings.jax_enable_compilation_cache,
    'seed': config.seed,
    'curve': curve_lib.make_curve(
      records,
      steps_per_epoch=derived['steps_per_epoch'],
      total_steps=derived['total_steps'],
    ),
    'config': passport['config'],
    'derived': derived,
    'data': passport['data'],
    'software': passport['software'],
  }


def _median(records: list[dict[str, Any]], name: str) -> float | None:
  values = sorted(float(r[name]) for r in records if name in r)
  return values[len(values) // 2] if values else None


def make_table(row: dict[str, Any]) -> str:
  """For people."""
  on_cpu = jax.devices()[0].platform == 'cpu'
  low, high = row['linear_top1_interval']
  headline = row['knn']['headline']
  lines = [
    f'linear probe  {row["linear_top1"]:.2%} [{low:.2%}, {high:.2%}]',
    f'kNN (k = {headline["k"]})  {headline["top1"]:.2%}',
  ]
  if on_cpu:
    lines.append('time          not stated: a shared CPU')
  else:
    lines += [
      'pretraining   '
      + progress_lib.format_seconds(row['pretrain_seconds'])
      + f', {row["images_per_second"]:.0f} images/s',
      f'input wait    {row["input_wait_percent"]:.1f} %',
    ]
  return '\n'.join([*lines, curve_lib.make_table(row['curve'])])


def main(argv: list[str]) -> None:
  """Measures the configured run."""
  del argv
  # Before the cache is set up; the environment was read when JAX was imported.
  jax.config.update('jax_enable_compilation_cache', False)
  console.start()
  config = config_lib.from_config_dict(flags.FLAGS.config)
  row = measure(config, flags.FLAGS.workdir)
  print(make_table(row))
  result_file.report('train', [row], out=_OUT.value)


if __name__ == '__main__':
  flags.mark_flags_as_required(['config', 'workdir'])
  app.run(main)
