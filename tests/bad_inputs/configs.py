"""Configs, config files and command lines that cannot be used."""

from __future__ import annotations

import pathlib

from tests.bad_inputs.row import BuildFn, Row, judge, main, prepare


def _set(*arguments: str) -> BuildFn:
  return lambda folder: main(folder, *arguments)


def _field(name: str, value: object) -> BuildFn:
  return _set(f'--config.{name}={value}')


def _file(text: str, name: str = 'mine.py') -> BuildFn:
  def build(folder: pathlib.Path) -> list[str]:
    (folder / name).write_text(text)
    return [f'--config={folder / name}', f'--workdir={folder / "workdir"}']

  return build


def _config(arguments: str) -> BuildFn:
  return lambda folder: [f'--config={arguments}', f'--workdir={folder}']


_RAISES = """
def get_config():
  settings = {}
  return settings['batch']
"""
_VALUE = """
from simclr_jax import config
def get_config():
  return config.replace(config.Config(), train={'batch_sise': 3})
"""
_OPENS = """
def get_config():
  return open('/no/such/file').read()
"""
_PLAIN = """
import ml_collections
def get_config():
  return ml_collections.ConfigDict({'data': 3, 'optm': {'name': 'lars'}})
"""
_HUGE = """
from simclr_jax import config
def get_config():
  value = config.to_config_dict(config.Config())
  value.train.batch_size = 10 ** 5000
  return value
"""

HINTS = [
  Row(
    'flag of others',
    'main',
    _set('--epochs=5'),
    r"no flag of this command; did you mean --config\.train\.duration='5 ep",
  ),
  Row('field of others', 'main', _field('optim.lr', 1), "mean 'base_lr'"),
  Row(
    'field of another section',
    'main',
    _field('model.epochs', 1),
    "mean '--config.train.duration'",
  ),
  Row(
    'flag of others to judge',
    'knn',
    lambda folder: judge(folder, '--k=5'),
    r'did you mean --knn\.ks=5\?',
  ),
  Row(
    'section as a flag',
    'knn',
    lambda folder: judge(folder, '--data=/images'),
    r'give its fields, e\.g\. --data\.path=/images',
  ),
  Row(
    'flag of others to search',
    'search',
    lambda folder: ['--embeddings=x', '--topk=5'],
    r'did you mean --k=5\?',
  ),
  Row(
    'nothing given',
    'main',
    lambda folder: [],
    r'--config, --workdir are missing, e\.g\. --config=configs/\S+ --workdir=',
  ),
  Row(
    'name of a recipe',
    'main',
    _config('cifar10:cpu'),
    "mean 'configs/cifar10.py'",
  ),
  Row(
    'bucket to prepare',
    'prepare',
    lambda folder: ['--config=configs/smoke.py', '--out=gs://b/x'],
    r'--out=gs://b/x: .*must be a local',
  ),
]

MEMORY = [
  Row(
    'more memory than there is',
    'main',
    _set(
      '--config.data.source=procedural',
      '--config.data.image_size=4096',
      '--config.train.batch_size=4096',
      '--config.train.duration=9 epochs',
      '--config.monitor.knn_every=0 steps',
    ),
    r'not enough memory: the training step needs about [\d.]+ GB .*there are .*'
    r'\n.*\n  --config\.data\.image_size=\d+ ',
    code=3,
  ),
]

FIELDS = [
  Row(
    'unknown field',
    'main',
    _field('optim.base_lrr', 1),
    r"--config\.optim\.base_lrr: .*did you mean 'base_lr'\?",
  ),
  Row(
    'unknown section',
    'main',
    _field('optm.base_lr', 1),
    r"config has no field 'optm'; did you mean 'optim'\?",
  ),
  Row('override of a section', 'main', _field('optim', 1), 'is a section'),
  Row(
    'field of a value',
    'main',
    _field('seed.x', 1),
    r'config\.seed is a single value',
  ),
  Row('text for a float', 'main', _field('optim.base_lr', 'fast'), 'base_lr'),
  Row('float for an int', 'main', _field('train.batch_size', 1.5), '1.5'),
  Row(
    'text for a bool', 'main', _field('model.zero_init_residual', 'jein'), ''
  ),
  Row('text for a tuple', 'main', _field('augment.crop_area', 'all'), 'crop_a'),
  Row('three of two', 'main', _field('augment.crop_area', '(0,1,2)'), 'crop_a'),
  Row('NaN', 'main', _field('optim.base_lr', 'nan'), 'nan: .* finite'),
  Row('infinity', 'main', _field('loss.temperature', 'inf'), 'inf: .* finite'),
  Row('negative', 'main', _field('train.batch_size', -4), 'at least 2'),
  Row('zero', 'main', _field('loss.temperature', 0), 'above 0'),
  Row(
    'NaN in a tuple', 'main', _field('augment.blur_sigma', '(nan,2.0)'), 'nan'
  ),
  Row('huge int', 'main', _field('train.batch_size', 10**30), 'batch_size'),
  Row('huge layer', 'main', _field('model.head_dim', 10**9), 'at most'),
  Row('huge view', 'main', _field('data.image_size', 10**6), 'at most 8192'),
  Row('wide network', 'main', _field('model.width', 1e9), 'at most 100'),
  Row('a million workers', 'main', _field('data.num_workers', 10**6), '1024'),
  Row('close name', 'main', _field('optim.name', 'larz'), "mean 'lars'"),
  Row('duration without unit', 'main', _field('train.duration', '90'), 'unit'),
  Row('endless', 'main', _field('train.duration', '1e308 epochs'), 'longer'),
  Row('negative duration', 'main', _field('train.duration', '-3 steps'), '-3'),
  Row('half a step', 'main', _field('train.duration', '1.5 steps'), 'whole'),
  Row(
    'no training', 'main', _field('train.duration', '0 steps'), 'longer than 0'
  ),
  Row(
    'impossible pair',
    'main',
    _set('--config.model.sk_ratio=0.1', '--config.model.se_ratio=0.1'),
    'SK and SE exclude each other',
  ),
  Row(
    'three mistakes at once',
    'main',
    _set(
      '--config.train.batch_size=1',
      '--config.optim.name=x',
      '--config.knn.ks=()',
    ),
    r'3 problems(.|\n)*optim\.name(.|\n)*batch_size(.|\n)*knn\.ks',
  ),
  Row(
    'batch that does not divide',
    'main',
    _field('train.batch_size', 33),
    '--config.train.batch_size=32 does',
  ),
  Row(
    'batch beyond the data',
    'main',
    _field('train.batch_size', 4096),
    r'larger than the training split \(1442 images\)',
  ),
  Row(
    'warm-up beyond the run',
    'main',
    _field('optim.warmup', '90 epochs'),
    'never be reached',
  ),
  Row('unknown split', 'main', _field('data.train_split', 'trian'), "'train'"),
  Row(
    'empty part', 'main', _field('data.train_split', 'train[9:9]'), 'is empty'
  ),
  Row(
    'test split that was trained on',
    'knn',
    lambda folder: judge(folder.parent / 'run', '--data.test_split=train[:90]'),
    '90 examples are in .* make .* disjoint',
  ),
]

FILES = [
  Row(
    'no such file', 'main', _config('configs/smokee.py'), "'configs/smoke.py'"
  ),
  Row('no such folder', 'main', _config('cfg/smoke.py'), 'does not exist'),
  Row('folder for a file', 'main', _config('configs'), 'is a folder'),
  Row('unknown preset', 'main', _config('configs/smoke.py:digitz'), "'digits'"),
  Row(
    'syntax error',
    'main',
    _file('def get_config(:\n'),
    r'mine\.py, line 1: invalid syntax',
  ),
  Row(
    'config that raises',
    'main',
    _file(_RAISES),
    r"mine\.py, line 4: KeyError: 'batch'",
  ),
  Row(
    'config with an unknown field',
    'prepare',
    lambda folder: [*_file(_VALUE)(folder)[:1], f'--out={folder / "out"}'],
    r"mine\.py, line 4: .*\n.*batch_sise.* did you mean 'batch_size'",
  ),
  Row('config that opens', 'main', _file(_OPENS), 'mine.py.*/no/such/file'),
  Row('no get_config', 'main', _file('x = 1\n'), r'no function get_config\(\)'),
  Row(
    'config that imports',
    'main',
    _file('import torchvison\n'),
    r"line 1: ModuleNotFoundError: .*'torchvison'",
  ),
  Row(
    'config of nothing',
    'main',
    _file('def get_config():\n  pass\n'),
    'returns nothing',
  ),
  Row(
    'config of text',
    'main',
    _file('def get_config():\n  return "a"\n'),
    r'gives str, not an ml_collections\.ConfigDict',
  ),
  Row(
    'preset of a file without',
    'main',
    lambda folder: [
      f'{a}:big' if 'config' in a else a
      for a in _file('def get_config():\n  return {}\n')(folder)
    ],
    r'mine\.py.*takes 0 positional',
  ),
  Row(
    'another schema', 'main', _file(_PLAIN), r"data must be a (.|\n)*'optim'"
  ),
  Row('5000 digits', 'main', _file(_HUGE), 'thousands of digits'),
  Row('binary config', 'main', _file('\0\1\2'), r'mine\.py'),
]

COMMAND_LINES = [
  Row('nothing', 'main', lambda _: [], '--config(.|\n)*--workdir'),
  Row(
    'no workdir', 'main', lambda _: ['--config=configs/smoke.py'], '--workdir'
  ),
  Row('unknown flag', 'main', _set('--wrokdir=x'), 'wrokdir'),
  Row(
    'extra argument', 'main', _set('train.batch_size=3'), 'unknown arguments'
  ),
  Row(
    'config after its fields',
    'main',
    lambda folder: ['--config.seed=1', *main(folder)],
    'before',
  ),
  Row('no output', 'prepare', lambda _: ['--config=configs/smoke.py'], '--out'),
  Row(
    'prepare with text for a number',
    'prepare',
    lambda folder: prepare(folder, folder, '--shard_mb=many'),
    'shard_mb',
  ),
  Row(
    'prepare of twice the same',
    'prepare',
    lambda folder: prepare(folder, folder, '--splits=a=x,a=y'),
    'not all different',
  ),
  Row('knn of nothing', 'knn', lambda _: [], '--checkpoint'),
  Row(
    'step of text', 'knn', lambda _: judge('x', '--step=last'), '--step=last'
  ),
  Row(
    'step that is not there',
    'knn',
    lambda folder: judge(folder.parent / 'run', '--step=77'),
    r'no checkpoint 77 in .*there are steps: \[3\]',
  ),
  Row(
    'step of 5000 digits',
    'knn',
    lambda folder: judge(folder.parent / 'run', f'--step={"9" * 5000}'),
    '--step',
  ),
  Row(
    'step in other digits', 'knn', lambda _: judge('x', '--step=²'), '--step=²'
  ),
  Row(
    'unknown field of a section',
    'knn',
    lambda folder: judge(folder, '--knn.kss=3'),
    'kss',
  ),
  Row(
    'text for ks',
    'knn',
    lambda folder: judge(folder.parent / 'run', '--knn.ks=many'),
    'ks',
  ),
  Row(
    'flags that exclude each other',
    'linear_probe',
    lambda folder: judge(folder, '--follow', '--random_init'),
    'exclude each other',
  ),
  Row(
    'no such task',
    'probe_transforms',
    lambda folder: judge(folder.parent / 'run', '--tasks=rotations'),
    "did you mean 'rotation'",
  ),
  Row(
    'noise that is none',
    'probe_transforms',
    lambda folder: judge(folder.parent / 'run', '--noise_std=0'),
    '--noise_std=0',
  ),
  Row(
    'report with an unknown flag',
    'report',
    lambda folder: [f'--workdir={folder}', '--setp=3'],
    '--setp',
  ),
  Row(
    'recipe without a card',
    'report',
    lambda folder: [f'--workdir={folder.parent / "run"}', '--check_recipe'],
    'no measured card',
  ),
  Row(
    'recipe without a card, before it is trained',
    'main',
    _set('--check_recipe', '--config.optim.base_lr=0.123'),
    'no measured card',
  ),
  Row(
    'report of a text step',
    'report',
    lambda _: ['--workdir=x', '--step=x'],
    "--step=x: a number or 'best'",
  ),
  Row(
    'report of no labels',
    'report',
    lambda folder: [
      f'--workdir={folder.parent / "run"}',
      '--labels_per_class=-1',
    ],
    'labels_per_class',
  ),
]

ROWS = [*HINTS, *MEMORY, *FIELDS, *FILES, *COMMAND_LINES]
