"""What is fuzzed: an input made from (seed, number), and what is done with it.

Each target gives 'ok' or raises; what it may raise is a ValueError of this
package (for a checkpoint also DamagedCheckpoint). The folder it is given is
empty and its own.
"""

from __future__ import annotations

from collections.abc import Callable
import functools
import io
import json
import os
import pathlib
import shutil
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import fuzz_mutation
from simclr_jax import config as config_lib
from simclr_jax import data, resolve
from simclr_jax.data import decode, image_header, plain_image

# (random numbers, own folder) -> nothing.
TargetFn = Callable[[np.random.Generator, pathlib.Path], None]


class Inconsistent(Exception):
  """Two readers disagree, or one refuses what another has approved."""


def _pixels(seed: int) -> np.ndarray:
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (9, 12, 3), np.uint8)


def _encode(form: str, image: Image.Image, **options: Any) -> bytes:
  out = io.BytesIO()
  image.save(out, form, **options)
  return out.getvalue()


@functools.cache
def _pictures() -> tuple[bytes, ...]:
  """Sound pictures of every kind that is read."""
  color = Image.fromarray(_pixels(0)).resize((40, 30), Image.Resampling.BICUBIC)
  exif = Image.Exif()
  exif[0x0112] = 6
  frames = [Image.fromarray(_pixels(i)).quantize(16) for i in range(3)]
  wide = Image.fromarray(_pixels(1)[..., 0].astype(np.uint16) * 256)
  return (
    _encode('JPEG', color),
    _encode('JPEG', color, progressive=True),
    _encode('JPEG', color.convert('L')),
    _encode('JPEG', color.convert('CMYK')),
    _encode('JPEG', color, exif=exif),
    _encode('PNG', color),
    _encode('PNG', color.convert('RGBA')),
    _encode('PNG', color.quantize(16), transparency=0),
    _encode('PNG', wide),
    _encode('BMP', color),
    _encode('BMP', color.quantize(16)),
    _encode('GIF', frames[0], save_all=True, append_images=frames[1:]),
    _encode('WEBP', color),
    _encode('WEBP', color, lossless=True),
  )


def images(rng: np.random.Generator, folder: pathlib.Path) -> None:
  """A picture through every decoder; what is approved must be read by all."""
  del folder
  picture = _mutated(_pictures(), rng)
  for read in (image_header.image_size, decode.decode):
    try:
      read(picture)
    except ValueError:
      pass
  try:
    found = plain_image.inspect(picture)
  except MemoryError:
    raise
  except Exception as error:  # Pillow's decoders raise nearly everything.
    raise ValueError(f'{type(error).__name__}: {error}') from error
  given = picture if found.plain else plain_image.to_plain(picture)
  height, width = image_header.image_size(given)
  shapes = {
    'header': (height, width, 3),
    'opencv': _read(decode.decode, given).shape,
    'pillow': _read(decode.decode_with_pillow, given).shape,
  }
  if os.environ.get('SIMCLR_JAX_FUZZ_TENSORFLOW', '1') == '1':
    shapes['tensorflow'] = _read(_decode_with_tensorflow, given).shape
  if len(set(shapes.values())) > 1:
    raise Inconsistent(f'{found.format}: {shapes}')


def _read(read: Callable[[bytes], np.ndarray], picture: bytes) -> np.ndarray:
  try:
    return read(picture)
  except ValueError as error:
    raise Inconsistent(
      f'{read.__name__} refuses what was approved: {error}'
    ) from error


def _decode_with_tensorflow(picture: bytes) -> np.ndarray:
  from simclr_jax.data import stream
  from simclr_jax.data.lazy_tf import tf

  try:
    return np.asarray(stream.decode(tf.constant(picture)))
  except tf.errors.OpError as error:
    raise ValueError(error.message) from error


def _mutated(seeds: tuple[bytes, ...], rng: np.random.Generator) -> bytes:
  seed = seeds[int(rng.integers(len(seeds)))]
  return fuzz_mutation.mutate(seed, rng, others=seeds)


def warm_up(target: str) -> None:
  """Loads what the first inputs may be refused without, and later ones need."""
  if target == 'images':
    _decode_with_tensorflow(_pictures()[0])


def config(rng: np.random.Generator, folder: pathlib.Path) -> None:
  """Fields of a config replaced, and what follows from them."""
  del folder
  values = config_lib.to_dict(
    config_lib.Config(data=config_lib.DataConfig(source='digits'))
  )
  changed = config_lib.from_config_dict(fuzz_mutation.mutate_tree(values, rng))
  resolve.resolve(
    changed,
    num_examples=int(rng.choice((1, 100, 1_281_167))),
    num_classes=int(rng.choice((0, 10))),
    num_devices=int(rng.choice((1, 8, 2048))),
  )


@functools.cache
def _parquet_files() -> tuple[bytes, ...]:
  import pyarrow as pa
  import pyarrow.parquet as pq

  image = pa.struct([('bytes', pa.binary()), ('path', pa.string())])
  rows = [{'bytes': p, 'path': 'a.png'} for p in _pictures()[:8]]
  features = {'label': {'_type': 'ClassLabel', 'names': list('abcdefgh')}}
  tables = [
    pa.table({'image': pa.array(rows, image), 'label': list(range(8))}),
    pa.table({'image': [row['bytes'] for row in rows], 'label': [-1] * 8}),
    pa.table({'img': pa.array(rows, image), 'id': list('abcdefgh')}),
  ]
  tables.append(
    tables[0].replace_schema_metadata(
      {'huggingface': json.dumps({'info': {'features': features}})}
    )
  )
  tables.append(
    tables[2].replace_schema_metadata({'simclr_jax': '{"num_examples": 8}'})
  )
  files = []
  for table in tables:
    for compression in ('none', 'snappy', 'zstd'):
      out = io.BytesIO()
      pq.write_table(table, out, compression=compression, row_group_size=3)
      files.append(out.getvalue())
  return tuple(files)


def parquet(rng: np.random.Generator, folder: pathlib.Path) -> None:
  """A Parquet file converted, and every example of it read."""
  content = _mutated(_parquet_files(), rng)
  (folder / 'train.parquet').write_bytes(content)
  os.environ['XDG_CACHE_HOME'] = str(folder / 'cache')
  _read_all('parquet', folder)


@functools.cache
def _array_files() -> tuple[bytes, ...]:
  pixels = np.stack([_pixels(i) for i in range(3)])
  files = []
  for save in (np.savez, np.savez_compressed):
    out = io.BytesIO()
    save(out, images=pixels, labels=np.arange(3))
    files.append(out.getvalue())
  return tuple(files)


@functools.cache
def _single_arrays() -> tuple[bytes, ...]:
  pixels = np.stack([_pixels(i) for i in range(3)])
  files = []
  for array in (pixels, pixels[..., 0], np.asfortranarray(pixels)):
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    files.append(out.getvalue())
  return tuple(files)


def arrays(rng: np.random.Generator, folder: pathlib.Path) -> None:
  """An .npz or an .npy, and every example of it read."""
  if rng.integers(2):
    content = _mutated(_array_files(), rng)
    (folder / 'train.npz').write_bytes(content)
  else:
    content = _mutated(_single_arrays(), rng)
    (folder / 'train_images.npy').write_bytes(content)
  _read_all('arrays', folder)


def _read_all(kind: str, folder: pathlib.Path) -> None:
  """Reads and decodes as a run would; what is offered must be readable."""
  source = data.make_source(
    config_lib.DataConfig(
      source=kind, path=str(folder), test_split='', max_bad_fraction=0.9
    ),
    'train',
    workdir=str(folder / 'work'),
  )
  for i in range(min(source.num_examples, 100)):
    image, label = source.read(i)
    if not -1 <= label < max(source.num_classes, 1):
      raise Inconsistent(f'label {label} of {source.num_classes} classes')
    source.example_id(i)
    if isinstance(image, bytes):
      _read(decode.decode, image)


def passport(rng: np.random.Generator, folder: pathlib.Path) -> None:
  """A checkpoint with a changed passport, manifest or array file."""
  from simclr_jax.training import checkpoint, manifest
  from simclr_jax.training import passport as passport_lib

  run = folder / 'run'
  shutil.copytree(_run(), run)
  step = run / 'checkpoints' / '3'
  items = {
    name: json.loads((step / name / 'metadata').read_text())
    for name in ('passport', 'manifest')
  }
  kind = int(rng.integers(4))
  if kind < 2:
    name = ('passport', 'manifest')[kind]
    items[name] = fuzz_mutation.mutate_tree(items[name], rng)
    body = items['manifest']
    if isinstance(body, dict):
      # With digests that are right again: what an attacker would do.
      if 'passport' in body:
        body['passport'] = manifest.digest_json(items['passport'])
      body = {k: v for k, v in body.items() if k != 'sha256'}
      items['manifest'] = {**body, 'sha256': manifest.digest_json(body)}
    for name, value in items.items():
      (step / name / 'metadata').write_text(json.dumps(value))
  else:
    # What judges read: the optimizer's state lies beside it.
    read = (step / name for name in ('encoder', 'passport', 'manifest'))
    files = sorted(p for f in read for p in f.rglob('*') if p.is_file())
    path = files[int(rng.integers(len(files)))]
    path.write_bytes(_mutated((path.read_bytes() or b'\0',), rng))
  loaded = checkpoint.load_encoder(run)
  passport_lib.config_from_passport(loaded.passport)


@functools.cache
def _run() -> pathlib.Path:
  """A checkpoint of a small network; stays for the life of the process."""
  import atexit
  import tempfile

  from tests import small_run

  folder = pathlib.Path(tempfile.mkdtemp(prefix='simclr_jax_fuzz_run_'))
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  small_run.save_small_run(folder)
  return folder


TARGETS: dict[str, TargetFn] = {
  'config': config,
  'images': images,
  'parquet': parquet,
  'arrays': arrays,
  'passport': passport,
}
