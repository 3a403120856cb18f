"""16-bit images keep the upper 8 of the bits in use, in every source."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simclr_jax import config as config_lib
from simclr_jax import data
from simclr_jax.data import plain_image
from simclr_jax.retrieval import pictures
from tests.data import deep_png
from tests.retrieval import fake_set

_RNG = np.random.default_rng(0)


def _values(bits, channels=1):
  values = _RNG.integers(0, 2**bits, (9, 11, channels)).astype(np.uint16)
  values[0, 0] = 2**bits - 1
  return values


def _pixels(encoded):
  return np.asarray(Image.open(io.BytesIO(encoded)).convert('RGB'))


@pytest.mark.parametrize('bits', [8, 12, 16])
@pytest.mark.parametrize('channels', [1, 2, 3, 4])
def test_the_upper_8_of_the_bits_in_use_are_kept(channels, bits):
  values = _values(bits, channels)
  alpha = 65535
  if channels in (2, 4):
    # Opacity has 16 bits whatever the colours have.
    alpha = values[..., -1:] = np.where(values[..., -1:] % 2, 65535, 0)
  encoded = deep_png.encode(values)
  found = plain_image.inspect(encoded)
  assert found.highest == 2**bits - 1 and not found.plain
  color = values[..., : 3 if channels > 2 else 1] >> bits - 8
  want = np.where(alpha, np.broadcast_to(color, (9, 11, 3)), 255)
  np.testing.assert_array_equal(
    _pixels(plain_image.to_plain(encoded, bits)), want
  )


def test_brighter_values_are_white_and_the_key_is_transparent():
  values = np.array([[[4095], [4096], [7]]], np.uint16)
  encoded = deep_png.encode(values, transparent=b'\0\7')
  pixels = _pixels(plain_image.to_plain(encoded, 12))
  assert pixels[0, :, 0].tolist() == [255, 255, 255]
  assert _pixels(plain_image.to_plain(encoded, 16))[0, :, 0].tolist() == [
    15,
    16,
    255,
  ]


def _folder(root, images):
  root.mkdir()
  for i, image in enumerate(images):
    (root / f'{i}.png').write_bytes(image)


def _parquet(root, images):
  root.mkdir()
  column = [{'bytes': image, 'path': None} for image in images]
  pq.write_table(pa.table({'image': column}), root / 'train.parquet')


@pytest.mark.parametrize(
  'kind,write,split',
  [('folder', _folder, ''), ('parquet', _parquet, 'train')],
)
def test_a_source_says_which_bits_are_in_use(
  kind, write, split, tmp_path, monkeypatch
):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  said: list[str] = []
  monkeypatch.setattr(
    'simclr_jax.data.deep_images.logging.warning',
    lambda text, *args: said.append(text % args),
  )
  values = [_values(12) for _ in range(3)]
  write(tmp_path / 'deep', [deep_png.encode(each) for each in values])

  def make(bits):
    config = config_lib.DataConfig(
      source=kind, path=str(tmp_path / 'deep'), test_split='', bits=bits
    )
    return data.make_source(config, split, workdir=tmp_path / 'w')

  by_default, fitting, narrow = make(16), make(12), make(10)
  assert len(said) == 2
  assert '3 16-bit images use 0 to 4095 of 65535' in said[0]
  assert '16 times too dark; --config.data.bits=12 mends it' in said[0]
  assert 'values above 1023 (up to 4095), which become white' in said[1]
  np.testing.assert_array_equal(
    _pixels(fitting.read(0).image)[..., :1], values[0] >> 4
  )
  # Other pixels are other data, for every cache and every resumed run.
  sources = (by_default, fitting, narrow)
  assert len({source.fingerprint for source in sources}) == 3


def test_the_bits_of_8_bit_images_change_nothing(tmp_path):
  _folder(tmp_path / 'd', [])
  Image.new('RGB', (4, 4), 'red').save(tmp_path / 'd/0.png')
  made = [
    data.make_source(
      config_lib.DataConfig(
        source='folder', path=str(tmp_path / 'd'), test_split='', bits=bits
      ),
      '',
      workdir=tmp_path / 'w',
    )
    for bits in (16, 12)
  ]
  assert made[0].fingerprint == made[1].fingerprint


def test_a_query_is_read_as_the_set_was(tmp_path):
  _folder(tmp_path / 'd', [deep_png.encode(_values(12))])
  embeddings = fake_set.write(
    tmp_path / 'e',
    np.eye(3, dtype=np.float32),
    about={'input': {'data': {'bits': 12}}},
  )
  path = str(tmp_path / 'd/0.png')
  pixels = pictures.pixels_of_file(path, embeddings.bits)
  assert pixels.max() == 255
  source = pictures.source_of([path], embeddings.bits)
  np.testing.assert_array_equal(_pixels(source.read(0).image), pixels)
