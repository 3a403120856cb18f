"""Files that `import_checkpoint` takes for data, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
import functools
import io
import os
import pathlib
import zipfile

import numpy as np

from simclr_jax import models
from tests import small_run
from tests.bad_inputs.row import BuildFn, Row

_NETWORK = (
  '--config=configs/procedural.py',
  '--config.data.image_size=8',
  '--config.model.depth=18',
  '--config.model.width=0.0625',
  '--config.model.head_layers=1',
  '--config.model.head_dim=4',
)


class _Evil:
  """Says so in a file when a pickle of it is loaded."""

  def __init__(self, path: pathlib.Path):
    self._path = str(path)

  def __reduce__(self) -> tuple[object, ...]:
    return os.mkdir, (self._path,)


@functools.cache
def _arrays() -> dict[str, np.ndarray]:
  variables = small_run.make_variables(small_run.CONFIG, num_classes=8, seed=0)
  return dict(models.flat_paths(variables))


def _import(source: object, *arguments: str, name: str = 'npz') -> BuildFn:
  """`import_checkpoint` of a file in the row's folder."""
  return lambda folder: [
    f'--source={folder / str(source)}',
    f'--format={name}',
    f'--out={folder / "out"}',
    *_NETWORK,
    *arguments,
  ]


def _npz(change: Callable[[dict[str, np.ndarray]], object]) -> BuildFn:
  """An .npz of a network, changed."""

  def build(folder: pathlib.Path) -> list[str]:
    arrays = dict(_arrays())
    change(arrays)
    np.savez(folder / 'model.npz', **arrays)
    return _import('model.npz')(folder)

  return build


def _bytes(
  change: Callable[[bytes], bytes], *, of: dict[str, np.ndarray] | None = None
) -> BuildFn:
  """An .npz of small arrays, changed as a file."""

  def build(folder: pathlib.Path) -> list[str]:
    out = io.BytesIO()
    np.savez_compressed(out, **(of or {'a': np.arange(999.0)}))
    (folder / 'model.npz').write_bytes(change(out.getvalue()))
    return _import('model.npz')(folder)

  return build


def _flip(data: bytes) -> bytes:
  middle = len(data) // 2
  return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]


def _npz_of_objects(folder: pathlib.Path) -> list[str]:
  evil = np.array([_Evil(folder / 'executed')], dtype=object)
  np.savez(folder / 'model.npz', **{'params/backbone/conv1/kernel': evil})
  return _import('model.npz')(folder)


def _pth(folder: pathlib.Path) -> list[str]:
  import pickle

  data = pickle.dumps({'state_dict': _Evil(folder / 'executed')})
  (folder / 'model.pth').write_bytes(data)
  return _import('model.pth', '--normalize=none', name='torchvision')(folder)


def _huge(folder: pathlib.Path) -> list[str]:
  out = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    out, {'descr': '<f4', 'fortran_order': False, 'shape': (10**13,)}
  )
  with zipfile.ZipFile(folder / 'model.npz', 'w') as archive:
    archive.writestr('a.npy', out.getvalue())
  return _import('model.npz')(folder)


def _escape(arrays: dict[str, np.ndarray]) -> None:
  arrays['../../../escaped'] = np.zeros(3, np.float32)


def _nan(arrays: dict[str, np.ndarray]) -> None:
  name = 'params/backbone/conv1/kernel'
  arrays[name] = np.full_like(arrays[name], np.nan)


def _double(arrays: dict[str, np.ndarray]) -> None:
  name = 'params/backbone/conv1/kernel'
  arrays[name] = arrays[name].astype(np.float64)


def _described(text: str) -> BuildFn:
  """A folder of an export whose export.json is `text`."""

  def build(folder: pathlib.Path) -> list[str]:
    (folder / 'exported').mkdir()
    np.savez(folder / 'exported' / 'model.npz', a=np.zeros(1, np.float32))
    (folder / 'exported' / 'export.json').write_text(text)
    return _import('exported')(folder)[:3]

  return build


def _pipe(folder: pathlib.Path) -> list[str]:
  os.mkfifo(folder / 'model.npz')
  return _import('model.npz')(folder)


def _npy(folder: pathlib.Path) -> list[str]:
  np.save(folder / 'model.npy', np.zeros(3))
  return _import('model.npy')(folder)


def _random_checkpoint(folder: pathlib.Path) -> list[str]:
  data = np.random.default_rng(0).bytes(3000)
  for name in ('ckpt-1.index', 'ckpt-1.data-00000-of-00001'):
    (folder / name).write_bytes(data)
  return _import('ckpt-1', name='official_tf2')(folder)


def _garbage(name: str) -> BuildFn:
  def build(folder: pathlib.Path) -> list[str]:
    data = (10**15).to_bytes(8, 'little') + b'{"a": 1}'
    (folder / name).write_bytes(data)
    return _import(name, '--normalize=none', name='torchvision')(folder)

  return build


def _out(make: Callable[[pathlib.Path], object], out: str) -> BuildFn:
  def build(folder: pathlib.Path) -> list[str]:
    make(folder)
    return [*_import('model.npz')(folder), f'--out={folder / out}']

  return build


_UNREADABLE = r'is no readable \.npz file'
ROWS = [
  Row('import of nothing', 'import_checkpoint', _import('no.npz'), _UNREADABLE),
  Row(
    'import of an empty path',
    'import_checkpoint',
    _import('no.npz', '--source='),
    '--source= is empty',
  ),
  Row(
    'import of an empty folder',
    'import_checkpoint',
    lambda folder: [*_import('')(folder)],
    _UNREADABLE,
  ),
  Row('import of a pipe', 'import_checkpoint', _pipe, 'it is a pipe'),
  Row('import of an .npy', 'import_checkpoint', _npy, _UNREADABLE),
  Row(
    'import of half a file',
    'import_checkpoint',
    _bytes(lambda data: data[: len(data) // 2]),
    _UNREADABLE,
  ),
  Row(
    'import of a flipped byte', 'import_checkpoint', _bytes(_flip), _UNREADABLE
  ),
  Row('import of 40 TB', 'import_checkpoint', _huge, 'its header says float32'),
  Row('import of objects', 'import_checkpoint', _npz_of_objects, _UNREADABLE),
  Row(
    'import of a pickle that runs code',
    'import_checkpoint',
    _pth,
    'not a file of tensors alone|needs torch',
  ),
  Row(
    'import of a .safetensors of 10^15 bytes',
    'import_checkpoint',
    _garbage('model.safetensors'),
    r'no readable \.safetensors|needs safetensors',
  ),
  Row(
    'import of an array that leads out',
    'import_checkpoint',
    _npz(_escape),
    r'1 unexpected: \.\./\.\./\.\./escaped',
  ),
  Row('import of a NaN', 'import_checkpoint', _npz(_nan), 'holds NaN'),
  Row('import of doubles', 'import_checkpoint', _npz(_double), 'is float64'),
  Row(
    'import of another network',
    'import_checkpoint',
    lambda folder: [
      *_npz(lambda a: None)(folder),
      '--config.model.width=0.125',
    ],
    'is not the network of this config',
  ),
  Row(
    'import with an export.json of 3',
    'import_checkpoint',
    _described('3'),
    'holds no JSON object',
  ),
  Row(
    'import with half an export.json',
    'import_checkpoint',
    _described('{"config": '),
    'is no JSON',
  ),
  Row(
    'import with an export.json of nothing',
    'import_checkpoint',
    _described('{"a": 1}'),
    'lacks schema_version',
  ),
  Row(
    'import of a random TensorFlow checkpoint',
    'import_checkpoint',
    _random_checkpoint,
    'TensorFlow cannot read it',
    tensorflow=True,
  ),
  Row(
    'import of a TensorFlow checkpoint that is not there',
    'import_checkpoint',
    _import('ckpt-7', name='official_tf1'),
    'no TensorFlow checkpoint',
    tensorflow=True,
  ),
  Row(
    'import as torchvison',
    'import_checkpoint',
    _import('no', name='torchvison'),
    "mean 'torchvision'",
  ),
  Row(
    'import without a normalization',
    'import_checkpoint',
    _import('no.pth', name='torchvision'),
    '--normalize is wanted',
  ),
  Row(
    'import with a normalization of text',
    'import_checkpoint',
    _import('no.pth', '--normalize=a,b/c', name='torchvision'),
    'three means and three positive',
  ),
  Row(
    'import with a normalization of nan',
    'import_checkpoint',
    _import('no.pth', '--normalize=nan,0,0/1,1,1', name='torchvision'),
    'three means and three positive',
  ),
  Row(
    'import that may lack everything',
    'import_checkpoint',
    _import('no.npz', '--allow_missing=backbone'),
    "only 'head' may be missing",
  ),
  Row(
    'import into a run',
    'import_checkpoint',
    _out(lambda folder: (folder / 'out' / 'x').mkdir(parents=True), 'out'),
    'exists; a new workdir',
  ),
  Row(
    'import below a file',
    'import_checkpoint',
    lambda folder: [
      *_npz(lambda a: (folder / 'file').write_text(''))(folder),
      f'--out={folder / "file" / "out"}',
    ],
    'Not a dir|cannot be written',
    code=1,
  ),
  Row(
    'import into a bucket',
    'import_checkpoint',
    _import('no.npz', '--out=gs://bucket/run'),
    'local',
  ),
]
