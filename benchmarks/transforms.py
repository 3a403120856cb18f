"""h against z of pretrained encoders and random ones: a result to commit.

  python -m benchmarks.transforms --checkpoint=runs/cifar10_cpu \
    --pretrained_by='python -m simclr_jax.main ...' \
    --out=docs/results/probe_transforms_cifar10_cpu.json

What `simclr_jax.probe_transforms` finds for the checkpoint and for the same
network freshly initialised. Prints both tables; writes nothing in the workdir.
"""

from __future__ import annotations

import pathlib
import tempfile
from typing import Any

from absl import app, flags

from benchmarks import result_file
from simclr_jax import console
from simclr_jax.evaluation import jobs, transform_probe

_CHECKPOINT = flags.DEFINE_string(
  'checkpoint', None, 'Workdir of a finished run.', required=True
)
_PRETRAINED_BY = flags.DEFINE_string(
  'pretrained_by', None, 'Its command line.', required=True
)
_OUT = flags.DEFINE_string('out', '', 'Result file, .json; empty: none.')
_TRAIN_SPLIT = flags.DEFINE_string(
  'train_split', '', "Part that the probes train on; '' is the run's own."
)
_EPOCHS = flags.DEFINE_integer('epochs', 50, 'Of the probes.')
_KEPT = ('top1', 'top1_interval', 'base_lr', 'weight_decay', 'train_nll')


def measure(kind: str) -> dict[str, Any]:
  """One row: all tasks of one encoder."""
  overrides: dict[str, dict[str, Any]] = {
    'probe': {
      'epochs': _EPOCHS.value,
      'base_lrs': (0.03, 0.3),
      'weight_decays': (0.0,),
    }
  }
  if _TRAIN_SPLIT.value:
    overrides['data'] = {'train_split': _TRAIN_SPLIT.value}
  subject = jobs.open_subject(_CHECKPOINT.value, kind=kind, overrides=overrides)
  with tempfile.TemporaryDirectory() as folder:
    report = transform_probe.run(
      subject, out=str(pathlib.Path(folder) / 'report.json')
    )
  print(transform_probe.format_table(report), flush=True)
  result = report['result']
  return {
    'encoder': kind,
    'step': subject.step,
    'fingerprint': report['encoder_fingerprint'],
    'seed': subject.config.seed,
    'train': subject.train.name,
    'test': subject.test.name,
    'num_train': subject.train.num_examples,
    'num_test': subject.test.num_examples,
    'probe': report['config']['probe'],
    'tasks': [
      task | {layer: {k: task[layer][k] for k in _KEPT} for layer in ('h', 'z')}
      for task in result['tasks']
    ],
    **{k: result[k] for k in ('noise_std', 'dim_h', 'dim_z', 'warnings')},
    'software': report['software'],
    'pretrained_by': _PRETRAINED_BY.value,
  }


def main(argv: list[str]) -> None:
  """Measures both encoders."""
  del argv
  console.start()
  rows = [measure(kind) for kind in ('checkpoint', 'random_init')]
  result_file.report('transforms', rows, out=_OUT.value)


if __name__ == '__main__':
  app.run(main)
