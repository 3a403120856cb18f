"""Runs what works without TensorFlow, where it is missing or made to be.

  python -m tests.without_tensorflow FOLDER [--hide]

Pretraining, linear probe and kNN on arrays, batches of every other source; in
an environment without TensorFlow (`make test-no-tf`), or as if it were one:
with --hide nothing finds the modules that need it.
"""

from __future__ import annotations

import importlib.util
import io
import json
import pathlib
import sys
from typing import Any

MODULES = ('tensorflow', 'tensorflow_datasets', 'clu', 'tensorboard')


class _Hiding:
  """A finder of modules that does not find some."""

  def __init__(self, finder):
    self._finder = finder

  def find_spec(self, name, path=None, target=None):
    if name.split('.')[0] in MODULES:
      return None
    return self._finder.find_spec(name, path, target)

  def __getattr__(self, name):
    return getattr(self._finder, name)


def hide() -> None:
  """From here on MODULES are not installed."""
  sys.meta_path[:] = [_Hiding(finder) for finder in sys.meta_path]


def write_data(folder: pathlib.Path) -> None:
  """arrays.npz, JPEGs in a folder and in a Parquet file, of two classes."""
  import numpy as np
  from PIL import Image
  import pyarrow as pa
  from pyarrow import parquet

  rng = np.random.Generator(np.random.PCG64(0))
  labels = np.arange(96) % 2
  images = (
    rng.integers(0, 120, (96, 8, 8, 3)) + 100 * labels[:, None, None, None]
  )
  images = images.astype(np.uint8)
  np.savez(
    folder / 'arrays.npz',
    train_images=images[:64],
    train_labels=labels[:64],
    test_images=images[64:],
    test_labels=labels[64:],
  )
  table: dict[str, list[Any]] = {'image': [], 'label': []}
  for i in range(24):
    path = folder / 'pictures' / str(labels[i]) / f'{i}.jpg'
    path.parent.mkdir(parents=True, exist_ok=True)
    out = io.BytesIO()
    Image.fromarray(images[i]).resize((30, 20)).save(out, 'JPEG')
    path.write_bytes(out.getvalue())
    table['image'].append({'bytes': out.getvalue(), 'path': path.name})
    table['label'].append(int(labels[i]))
  (folder / 'parquet').mkdir(exist_ok=True)
  parquet.write_table(
    pa.table(table), folder / 'parquet' / 'train-00000-of-00001.parquet'
  )


def stream_sources(folder: pathlib.Path) -> list[str]:
  """A batch of every source that needs no TensorFlow; their names."""
  from simclr_jax import config as config_lib
  from simclr_jax import data as data_lib
  from simclr_jax.data import pipeline

  sources = {
    'digits': {},
    'procedural': {},
    'folder': {
      'path': str(folder / 'pictures'),
      'labels_from': 'folders',
      'train_split': '',
    },
    'arrays': {'path': str(folder / 'arrays.npz')},
    'parquet': {'path': str(folder / 'parquet')},
  }
  for name, fields in sources.items():
    data = config_lib.DataConfig(
      source=name,
      image_size=20,
      loader='opencv',
      num_workers=int(name == 'parquet'),
      **fields,
    )
    source = data_lib.make_source(data, data.train_split, workdir=folder)
    batches = pipeline.train_batches(
      source,
      data=data,
      augment=config_lib.AugmentConfig(),
      batch_size=8,
      seed=0,
    )
    assert next(batches)['views'].shape == (8, 2, 20, 20, 3)
    batches.close()
  return list(sources)


def pretrain_and_judge(folder: pathlib.Path) -> dict[str, float]:
  """Three steps, then probe and kNN; their accuracies."""
  from simclr_jax import config as config_lib
  from simclr_jax import main
  from simclr_jax.evaluation import jobs

  config = config_lib.replace(
    config_lib.Config(),
    data={
      'source': 'arrays',
      'path': str(folder / 'arrays.npz'),
      'image_size': 8,
      'loader': 'opencv',
    },
    augment={'blur_prob': 0.0},
    model={'depth': 18, 'width': 0.0625, 'head_layers': 1, 'head_dim': 4},
    train={
      'batch_size': 32,
      'duration': '3 steps',
      'log_every': '1 steps',
      'diagnostics_every': '0 steps',
    },
    optim={'warmup': '0 steps', 'base_lr': 0.01},
    eval={'batch_size': 48},
    checkpoint={'every': '3 steps', 'keep_best': 0},
    monitor={'knn_every': '0 steps'},
    probe={
      'epochs': 5,
      'batch_size': 32,
      'base_lrs': (0.1,),
      'weight_decays': (0.0,),
      'num_bootstrap': 50,
    },
    knn={'ks': (5,), 'temperatures': (0.1,), 'num_bootstrap': 50},
  )
  workdir = str(folder / 'run')
  assert main.run(config, workdir).finished
  subject = jobs.open_subject(workdir)
  return {
    'probe': jobs.run_probe(subject)['result']['top1'],
    'knn': jobs.run_knn(subject)['result']['headline']['top1'],
  }


def refuse_tensorflows_loader() -> str:
  """What the other loader says."""
  from simclr_jax import config as config_lib
  from simclr_jax import data as data_lib
  from simclr_jax.data import pipeline

  data = config_lib.DataConfig(source='procedural', image_size=20)
  try:
    pipeline.train_batches(
      data_lib.make_source(data, 'train[:8]'),
      data=data,
      augment=config_lib.AugmentConfig(),
      batch_size=8,
      seed=0,
    )
  except ValueError as error:
    return str(error)
  raise AssertionError('tf.data was found')


def main() -> None:
  """Everything; prints what came out as one JSON line."""
  folder, *options = sys.argv[1:]
  if options == ['--hide']:
    hide()
  for name in MODULES:
    assert importlib.util.find_spec(name) is None, f'{name} is installed'
  path = pathlib.Path(folder)
  path.mkdir(parents=True, exist_ok=True)
  write_data(path)
  result = {
    'sources': stream_sources(path),
    'refused': refuse_tensorflows_loader(),
    **pretrain_and_judge(path),
  }
  lines = (path / 'run' / 'metrics.jsonl').read_text().splitlines()
  result['steps'] = [json.loads(line)['step'] for line in lines]
  result['imported'] = sorted(
    {m.split('.')[0] for m in sys.modules} & {*MODULES}
  )
  print(json.dumps(result))


if __name__ == '__main__':
  main()
