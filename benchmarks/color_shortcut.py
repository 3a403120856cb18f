"""Crops alone learn colour; crops with colour distortion learn the content.

  python -m benchmarks.color_shortcut --out=docs/results/color_shortcut

The key claim of Chen et al. 2020, section 3.2, in miniature: two pretrainings
that differ in nothing but colour distortion (configs/procedural.py), judged by
how well a linear model reads two things off the frozen features, the class (the
shape; 8 classes, chance 12.5 %) and the colours of the image (R^2 of the mean
RGB on held-out images). A random network is the baseline. Prints a table and
one JSON line; writes OUT.json and OUT.png.
"""

from __future__ import annotations

import json
import pathlib
import runpy
import tempfile
from typing import Any

from absl import app, flags, logging
import jax
import matplotlib
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax import console
from simclr_jax import main as pretrain_command
from simclr_jax.evaluation import jobs
from simclr_jax.training import metrics as metrics_lib

_OUT = flags.DEFINE_string(
  'out', 'docs/results/color_shortcut', 'Where the result goes, no suffix.'
)
_SEEDS = flags.DEFINE_list('seeds', ['0', '1'], 'Seeds of the pretrainings.')
_DURATION = flags.DEFINE_string('duration', '', 'Instead of the preset length.')
PRESETS = ('crops', 'distorted')


def mean_colors(source: Any) -> np.ndarray:
  """Mean RGB of every image, float64 [n, 3] in [0, 1]."""
  images = (source.read(i).image for i in range(source.num_examples))
  return np.stack([np.mean(image, (0, 1)) / 255 for image in images])


def color_r2(
  train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]
) -> float:
  """Held-out R^2 of colours [n, 3] by ridge regression on features [n, D]."""

  def design(h: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    h = (h.astype(np.float64) - mean) / np.maximum(std, 1e-6)
    return np.concatenate([h, np.ones((len(h), 1))], 1)

  mean, std = train[0].mean(0, dtype=np.float64), train[0].std(0)
  x = design(train[0], mean, std)
  ridge = np.eye(x.shape[1])
  ridge[-1, -1] = 0
  weights = np.linalg.solve(x.T @ x + ridge, x.T @ train[1])
  residual = test[1] - design(test[0], mean, std) @ weights
  total = test[1] - train[1].mean(0)
  return float(1 - (residual**2).sum() / (total**2).sum())


def judge(workdir: str, kind: str) -> dict[str, float]:
  """What a linear model reads off an encoder of a workdir."""
  subject = jobs.open_subject(workdir, kind=kind)
  train, test = subject.features()
  probe = jobs.run_probe(subject)['result']
  colors = [mean_colors(source) for source in (subject.train, subject.test)]
  return {
    'class_top1': probe['top1'],
    'class_low': probe['top1_interval'][0],
    'class_high': probe['top1_interval'][1],
    'color_r2': color_r2((train.h, colors[0]), (test.h, colors[1])),
  }


def pretrain(preset: str, seed: int, workdir: str) -> dict[str, float]:
  """Runs one pretraining; returns its last training metrics."""
  path = pathlib.Path(__file__).parents[1] / 'configs' / 'procedural.py'
  values = runpy.run_path(str(path))['get_config'](preset)
  values.seed = seed
  if _DURATION.value:
    values.train.duration = _DURATION.value
  pretrain_command.run(config_lib.from_config_dict(values), workdir)
  records = metrics_lib.read_lines(pathlib.Path(workdir) / 'metrics.jsonl')
  last = records[-1]
  return {'contrast_acc': last['contrast_acc'], 'loss': last['contrast_loss']}


def plot(rows: list[dict[str, Any]], path: str) -> None:
  """Class accuracy against colour R^2, one point for each encoder."""
  matplotlib.use('Agg')
  import matplotlib.pyplot as plt

  styles = {
    'random': ('#888888', 'o', 'random network'),
    'crops': ('#d95f02', 's', 'crops alone'),
    'distorted': ('#1b9e77', '^', 'crops + colour distortion'),
  }
  figure, axes = plt.subplots(figsize=(5.4, 3.8), dpi=130)
  for name, (color, marker, label) in styles.items():
    points = [r for r in rows if r['encoder'] == name]
    axes.scatter(
      [r['color_r2'] for r in points],
      [100 * r['class_top1'] for r in points],
      color=color,
      marker=marker,
      s=64,
      label=label,
    )
  axes.axhline(12.5, color='#bbbbbb', linewidth=1, linestyle='--')
  axes.text(
    0.5, 14.5, 'chance', color='#777777', transform=axes.get_yaxis_transform()
  )
  axes.set_xlabel('colour readable from the features (held-out $R^2$)')
  axes.set_ylabel('shape: linear probe top-1 (%)')
  axes.set_ylim(0, 100)
  axes.legend(frameon=False, loc='upper left')
  axes.spines[['top', 'right']].set_visible(False)
  figure.tight_layout()
  figure.savefig(path)


def main(argv: list[str]) -> None:
  """Runs every preset with every seed."""
  del argv
  console.start()
  rows: list[dict[str, Any]] = []
  with tempfile.TemporaryDirectory() as folder:
    for seed in map(int, _SEEDS.value):
      for preset in PRESETS:
        workdir = str(pathlib.Path(folder) / f'{preset}-{seed}')
        training = pretrain(preset, seed, workdir)
        row = {'encoder': preset, 'seed': seed, **training}
        rows.append(row | judge(workdir, 'checkpoint'))
        logging.info('%s', rows[-1])
      # The same network and images whichever preset's workdir names them.
      baseline = judge(workdir, 'random_init')
      rows.append({'encoder': 'random', 'seed': seed, **baseline})
  device = jax.devices()[0]
  result = {
    'benchmark': 'color_shortcut',
    'command': 'python -m benchmarks.color_shortcut'
    + f' --seeds={",".join(_SEEDS.value)} --out={_OUT.value}'
    + (f' --duration={_DURATION.value!r}' if _DURATION.value else ''),
    'hardware': f'{jax.device_count()} x {device.device_kind}',
    'rows': rows,
  }
  out = pathlib.Path(_OUT.value)
  out.parent.mkdir(parents=True, exist_ok=True)
  out.with_suffix('.json').write_text(json.dumps(result, indent=2) + '\n')
  plot(rows, str(out.with_suffix('.png')))
  print(f'{"encoder":<12}{"seed":>5}{"class top-1":>26}{"colour R^2":>12}')
  for row in rows:
    interval = f'[{row["class_low"]:.1%}, {row["class_high"]:.1%}]'
    print(
      f'{row["encoder"]:<12}{row["seed"]:>5}'
      f'{row["class_top1"]:>10.1%} {interval:>15}{row["color_r2"]:>12.3f}'
    )
  print(json.dumps(result))


if __name__ == '__main__':
  app.run(main)
