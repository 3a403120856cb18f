"""Checkpoints that were edited, damaged, or are of another model."""

from __future__ import annotations

from collections.abc import Callable
import json
import pathlib
import shutil
from typing import Any

from simclr_jax import config as config_lib
from simclr_jax.training import manifest
from tests import small_run
from tests.bad_inputs.row import RUN, BuildFn, Row, copy_run, judge, pictures

Json = dict[str, Any]


def _step(run: pathlib.Path) -> pathlib.Path:
  return run / 'checkpoints' / '3'


def _read(run: pathlib.Path, item: str) -> Json:
  return json.loads((_step(run) / item / 'metadata').read_text())


def _write(run: pathlib.Path, item: str, value: object) -> None:
  (_step(run) / item / 'metadata').write_text(json.dumps(value))


def forge(
  run: pathlib.Path,
  *,
  passport_fn: Callable[[Any], Any] = lambda p: p,
  manifest_fn: Callable[[Json], Json] = lambda m: m,
) -> None:
  """Changes passport and manifest, with digests that are right again."""
  passport = passport_fn(_read(run, 'passport'))
  body = manifest_fn(_read(run, 'manifest'))
  body = {k: v for k, v in body.items() if k != 'sha256'}
  if 'passport' in body:
    body['passport'] = manifest.digest_json(passport)
  _write(run, 'passport', passport)
  _write(run, 'manifest', {**body, 'sha256': manifest.digest_json(body)})


def _passport(change: Callable[[Any], Any]) -> BuildFn:
  def build(folder: pathlib.Path) -> list[str]:
    run = copy_run(folder)
    forge(run, passport_fn=change)
    return judge(run)

  return build


def _manifest(change: Callable[[Json], Json]) -> BuildFn:
  def build(folder: pathlib.Path) -> list[str]:
    run = copy_run(folder)
    forge(run, manifest_fn=change)
    return judge(run)

  return build


def _config(section: str, **fields: object) -> BuildFn:
  """A passport whose config has these fields."""

  def change(passport: Json) -> Json:
    config = passport['config']
    config = {**config, section: {**config.get(section, {}), **fields}}
    return {**passport, 'config': config}

  return _passport(change)


def _files(change: Callable[[pathlib.Path], object]) -> BuildFn:
  def build(folder: pathlib.Path) -> list[str]:
    run = copy_run(folder)
    change(_step(run))
    return judge(run)

  return build


def _arrays(change: Callable[[Json], object]) -> BuildFn:
  """A manifest with other entries of the encoder's arrays."""

  def edit(body: Json) -> Json:
    change(body['arrays']['encoder'])
    return body

  return _manifest(edit)


def _first(**fields: object) -> BuildFn:
  return _arrays(lambda e: next(iter(e.values())).update(fields))


def _largest(folder: pathlib.Path) -> pathlib.Path:
  files = [p for p in folder.rglob('*') if p.is_file()]
  return max(files, key=lambda p: p.stat().st_size)


def _flip(step: pathlib.Path) -> None:
  path = _largest(step / 'encoder')
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 0xFF
  path.write_bytes(bytes(data))


def _cut(step: pathlib.Path) -> None:
  path = _largest(step / 'encoder')
  path.write_bytes(path.read_bytes()[:100])


def _nan(folder: pathlib.Path) -> list[str]:
  make = small_run.make_variables

  def broken(*args: Any, **options: Any) -> Any:
    variables = make(*args, **options)
    variables['params']['backbone']['conv1']['kernel'][:] = float('nan')
    return variables

  try:
    small_run.make_variables = broken
    small_run.save_small_run(folder / 'run')
  finally:
    small_run.make_variables = make
  return judge(folder / 'run')


def _another_model(folder: pathlib.Path) -> list[str]:
  """The arrays of one network under the passport of another."""
  config = config_lib.replace(small_run.CONFIG, model={'width': 0.125})
  small_run.save_small_run(folder / 'wide', config=config)
  wide = _read(folder / 'wide', 'passport')
  run = copy_run(folder)
  forge(run, passport_fn=lambda _: wide)
  return judge(run)


def _resume_another(folder: pathlib.Path) -> list[str]:
  return _resume(copy_run(folder))


def _resume(run: pathlib.Path) -> list[str]:
  return [
    '--config=configs/procedural.py',
    f'--workdir={run}',
    '--config.data.loader=opencv',
  ]


def _embed_damaged(folder: pathlib.Path) -> list[str]:
  given, *_ = _files(_flip)(folder)
  return [given, f'--input={pictures(folder)}', f'--out={folder / "out"}']


def _link_outside(step: pathlib.Path) -> None:
  step.rename(step.parent.parent / 'elsewhere')
  step.symlink_to(step.parent.parent / 'elsewhere')


def _module(folder: pathlib.Path) -> list[str]:
  """A passport that names files and modules, which nobody may import."""
  (folder / 'evil.py').write_text(
    f'import pathlib\npathlib.Path({str(folder / "executed")!r}).touch()\n'
  )
  run = copy_run(folder)
  names = {'config_file': str(folder / 'evil.py'), '__import__': 'evil'}
  forge(run, passport_fn=lambda p: {**p, **names, 'objective': 'evil:run'})
  # The passport has been read when this is refused.
  return judge(run, '--data.test_split=')


def _report(build: BuildFn) -> BuildFn:
  """The same for `report`."""
  return lambda folder: [f'--workdir={build(folder)[0].partition("=")[2]}']


_no_passport = _files(lambda step: shutil.rmtree(step / 'passport'))
_DAMAGED = 'no readable checkpoint'
ROWS = [
  Row(
    'edited passport',
    'knn',
    _files(lambda s: (s / 'passport' / 'metadata').write_text('{"step": 9}')),
    'the passport is not what was saved',
  ),
  Row(
    'passport that is no JSON',
    'knn',
    _files(lambda s: (s / 'passport' / 'metadata').write_text('step: 3')),
    _DAMAGED,
  ),
  Row(
    'passport 100,000 deep',
    'knn',
    _files(lambda s: (s / 'passport' / 'metadata').write_text('[' * 100_000)),
    _DAMAGED,
  ),
  Row(
    'passport of 3', 'knn', _passport(lambda p: 3), 'a passport is a JSON obj'
  ),
  Row(
    'empty passport',
    'report',
    _report(_passport(lambda p: {})),
    'the passport lacks schema_version',
  ),
  Row(
    'passport of version 99',
    'knn',
    _passport(lambda p: {**p, 'schema_version': 99}),
    'a newer simclr_jax wrote it',
  ),
  Row(
    'passport of version x',
    'linear_probe',
    _passport(lambda p: {**p, 'schema_version': 'x'}),
    "schema version 'x'",
  ),
  Row(
    'passport with a config of text',
    'knn',
    _passport(lambda p: {**p, 'config': 'lars'}),
    'config must be a section',
  ),
  Row(
    'passport with an unknown field',
    'knn',
    _config('model', dpeth=18),
    "config.model.dpeth is not a field; did you mean 'depth'",
  ),
  Row(
    'passport with a wrong type',
    'knn',
    _config('model', depth='18'),
    "got '18'",
  ),
  Row(
    'passport with a huge number',
    'knn',
    _config('model', head_dim=10**40),
    'head_dim must be int',
  ),
  Row(
    'passport of 30 MB of text',
    'knn',
    _config('data', path='x' * 30_000_000),
    r'300000\d\d characters',
  ),
  Row(
    'passport without its data',
    'knn',
    _passport(lambda p: {k: v for k, v in p.items() if k != 'data'}),
    'the passport lacks data',
  ),
  Row('passport that names a module', 'knn', _module, 'test_split is empty'),
  Row(
    'passport that leads out',
    'knn',
    _config(
      'data',
      source='folder',
      path='../../../nowhere',
      train_split='train',
      test_split='test',
    ),
    'is not a folder',
  ),
  Row('manifest of nothing', 'knn', _manifest(lambda m: {}), _DAMAGED),
  Row(
    'manifest without arrays',
    'knn',
    _manifest(lambda m: {k: v for k, v in m.items() if k != 'arrays'}),
    _DAMAGED,
  ),
  Row(
    'manifest with metrics of text',
    'knn',
    lambda folder: [
      *_manifest(lambda m: {**m, 'metrics': 'good'})(folder),
      '--step=best',
    ],
    'metrics',
  ),
  Row('array of objects', 'knn', _first(dtype='object'), _DAMAGED),
  Row('array of text', 'knn', _first(dtype='evil()'), _DAMAGED),
  Row('array of 10 EB', 'knn', _first(shape=[2**60, 2]), 'of another shape'),
  Row('array of 10 TB', 'knn', _first(shape=[10**12, 3]), 'of another shape'),
  Row('array of -1', 'knn', _first(shape=[-1]), 'of another shape'),
  Row(
    'array that leads out',
    'knn',
    _arrays(lambda e: e.update({'../../state/x': next(iter(e.values()))})),
    _DAMAGED,
  ),
  Row(
    'array within an array',
    'knn',
    _arrays(lambda e: e.update({f'{next(iter(e))}/x': next(iter(e.values()))})),
    _DAMAGED,
  ),
  Row('flipped byte', 'knn', _files(_flip), _DAMAGED),
  Row('cut array', 'knn', _files(_cut), _DAMAGED),
  Row(
    'no arrays', 'knn', _files(lambda s: shutil.rmtree(s / 'encoder')), _DAMAGED
  ),
  Row('no passport', 'report', _report(_no_passport), _DAMAGED),
  Row(
    'step that is a file',
    'knn',
    _files(lambda s: (shutil.rmtree(s), s.write_text(''))),
    'there are steps: none',
  ),
  Row(
    'step that is a dangling link',
    'knn',
    _files(lambda s: (shutil.rmtree(s), s.symlink_to('nowhere'))),
    'there are steps: none',
  ),
  Row(
    'step that is an empty folder',
    'knn',
    _files(lambda s: (shutil.rmtree(s), s.mkdir())),
    _DAMAGED,
  ),
  Row(
    'step 007',
    'knn',
    _files(lambda s: s.rename(s.with_name('007'))),
    'there are steps: none',
  ),
  Row(
    'step that is a link',
    'knn',
    lambda folder: [*_files(_link_outside)(folder), '--data.test_split='],
    'test_split is empty',  # It was read.
  ),
  Row('NaN parameters', 'knn', _nan, 'finite|NaN|nan'),
  Row('another model', 'knn', _another_model, 'does not fit|shape'),
  Row('workdir of another run', 'main', _resume_another, 'another run'),
  Row(
    'resumed without a score',
    'main',
    lambda folder: (
      _manifest(lambda m: {k: v for k, v in m.items() if k != 'metrics'})(
        folder
      )
      and _resume(folder / RUN)
    ),
    _DAMAGED,
  ),
  # One meaning in every command that reads a checkpoint.
  Row('a damaged run, probed', 'linear_probe', _files(_flip), _DAMAGED),
  Row('a damaged run, of views', 'probe_transforms', _files(_flip), _DAMAGED),
  Row('a damaged run, shown', 'report', _report(_files(_flip)), _DAMAGED),
  Row('a damaged run, embedded', 'embed', _embed_damaged, _DAMAGED),
]
