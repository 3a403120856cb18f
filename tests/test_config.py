from __future__ import annotations

import ast
from collections.abc import Iterator
import dataclasses
import json
import pathlib
import re
import subprocess
import sys
import typing

from absl import flags
from ml_collections import config_flags
import pytest

from simclr_jax import config as config_lib
from simclr_jax import config_checks

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'simclr_jax'
SECTIONS = {
  field.name: field.default_factory
  for field in dataclasses.fields(config_lib.Config)
  if field.default_factory is not dataclasses.MISSING
}
VALID = {'data': {'name': 'cifar10'}}


def _changed(path: str, value):
  """VALID with config.<path> set."""
  section, _, field = path.rpartition('.')
  if not section:
    return VALID | {field: value}
  return VALID | {section: VALID.get(section, {}) | {field: value}}


def _problems(values) -> list[str]:
  with pytest.raises(ValueError) as error:
    config_lib.from_config_dict(values)
  first, *lines = str(error.value).split('\n')
  assert first.startswith(f'{len(lines)} problem')
  return lines


# Round trips.


def test_config_dict_round_trip():
  config = config_lib.from_config_dict(
    VALID
    | {
      'optim': {'base_lr': 0.1, 'decay_exclude': ('bias',)},
      'knn': {'ks': (3, 4)},
      'seed': 7,
    }
  )
  assert (
    config_lib.from_config_dict(config_lib.to_config_dict(config)) == config
  )


def test_json_round_trip_gives_tuples_and_floats_back():
  config = config_lib.from_config_dict(VALID | {'model': {'width': 2.0}})
  text = json.dumps(config_lib.to_dict(config)).replace('2.0', '2')
  restored = config_lib.from_config_dict(json.loads(text))
  assert restored == config
  assert type(restored.model.width) is float
  assert type(restored.knn.ks) is tuple


def test_replace_checks():
  config = config_lib.from_config_dict(VALID)
  assert config_lib.replace(config, seed=3, loss={'temperature': 0.5}) == (
    dataclasses.replace(
      config, seed=3, loss=config_lib.LossConfig(temperature=0.5)
    )
  )
  with pytest.raises(ValueError, match='config.loss.temperature = -1.0'):
    config_lib.replace(config, loss={'temperature': -1})


# What comes from outside.


@pytest.mark.parametrize(
  'path,closest',
  [
    ('optim.base_lrr', 'base_lr'),
    ('train.batchsize', 'batch_size'),
    ('optimizer', 'optim'),
    ('model.depths', 'depth'),
  ],
)
def test_unknown_field_names_the_closest(path, closest):
  (line,) = _problems(_changed(path, 1))
  assert f'config.{path} is not a field; did you mean {closest!r}?' in line


def test_unknown_field_without_a_close_name_lists_all():
  (line,) = _problems(_changed('loss.zzz', 1))
  assert 'known: temperature, scale, normalize' in line


@pytest.mark.parametrize(
  'path,value,wanted',
  [
    ('train.batch_size', '512', 'int'),
    ('train.batch_size', 512.0, 'int'),
    ('train.batch_size', True, 'int'),
    ('train.batch_size', None, 'int'),
    ('model.width', True, 'float'),
    ('loss.temperature', '0.1', 'float'),
    ('optim.nesterov', 1, 'bool'),
    ('optim.name', 3, 'str'),
    ('train.duration', 100, 'str'),
    ('augment.crop_area', 0.5, 'tuple[float, float]'),
    ('augment.crop_area', (0.1, 0.2, 0.3), 'tuple[float, float]'),
    ('augment.crop_area', (0.1, 'x'), 'tuple[float, float]'),
    ('knn.ks', (1, 2.5), 'tuple[int, ...]'),
    ('optim.decay_exclude', 'bias', 'tuple[str, ...]'),
    ('model', 5, 'a section of fields'),
    ('seed', '0', 'int'),
  ],
)
def test_wrong_type(path, value, wanted):
  (line,) = _problems(_changed(path, value))
  assert f'config.{path} must be {wanted}, got {value!r}' in line


def test_not_a_mapping():
  (line,) = _problems([1, 2])
  assert 'config must be a section of fields' in line


NAN, INFINITY = float('nan'), float('inf')
IMPOSSIBLE = [
  ('seed', -1),
  ('seed', 2**31),
  ('objective', 'simclrr'),
  ('data.source', 'tdfs'),
  ('data.name', ''),
  ('data.labels_from', 'names'),
  ('data.labels_from', 'folders'),
  ('data.path', '/pictures'),
  ('data.train_split', ''),
  ('data.test_split', 'train'),
  ('data.image_size', 3),
  ('data.loader', 'grain'),
  ('data.augment_on', 'gpu'),
  ('data.device_cache', 'host'),
  ('data.canvas_size', -1),
  ('data.canvas_size', 64),
  ('data.bits', 7),
  ('data.max_bad_fraction', 1.5),
  ('data.num_workers', -1),
  ('data.prefetch_batches', 0),
  ('augment.crop_sampler', 'offical'),
  ('augment.crop_area', (0.5, 0.1)),
  ('augment.crop_area', (-0.1, 1.0)),
  ('augment.crop_area', (0.1, 1.1)),
  ('augment.crop_aspect', (0.0, 1.0)),
  ('augment.crop_aspect', (NAN, 1.0)),
  ('augment.crop_aspect', (1.0, INFINITY)),
  ('augment.resize', 'nearest'),
  ('augment.flip_prob', 1.01),
  ('augment.jitter_prob', -0.1),
  ('augment.gray_prob', NAN),
  ('augment.blur_prob', 2.0),
  ('augment.solarize_prob', -1.0),
  ('augment.jitter_strength', -1.0),
  ('augment.brightness', -1.0),
  ('augment.contrast', -1.0),
  ('augment.saturation', INFINITY),
  ('augment.hue', 0.6),
  ('augment.hue', -0.1),
  ('augment.jitter_order', 'shuffled'),
  ('augment.brightness_mode', 'mult'),
  ('augment.color_ops', 'pil'),
  ('augment.blur_sigma', (0.0, 2.0)),
  ('augment.blur_sigma_per', 'view'),
  ('augment.solarize_threshold', 2.0),
  ('model.depth', 51),
  ('model.width', 0.0),
  ('model.sk_ratio', 1.5),
  ('model.se_ratio', -0.1),
  ('model.stem', 'small'),
  ('model.padding', 'valid'),
  ('model.shortcut', 'none'),
  ('model.bn_decay', 1.5),
  ('model.bn_epsilon', 0.0),
  ('model.head', 'mlp'),
  ('model.head_layers', 5),
  ('model.head_hidden', -1),
  ('model.head_dim', 0),
  ('model.head_norm', 'layer'),
  ('model.batch_norm', 'fold'),
  ('model.remat', 'all'),
  ('model.compute_dtype', 'float16'),
  ('loss.temperature', 0.0),
  ('loss.temperature', NAN),
  ('loss.temperature', INFINITY),
  ('loss.scale', 'mean'),
  ('loss.implementation', 'chunk'),
  ('loss.chunk_size', 1),
  ('loss.chunk_size', -2),
  ('optim.name', 'adamax'),
  ('optim.base_lr', 0.0),
  ('optim.lr_scaling', 'square'),
  ('optim.schedule', 'cosin'),
  ('optim.warmup', '10'),
  ('optim.warmup', '-1 epochs'),
  ('optim.step_milestones', (0.8, 0.6)),
  ('optim.step_milestones', (0.5, 1.5)),
  ('optim.step_milestones', (NAN,)),
  ('optim.step_gamma', 0.0),
  ('optim.weight_decay', -1e-6),
  ('optim.decay_exclude', ('bn',)),
  ('optim.adapt_exclude', ('biases',)),
  ('optim.momentum', 1.5),
  ('optim.trust_coefficient', 0.0),
  ('optim.adam_b1', -0.1),
  ('optim.adam_b2', 1.5),
  ('optim.adam_eps', 0.0),
  ('optim.clip_grad_norm', -1.0),
  ('train.batch_size', 1),
  ('train.duration', '0 epochs'),
  ('train.duration', '100'),
  ('train.duration', '1e999 epochs'),
  ('train.log_every', '0 steps'),
  ('train.diagnostics_every', 'never'),
  ('train.profile_start', -2),
  ('train.profile_steps', 0),
  ('train.matmul_precision', 'high'),
  ('train.micro_batches', 0),
  ('train.micro_batches', 3),
  ('train.accumulation', 'mean'),
  ('train.accumulation', 'plain'),
  ('train.state_sharding', 'zero'),
  ('train.on_non_finite', 'ignore'),
  ('train.max_skipped_steps', 0),
  ('checkpoint.every', '0 steps'),
  ('checkpoint.keep_latest', 0),
  ('checkpoint.keep_best', -1),
  ('checkpoint.best_metric', 'accuracy'),
  ('checkpoint.max_failed_saves', -1),
  ('monitor.knn_every', 'daily'),
  ('monitor.online_lr', 'inf'),
  ('monitor.knn_max_bank', 0),
  ('eval.batch_size', 0),
  ('eval.crop_fraction', 0.0),
  ('eval.resize', 'area'),
  ('probe.mode', 'oficial'),
  ('probe.batch_size', 0),
  ('probe.epochs', 0),
  ('probe.base_lrs', ()),
  ('augment.randaugment_layers', 17),
  ('augment.randaugment_magnitude', 31),
  ('model.classifier_layer', 5),
  ('probe.base_lrs', (0.1, 0.0)),
  ('probe.base_lrs', (0.1, NAN)),
  ('probe.weight_decays', ()),
  ('probe.weight_decays', (-1.0,)),
  ('probe.weight_decays', (INFINITY,)),
  ('probe.num_seeds', 0),
  ('probe.holdout_fraction', 1.0),
  ('probe.labels_per_class', -1),
  ('probe.num_bootstrap', 0),
  ('knn.ks', ()),
  ('knn.ks', (0,)),
  ('knn.temperatures', ()),
  ('knn.temperatures', (0.0,)),
  ('knn.temperatures', (NAN,)),
  ('knn.chunk_size', 0),
  ('knn.layer', 'p'),
  ('knn.num_bootstrap', 0),
]


@pytest.mark.parametrize('path,value', IMPOSSIBLE)
def test_impossible_value(path, value):
  (line,) = _problems(_changed(path, value))
  assert line.startswith(f'  - config.{path} = {value!r}: ')


def _fields() -> Iterator[tuple[str, str]]:
  for section, cls in SECTIONS.items():
    for field in dataclasses.fields(cls):
      yield section, field.name


def test_the_table_covers_every_field_with_a_rule():
  # Any value of these is possible.
  free = {
    f'{section}.{name}'
    for section, name in _fields()
    if typing.get_type_hints(SECTIONS[section])[name] is bool
  } | {'data.data_dir', 'data.image_key', 'data.label_key'}
  ruled = {path for path, _ in IMPOSSIBLE if '.' in path}
  assert ruled | free == {f'{s}.{n}' for s, n in _fields()}


@pytest.mark.parametrize(
  'values,path',
  [
    ({'data': {'source': 'folder'}}, 'data.path'),
    ({'data': {'source': 'parquet'}}, 'data.path'),
    ({'data': {'source': 'arrays'}}, 'data.path'),
    (
      {'data': {'source': 'parquet', 'path': '/p', 'labels_from': 'folders'}},
      'data.labels_from',
    ),
    (
      {'data': {'source': 'arrays', 'path': '/p', 'train_split': ''}},
      'data.train_split',
    ),
    (
      {'data': {'source': 'folder', 'path': '/p', 'name': 'cifar10'}},
      'data.name',
    ),
    ({'data': {'source': 'digits', 'name': 'cifar10'}}, 'data.name'),
    ({'data': {'source': 'procedural', 'path': '/p'}}, 'data.path'),
    ({'data': {'source': 'digits', 'canvas_size': 64}}, 'data.canvas_size'),
    ({'model': {'sk_ratio': 0.1, 'se_ratio': 0.1}}, 'model.se_ratio'),
    ({'model': {'sk_ratio': 0.1, 'padding': 'torch'}}, 'model.padding'),
    (
      {'augment': {'hue': 0.3, 'jitter_strength': 2.0}},
      'augment.hue',
    ),
    (
      {'loss': {'implementation': 'plain', 'chunk_size': 64}},
      'loss.chunk_size',
    ),
    (
      {'data': {'source': 'digits', 'augment_on': 'hybrid'}}
      | {'augment': {'randaugment_layers': 2}},
      'augment.randaugment_layers',
    ),
    (
      {'model': {'head_layers': 2, 'classifier_layer': 3}},
      'model.classifier_layer',
    ),
    (
      {'model': {'head': 'linear', 'classifier_layer': 2}},
      'model.classifier_layer',
    ),
    ({'checkpoint': {'keep_best': 1}}, 'checkpoint.best_metric'),
    (
      {
        'checkpoint': {'keep_best': 1, 'best_metric': 'online_top1'},
        'monitor': {'online_head': False},
      },
      'checkpoint.best_metric',
    ),
    (
      {
        'data': {'name': 'x', 'test_split': ''},
        'monitor': {'knn_every': '1 epochs'},
      },
      'monitor.knn_every',
    ),
  ],
)
def test_impossible_combination(values, path):
  (line,) = _problems(VALID | values)
  assert line.startswith(f'  - config.{path} = ')


def test_possible_neighbours_of_the_combinations():
  for values in (
    {'data': {'source': 'folder', 'path': '/p', 'train_split': ''}},
    {'data': {'source': 'parquet', 'path': '/p'}},
    {'data': {'source': 'arrays', 'path': '/p.npz'}},
    {'data': {'source': 'digits'}},
    {'data': {'source': 'digits', 'canvas_size': 64, 'augment_on': 'device'}},
    {'data': {'source': 'digits', 'name': 'digits'}},
    {'data': {'source': 'folder', 'path': '/p', 'labels_from': 'folders'}},
    {'checkpoint': {'keep_best': 1, 'best_metric': 'loss'}},
    {'checkpoint': {'keep_best': 1}, 'monitor': {'knn_every': '1 epochs'}},
    {'model': {'head_layers': 0}},
  ):
    config_lib.from_config_dict(VALID | values)


def test_one_error_lists_problems_of_every_kind():
  lines = _problems(
    {
      'data': {'name': 'x', 'image_size': 2},
      'optim': {'base_lr': 'fast', 'momentun': 0.9, 'warmup': 'ten'},
      'loss': {'temperature': -1.0},
      'probe': 3,
      'train': {'batch_size': 1},
    }
  )
  starts = [re.match(r'  - config\.([\w.]+)', line)[1] for line in lines]
  assert sorted(starts) == [
    'data.image_size',
    'loss.temperature',
    'optim.base_lr',
    'optim.momentun',
    'optim.warmup',
    'probe',
    'train.batch_size',
  ]


def test_a_field_that_was_not_read_excuses_the_rules_that_rest_on_it():
  # The default of source is 'tfds', which would need a name.
  (line,) = _problems({'data': {'source': 3}})
  assert 'config.data.source must be str' in line
  (line,) = _problems({'data': 3})
  assert 'config.data must be a section' in line


def test_validate_is_the_same_check():
  config = config_lib.Config()
  with pytest.raises(ValueError, match='config.data.name'):
    config_lib.validate(config)
  assert config_checks.find_problems(config_lib.from_config_dict(VALID)) == []


def test_the_checks_know_every_objective():
  # The schema imports no JAX, so it holds the names a second time.
  from simclr_jax import objectives

  assert tuple(objectives.OBJECTIVES) == config_checks.OBJECTIVES


def test_the_checks_know_which_objectives_couple_the_batch():
  from simclr_jax import objectives

  config = config_lib.from_config_dict(VALID)
  coupling = [
    name
    for name, make in objectives.OBJECTIVES.items()
    if make(config).couples_batch
  ]
  assert tuple(coupling) == config_checks.COUPLING_OBJECTIVES


# The command line.


@pytest.fixture
def parse(tmp_path, monkeypatch):
  return lambda *arguments: _parse(tmp_path, monkeypatch, *arguments)


def _parse(tmp_path, monkeypatch, *arguments: str):
  path = tmp_path / 'file.py'
  path.write_text(
    'from simclr_jax import config as c\n'
    'def get_config():\n'
    "  return c.to_config_dict(c.Config(data=c.DataConfig(name='d')))\n"
  )
  values = flags.FlagValues()
  holder = config_flags.DEFINE_config_file('config', flag_values=values)
  argv = ['program', f'--config={path}', *arguments]
  # config_flags looks there for the overrides, not into what it is given.
  monkeypatch.setattr(sys, 'argv', argv)
  values(argv)
  return config_lib.from_config_dict(holder.value)


def test_overrides_from_the_command_line(parse):
  config = parse(
    '--config.optim.base_lr=1',
    '--config.train.duration=5 epochs',
    '--config.knn.ks=(3,)',
    '--config.optim.decay_exclude=()',
    '--config.augment.crop_area=(0.2,1)',
    '--config.optim.nesterov',
    '--config.seed=5',
  )
  assert config.optim.base_lr == 1.0
  assert config.train.duration == '5 epochs'
  assert config.knn.ks == (3,)
  assert config.optim.decay_exclude == ()
  assert config.augment.crop_area == (0.2, 1.0)
  assert config.optim.nesterov is True
  assert config.seed == 5


def test_a_wrong_override_is_an_error(parse):
  with pytest.raises((AttributeError, KeyError), match='base_lrr'):
    parse('--config.optim.base_lrr=1')
  with pytest.raises(flags.IllegalFlagValueError):
    parse('--config.train.batch_size=many')
  with pytest.raises(ValueError, match='config.optim.name'):
    parse('--config.optim.name=lasr')


# The schema.


def test_every_field_is_described():
  for section, cls in {'config': config_lib.Config, **SECTIONS}.items():
    words = set(re.findall(r'\w+', cls.__doc__.split('Attributes:')[1]))
    for field in dataclasses.fields(cls):
      if field.name not in SECTIONS:
        assert field.name in words, f'{section}.{field.name}'


def test_the_schema_starts_neither_jax_nor_tensorflow():
  code = (
    'import sys, simclr_jax.config, simclr_jax.resolve\n'
    'sys.exit(str({"jax", "tensorflow", "flax"} & set(sys.modules) or ""))'
  )
  run = subprocess.run(
    [sys.executable, '-c', code],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=60,
    check=False,
  )
  assert run.stderr.strip() == '', run.stderr


def fields_read(text: str) -> set[str]:
  """'section.field' for every config field that a file reads.

  A read is an attribute of something known to be that section: `x.optim.name`;
  `optim.name` where optim (or optim_config) is a bare name; or `y.name` where
  the file annotates y as OptimConfig, or assigns it from `... .optim`; and
  getattr of such a thing over a loop of literal names. Top
  level fields ('seed') must be read from something called config, or annotated
  Config.
  """
  tree = ast.parse(text)
  classes = {cls.__name__: section for section, cls in SECTIONS.items()}
  classes['Config'] = ''
  known = {section: section for section in SECTIONS}
  known |= {f'{section}_config': section for section in SECTIONS}
  sections = {name: {section} for name, section in known.items()}
  sections['config'] = {''}

  def note(name: str, annotation: ast.AST | None) -> None:
    if annotation is None:
      return
    for word in re.findall(r'\w+', ast.unparse(annotation)):
      if word in classes:
        sections.setdefault(name, set()).add(classes[word])

  for node in ast.walk(tree):
    if isinstance(node, ast.arg):
      note(node.arg, node.annotation)
    elif isinstance(node, ast.AnnAssign):
      note(ast.unparse(node.target).split('.')[-1], node.annotation)
    elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute):
      if node.value.attr in SECTIONS:
        for target in node.targets:
          name = ast.unparse(target).split('.')[-1]
          sections.setdefault(name, set()).add(node.value.attr)

  # for name in ('a', 'b'): getattr(section, name)
  loops: dict[str, set[str]] = {}
  for node in ast.walk(tree):
    if isinstance(node, ast.For):
      loops.setdefault(ast.unparse(node.target), set()).update(
        str(element.value)
        for element in getattr(node.iter, 'elts', ())
        if isinstance(element, ast.Constant)
      )

  found = set()
  for node in ast.walk(tree):
    owner, names = None, set()
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
      owner, names = node.value, {node.attr}
    elif isinstance(node, ast.Call) and ast.unparse(node.func) == 'getattr':
      owner, names = node.args[0], loops.get(ast.unparse(node.args[1]), set())
    if owner is not None:
      for section in sections.get(ast.unparse(owner).split('.')[-1], ()):
        found |= {f'{section}.{name}'.lstrip('.') for name in names}
  return found


def test_every_field_is_read_somewhere():
  read = set().union(
    *(
      fields_read(path.read_text())
      for path in PACKAGE.rglob('*.py')
      # Checking a field is not using it.
      if path.name not in ('config.py', 'config_checks.py')
    )
  )
  fields = {f'{section}.{name}' for section, name in _fields()}
  fields |= {
    field.name
    for field in dataclasses.fields(config_lib.Config)
    if field.name not in SECTIONS
  }
  unread = sorted(fields - read)
  assert not unread, f'config fields that do nothing: {", ".join(unread)}'


@pytest.mark.parametrize(
  'text,read',
  [
    ('run.config.optim.base_lr', {'optim.base_lr'}),
    ('def f(o: config_lib.OptimConfig): return o.base_lr', {'optim.base_lr'}),
    ('o = self.config.optim\nprint(o.base_lr)', {'optim.base_lr'}),
    (
      'class M:\n  c: ModelConfig\n  def f(self): self.c.depth',
      {'model.depth'},
    ),
    ('config.seed', {'seed'}),
    (
      "for n in ('hue', 'contrast'): getattr(config.augment, n)",
      {'augment.hue', 'augment.contrast'},
    ),
    ('other.base_lr', set()),
    ('config.optim.base_lr = 3', set()),
    ('def f(base_lr): return base_lr', set()),
  ],
)
def test_reads_are_found(text, read):
  fields = {f'{s}.{n}' for s, n in _fields()} | {'seed'}
  assert fields_read(text) & fields == read
