"""Folders of real files of every format, damaged ones among them."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import pathlib
import shutil
import struct
import zlib

from etils import epath
import numpy as np
from PIL import Image, ImageOps
import pytest

from simclr_jax import config as config_lib
from simclr_jax import data, retries
from simclr_jax.data import plain_image, stream
from simclr_jax.data.lazy_tf import tf
from simclr_jax.data.sources import folder, folder_scan
from tests import flaky
from tests.data import deep_png

_RNG = np.random.Generator(np.random.PCG64(0))


def _smooth(height=20, width=30, channels=3):
  """A picture that JPEG keeps apart from others, uint8 [H, W, C]."""
  small = _RNG.integers(0, 256, (4, 5, channels)).astype(np.float32)
  planes = [
    np.asarray(Image.fromarray(small[..., c]).resize((width, height), 2))
    for c in range(channels)
  ]
  return np.rint(np.stack(planes, -1)).clip(0, 255).astype(np.uint8)


def _config(path, **fields):
  fields = {'train_split': '', 'test_split': '', **fields}
  return config_lib.DataConfig(source='folder', path=str(path), **fields)


def _make(path, split='', *, workdir=None, **fields):
  workdir = workdir or pathlib.Path(path).parent / 'workdir'
  return data.make_source(_config(path, **fields), split, workdir=str(workdir))


def _decoded(source):
  """What the pipeline sees, by the last part of the example's name."""
  out = {}
  for i in range(source.num_examples):
    encoded = source.read(i).image
    assert isinstance(encoded, bytes)
    pixels = stream.decode(tf.constant(encoded)).numpy()
    out[os.path.basename(source.example_id(i))] = pixels
  return out


def _on_white(rgba):
  """Plain formula of compositing, float64."""
  alpha = rgba[..., 3:] / 255
  return rgba[..., :3] * alpha + 255 * (1 - alpha)


@pytest.fixture(scope='module')
def gallery(tmp_path_factory):
  """Every format and mode: folder, and name -> (pixels, tolerance)."""
  root = tmp_path_factory.mktemp('gallery') / 'pictures'
  root.mkdir()
  want: dict[str, tuple[np.ndarray, float]] = {}

  def pillow(name):
    with Image.open(root / name) as image:
      rgb = ImageOps.exif_transpose(image).convert('RGB')
      want[name] = (np.asarray(rgb), 0)

  color, grey = (
    Image.fromarray(_smooth()),
    Image.fromarray(_smooth(17, 13, 1)[..., 0]),
  )
  # As it is: equal to Pillow, bit for bit.
  color.save(root / 'a.jpg', quality=80)
  color.save(root / 'a_progressive.jpeg', progressive=True)
  color.save(root / 'a_444.JPG', subsampling=0)
  grey.save(root / 'grey.jpg')
  color.save(root / 'a.png')
  grey.save(root / 'grey.png')
  color.save(root / 'a.webp', quality=80)
  color.save(root / 'a.bmp')
  color.convert('1').save(root / 'one_bit.png')
  color.convert('1').save(root / 'one_bit.bmp')
  color.quantize(16).save(root / 'palette.png')
  color.quantize(16).save(root / 'palette.bmp')
  Image.fromarray(_smooth(channels=4), 'CMYK').save(root / 'cmyk.jpg')
  color.save(root / 'png_named.jpg', 'PNG')
  for name in (
    'a.jpg a_progressive.jpeg a_444.JPG grey.jpg a.png grey.png a.webp a.bmp '
    'one_bit.png one_bit.bmp palette.png palette.bmp cmyk.jpg png_named.jpg'
  ).split():
    pillow(name)
  # Orientation: all eight values, from the stored picture by hand.
  stored = np.asarray(color)
  turned = {
    1: stored,
    2: stored[:, ::-1],
    3: stored[::-1, ::-1],
    4: stored[::-1],
    5: stored.transpose(1, 0, 2),
    6: stored.transpose(1, 0, 2)[:, ::-1],
    7: stored.transpose(1, 0, 2)[::-1, ::-1],
    8: stored.transpose(1, 0, 2)[::-1],
  }
  for value, pixels in turned.items():
    exif = Image.Exif()
    exif[0x0112] = value
    color.save(root / f'turned{value}.png', exif=exif)
    want[f'turned{value}.png'] = (pixels, 0)
  exif = Image.Exif()
  exif[0x0112] = 6
  color.save(root / 'turned.jpg', exif=exif, quality=90)
  pillow('turned.jpg')
  assert want['turned.jpg'][0].shape == (30, 20, 3)
  # Alpha on white.
  rgba = np.concatenate([stored, _smooth(channels=1)], -1)
  Image.fromarray(rgba).save(root / 'alpha.png')
  Image.fromarray(rgba).save(root / 'alpha.webp', lossless=True, exact=True)
  for name in ('alpha.png', 'alpha.webp'):
    want[name] = (_on_white(rgba), 1)
  la = np.stack([np.asarray(grey), np.asarray(grey)[::-1]], -1)
  Image.fromarray(la, 'LA').save(root / 'grey_alpha.png')
  want['grey_alpha.png'] = (
    _on_white(np.concatenate([np.repeat(la[..., :1], 3, -1), la[..., 1:]], -1)),
    1,
  )
  clear = color.quantize(8)
  clear.save(root / 'palette_alpha.png', transparency=0)
  holes = np.where(
    (np.asarray(clear) == 0)[..., None], 255, np.asarray(clear.convert('RGB'))
  )
  want['palette_alpha.png'] = (holes, 0)
  # One colour declared transparent, without an alpha channel.
  keyed = stored.copy()
  keyed[3:7, 2:9] = (7, 8, 9)
  Image.fromarray(keyed).save(root / 'keyed.png', transparency=(7, 8, 9))
  white = keyed.copy()
  white[3:7, 2:9] = 255
  want['keyed.png'] = (white, 0)
  # GIF: the first of two frames.
  frame = color.quantize(32)
  frame.save(
    root / 'moving.gif',
    save_all=True,
    append_images=[Image.fromarray(255 - stored).quantize(32)],
  )
  want['moving.gif'] = (np.asarray(frame.convert('RGB')), 0)
  # 16 bits: the high byte.
  deep = _RNG.integers(0, 65536, (9, 11, 3)).astype(np.uint16)
  (root / 'deep.png').write_bytes(deep_png.encode(deep))
  want['deep.png'] = (deep >> 8, 0)
  (root / 'deep_grey.png').write_bytes(deep_png.encode(deep[..., :1]))
  want['deep_grey.png'] = (np.repeat(deep[..., :1] >> 8, 3, -1), 0)
  # What some programs append to a JPEG does no harm.
  whole = (root / 'a_444.JPG').read_bytes()
  (root / 'tail.jpg').write_bytes(whole + b'and some more')
  pillow('tail.jpg')
  Image.fromarray(_smooth(1, 1)).save(root / 'dot.png')
  pillow('dot.png')
  return root, want


def test_every_format_decodes_to_its_pixels(gallery):
  root, want = gallery
  source = _make(root)
  assert source.skipped == ()
  found = _decoded(source)
  assert set(found) == set(want)
  for name, (pixels, tolerance) in want.items():
    assert found[name].shape == pixels.shape, name
    off = np.abs(found[name].astype(float) - pixels).max()
    assert off <= tolerance, (name, off)


def test_ordinary_files_are_handed_on_as_they_are(gallery):
  root, _ = gallery
  source = _make(root)
  for i in range(source.num_examples):
    name = os.path.basename(source.example_id(i))
    same = source.read(i).image == (root / name).read_bytes()
    ordinary = 'a.jpg a_progressive.jpeg a_444.JPG grey.jpg tail.jpg a.png '
    ordinary += 'grey.png png_named.jpg turned1.png dot.png a.bmp'
    assert same == (name in ordinary.split()), name


def _png(path, *, value=0):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.full((5, 6, 3), value, np.uint8)).save(path)


def test_order_hidden_files_and_other_extensions(tmp_path):
  root = tmp_path / 'pictures'
  names = ['b/z.png', 'b/a.PNG', 'B.png', 'a-c.png', 'a/c.png', 'é.png']
  for name in names:
    _png(root / name)
  for name in ('.hidden.png', '.cache/x.png', 'b/._a.png'):
    _png(root / name)
  (root / 'notes.txt').write_text('x')
  (root / 'b/thumbs.db').write_text('x')
  (root / 'LICENSE').write_text('x')
  listing = folder_scan.list_pictures(str(root))
  # By bytes: '-' before '/', capitals first, non-ASCII last.
  want = ['B.png', 'a-c.png', 'a/c.png', 'b/a.PNG', 'b/z.png', 'é.png']
  assert listing.pictures == want
  assert listing.ignored == {'.txt': 1, '.db': 1, 'no extension': 1}
  source = _make(root)
  assert [source.example_id(i) for i in range(6)] == [
    str(root / name) for name in want
  ]
  assert source.num_classes == 0 and source.read(0).label == -1


def test_links_are_followed_but_not_for_ever(tmp_path):
  root = tmp_path / 'pictures'
  _png(root / 'a/x.png')
  _png(tmp_path / 'elsewhere/y.png')
  (root / 'a/up').symlink_to(root)
  (root / 'a/self').symlink_to('self')
  (root / 'linked').symlink_to(tmp_path / 'elsewhere')
  (root / 'file.png').symlink_to(tmp_path / 'elsewhere/y.png')
  listing = folder_scan.list_pictures(str(root))
  assert listing.pictures == ['a/x.png', 'file.png', 'linked/y.png']


def _bomb():
  """Few bytes that claim 20 000 x 20 000 pixels."""
  side = struct.pack('>II', 20_000, 20_000)
  header = b'IHDR' + side + struct.pack('>BBBBB', 1, 0, 0, 0, 0)
  real = deep_png.encode(np.zeros((1, 1, 1), np.uint16))
  crc = struct.pack('>I', zlib.crc32(header))
  return real[:12] + header + crc + real[33:]


@pytest.fixture
def damaged(tmp_path):
  """20 readable pictures, 7 that are not."""
  root = tmp_path / 'pictures'
  for i in range(20):
    _png(root / f'{i % 3}/{i:02d}.png', value=i)
  out = io.BytesIO()
  Image.fromarray(_smooth(64, 64)).save(out, 'JPEG', quality=95)
  (root / 'truncated.jpg').write_bytes(out.getvalue()[:600])
  # Pillow reads this one, with grey where the zeros are.
  half = out.getvalue()[: len(out.getvalue()) // 2]
  (root / 'zeros.jpg').write_bytes(half + bytes(5000))
  out = io.BytesIO()
  Image.fromarray(_smooth(64, 64)).save(out, 'PNG')
  (root / 'truncated.png').write_bytes(out.getvalue()[:300])
  (root / 'empty.jpg').touch()
  (root / 'text.jpg').write_text('<html>Not found</html>')
  (root / 'bomb.png').write_bytes(_bomb())
  (root / 'gone.png').symlink_to(root / 'nowhere')
  return root


_DAMAGED = {
  'truncated.jpg': 'truncated',
  'zeros.jpg': 'no end marker',
  'truncated.png': 'truncated',
  'empty.jpg': 'empty',
  'text.jpg': 'UnidentifiedImageError',
  'bomb.png': 'pixels',
  'gone.png': 'FileNotFoundError',
}


def test_damaged_files_are_counted_listed_and_left_out(
  damaged, tmp_path, monkeypatch
):
  lines: list[str] = []
  monkeypatch.setattr(
    'simclr_jax.data.sources.folder.logging.info',
    lambda text, *args: lines.append(text % args),
  )
  source = _make(damaged, max_bad_fraction=0.26, workdir=tmp_path / 'w')
  assert source.num_examples == 20
  assert len(_decoded(source)) == 20
  reasons = {os.path.basename(path): why for path, why in source.skipped}
  assert set(reasons) == set(_DAMAGED)
  for name, part in _DAMAGED.items():
    assert part.lower() in reasons[name].lower()
  rows = (tmp_path / 'w/skipped_files.txt').read_text().splitlines()
  assert [tuple(row.split('\t')) for row in rows] == list(source.skipped)
  report = '\n'.join(lines)
  assert '27 found, 20 readable, 7 skipped' in report
  assert 'formats: PNG 20' in report and 'width: 6 to 6 px' in report
  assert 'skipped 1: ValueError: the file is empty' in report


def test_too_many_damaged_files_are_an_error(damaged, tmp_path):
  with pytest.raises(
    ValueError, match=r'7 of 27 pictures.*max_bad_fraction = 0.2(.|\n)*bomb.png'
  ):
    _make(damaged, max_bad_fraction=0.2, workdir=tmp_path / 'w')
  # The list is there to work through.
  assert len((tmp_path / 'w/skipped_files.txt').read_text().splitlines()) == 7


def test_list_of_skipped_files_keeps_other_folders(damaged, tmp_path):
  other = tmp_path / 'other'
  _png(other / 'a.png')
  (other / 'b.png').touch()
  fields = {'max_bad_fraction': 0.5, 'workdir': tmp_path / 'w'}
  _make(damaged, **fields)
  _make(other, **fields)
  path = tmp_path / 'w/skipped_files.txt'
  assert len(path.read_text().splitlines()) == 8
  (other / 'b.png').unlink()
  _make(other, **fields)
  assert len(path.read_text().splitlines()) == 7


def test_a_path_object_is_a_workdir(damaged, tmp_path):
  workdir = epath.Path(tmp_path / 'w')
  source = data.make_source(
    _config(damaged, max_bad_fraction=0.5), '', workdir=workdir
  )
  assert len(source.skipped) == 7
  assert (tmp_path / 'w/skipped_files.txt').exists()
  assert list((tmp_path / 'w/data_cache').glob('folder_scan_*.npz'))


def test_a_list_that_cannot_be_written_whole_leaves_the_old_one(
  damaged, tmp_path, monkeypatch, caplog
):
  fields = {'max_bad_fraction': 0.5, 'workdir': tmp_path / 'w'}
  _make(damaged, **fields)
  path = tmp_path / 'w/skipped_files.txt'
  before = path.read_text()
  (damaged / 'more.png').touch()

  def full_disk(file):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(os, 'fsync', full_disk)
  _make(damaged, **fields)
  assert 'not listed' in caplog.text and str(path) in caplog.text
  assert path.read_text() == before
  assert not [p for p in (tmp_path / 'w').iterdir() if p.suffix == '.tmp']


@pytest.mark.parametrize('empty', [True, False])
def test_nothing_to_read_is_an_error(tmp_path, empty):
  root = tmp_path / 'pictures'
  root.mkdir()
  (root / 'scan.tif').write_text('x')
  if not empty:
    (root / 'a.jpg').touch()
  with pytest.raises(ValueError, match=r'no picture that can be read.*\.tif 1'):
    _make(root, max_bad_fraction=1.0)


def test_restart_decodes_only_what_changed(damaged, tmp_path, monkeypatch):
  fields = {'max_bad_fraction': 0.26, 'workdir': tmp_path / 'w'}
  first = _make(damaged, **fields)
  seen: list[int] = []
  inspect = plain_image.inspect

  def counted(content):
    seen.append(len(content))
    return inspect(content)

  monkeypatch.setattr(plain_image, 'inspect', counted)
  again = _make(damaged, **fields)
  # Only a file that is not there is looked for again.
  assert not seen
  assert again.fingerprint == first.fingerprint
  assert again.skipped == first.skipped
  assert [again.read(i) for i in range(20)] == [
    first.read(i) for i in range(20)
  ]
  _png(damaged / '0/03.png', value=99)
  _png(damaged / '0/new.png')
  changed = _make(damaged, **fields)
  assert len(seen) == 2
  assert changed.num_examples == 21
  assert changed.fingerprint != first.fingerprint
  # A damaged cache is ignored with a warning.
  (cached,) = (tmp_path / 'w/data_cache').glob('folder_scan_*.npz')
  cached.write_bytes(cached.read_bytes()[:100])
  assert _make(damaged, **fields).fingerprint == changed.fingerprint
  assert len(seen) > 20


@pytest.mark.parametrize(
  ('number', 'kind', 'times'),
  [
    (errno.EACCES, ValueError, 10**9),
    (errno.EIO, retries.DataAway, 10**9),
    (errno.EIO, None, 1),
    (errno.ENOENT, None, 1),
  ],
)
def test_what_the_system_refused_is_not_remembered(
  tmp_path, monkeypatch, number, kind, times
):
  for name in 'ab':
    _png(tmp_path / f'{name}.png', value=ord(name))
  flaky.Clock(monkeypatch)
  refused, workdir = [], tmp_path / '.run'

  def some(path, *args, **kwargs):
    if str(path).endswith('b.png') and len(refused) < times:
      refused.append(path)
      flaky.refuse(number, path)
    return open(path, *args, **kwargs)

  monkeypatch.setattr(folder_scan, 'open', some, raising=False)
  if kind is None:
    assert _make(tmp_path, workdir=workdir).num_examples == 2
    return
  with pytest.raises(kind, match=r'b\.png'):
    _make(tmp_path, workdir=workdir, max_bad_fraction=1.0)
  assert not list(workdir.glob('skipped*'))
  monkeypatch.setattr(folder_scan, 'open', open)
  assert _make(tmp_path, workdir=workdir).num_examples == 2


def test_fingerprint_moves_with_the_folder_but_not_with_contents(tmp_path):
  for name, value in (('one', 1), ('two', 1), ('three', 2)):
    _png(tmp_path / name / 'a/x.png', value=value)
  one, two, three = (
    _make(tmp_path / name).fingerprint for name in ('one', 'two', 'three')
  )
  assert one == two != three
  labelled = _make(tmp_path / 'one', labels_from='folders').fingerprint
  assert labelled != one


def test_classes_of_training_are_numbered_first(tmp_path):
  for name in ('train/ant/a.png', 'train/cat/deep/b.png', 'train/dog/c.png'):
    _png(tmp_path / 'd' / name)
  _png(tmp_path / 'd/test/bee/a.png')
  _png(tmp_path / 'd/test/dog/b.png')
  fields = {
    'labels_from': 'folders',
    'train_split': 'train',
    'test_split': 'test',
  }
  train = _make(tmp_path / 'd', 'train', **fields)
  test = _make(tmp_path / 'd', 'test', **fields)
  assert train.class_names == ('ant', 'cat', 'dog')
  assert test.class_names == ('ant', 'cat', 'dog', 'bee')
  assert [train.read(i).label for i in range(3)] == [0, 1, 2]
  assert [test.read(i).label for i in range(2)] == [3, 2]
  assert (train.num_classes, test.num_classes) == (3, 4)
  # What is held out does not change what is trained.
  _png(tmp_path / 'd/test/aaa/new.png')
  assert _make(tmp_path / 'd', 'train', **fields).fingerprint == (
    train.fingerprint
  )
  test = _make(tmp_path / 'd', 'test', **fields)
  assert test.class_names == ('ant', 'cat', 'dog', 'aaa', 'bee')


def test_a_folder_without_an_image_is_no_class(tmp_path, monkeypatch):
  said: list[str] = []
  monkeypatch.setattr(
    'simclr_jax.data.sources.folder_classes.logging.warning',
    lambda text, *args: said.append(text % args),
  )
  for name in ('train/ant/a.png', 'train/bee/a.png', 'test/ant/a.png'):
    _png(tmp_path / 'd' / name)
  for name in ('train/notes', 'train/__MACOSX/bee', 'test/bee', 'test/.hidden'):
    (tmp_path / 'd' / name).mkdir(parents=True)
  (tmp_path / 'd/train/notes/readme.txt').write_text('x')
  (tmp_path / 'd/train/__MACOSX/bee/._a.png').write_text('x')
  fields = {
    'labels_from': 'folders',
    'train_split': 'train',
    'test_split': 'test',
  }
  train = _make(tmp_path / 'd', 'train', **fields)
  assert train.class_names == ('ant', 'bee') and train.num_classes == 2
  (line,) = said
  assert 'no class, because without an image: __MACOSX, notes in' in line
  assert _make(tmp_path / 'd', 'test', **fields).class_names == ('ant', 'bee')
  assert len(said) == 2 and 'no picture in' in said[1] and 'bee' in said[1]


def test_one_name_in_two_unicode_forms_is_one_class(tmp_path):
  """Linux and Windows compose accents, some macOS disks decompose them."""
  for name in ('train/\xe9/a.png', 'train/z/a.png', 'test/e\u0301/a.png'):
    _png(tmp_path / 'd' / name)
  fields = {
    'labels_from': 'folders',
    'train_split': 'train',
    'test_split': 'test',
  }
  test = _make(tmp_path / 'd', 'test', **fields)
  assert test.class_names == ('z', '\xe9') and test.read(0).label == 1


def _parts(root, *splits, **fields):
  """{name of each picture: label} of each split."""
  out = []
  for split in splits:
    source = _make(root, split, **fields)
    ids = [source.example_id(i) for i in range(source.num_examples)]
    names = [os.path.relpath(path, root) for path in ids]
    assert names == sorted(names, key=os.fsencode)
    out.append({n: source.read(i).label for i, n in enumerate(names)})
  return out


def test_a_part_of_a_folder_is_fixed_by_the_paths(tmp_path):
  root = tmp_path / 'd'
  for i in range(60):
    _png(root / ('cat', 'dog')[i % 2] / f'{i:02d}.png', value=i)
  fields = {
    'labels_from': 'folders',
    'train_split': '[:80%]',
    'test_split': '[80%:]',
  }
  train, test = _parts(root, '[:80%]', '[80%:]', **fields)
  everything = _parts(root, '', labels_from='folders')[0]
  assert not train.keys() & test.keys()
  assert train | test == everything and len(everything) == 60
  assert 40 <= len(train) <= 56
  assert set(train.values()) == set(test.values()) == {0, 1}
  (middle,) = _parts(root, '[20%:50%]', **fields)
  assert 8 <= len(middle) <= 28 and middle.items() <= train.items()
  # The hash, worked out here.
  digest = hashlib.sha256(b'cat/00.png').digest()
  assert ('cat/00.png' in train) == (digest[0] * 256 + digest[1] < 0.8 * 65536)
  # More pictures move none.
  for i in range(60, 90):
    _png(root / 'cat' / f'{i}.png')
  (root / 'cat/00.png').unlink()
  again, held_out = _parts(root, '[:80%]', '[80%:]', **fields)
  assert not again.keys() & test.keys() and not held_out.keys() & train.keys()
  # Of a sub-folder.
  (inner,) = _parts(root, 'dog[:50%]')
  assert inner and all(name.startswith('dog/') for name in inner)


def test_wrong_parts_of_a_folder(tmp_path):
  _png(tmp_path / 'd/cat/a.png')
  for split in ('[:80]', '[80%:20%]', '[:101%]', '[-20%:]', '[x]', 'a[:0%]'):
    with pytest.raises(ValueError, match='must be named by percentages'):
      _make(tmp_path / 'd', split)
  with pytest.raises(ValueError, match='takes none of the 1 pictures'):
    for split in ('[:50%]', '[50%:]'):
      _make(tmp_path / 'd', split)
  with pytest.raises(ValueError, match='test_split holds out'):
    _make(tmp_path / 'd', '', test_split='[80%:]')


def test_pictures_without_a_class_are_an_error(tmp_path):
  _png(tmp_path / 'd/ant/a.png')
  _png(tmp_path / 'd/loose.png')
  with pytest.raises(ValueError, match=r'1 pictures lie directly.*loose\.png'):
    _make(tmp_path / 'd', labels_from='folders')


def test_wrong_splits_say_what_there_is(tmp_path):
  _png(tmp_path / 'd/train/a.png')
  _png(tmp_path / 'd/test/a.png')
  with pytest.raises(ValueError, match=r"sub-folders \['test', 'train'\]"):
    _make(tmp_path / 'd', 'trian[:10%]')
  with pytest.raises(ValueError, match='is not a folder; config.data.path'):
    _make(tmp_path / 'nowhere')
  with pytest.raises(ValueError, match='test_split holds out'):
    _make(tmp_path / 'd', '', test_split='test')
  with pytest.raises(ValueError, match='must be local or mounted'):
    _make('gs://bucket/pictures', workdir=tmp_path / 'w')


def test_a_part_is_as_if_there_were_no_other_pictures(tmp_path):
  for place in ('all', 'some'):
    (tmp_path / place / 'c').mkdir(parents=True)
  for i in range(5):
    image = Image.fromarray(_smooth())
    image.save(tmp_path / 'all' / 'c' / f'{i}.png')
    if i in (1, 3):
      shutil.copy(tmp_path / 'all/c' / f'{i}.png', tmp_path / 'some/c')
  fields = {'labels_from': 'folders'}
  some, rest, none = folder.make_parts(
    _config(tmp_path / 'all', **fields),
    '',
    lambda whole: [[1, 3], [0, 2, 4], []],
    workdir=tmp_path / 'workdir',
  )
  alone = _make(tmp_path / 'some', **fields)
  assert some.fingerprint == alone.fingerprint != rest.fingerprint
  assert [some.read(i) for i in range(2)] == [alone.read(i) for i in range(2)]
  assert [os.path.basename(rest.example_id(i)) for i in range(3)] == [
    '0.png',
    '2.png',
    '4.png',
  ]
  assert (rest.num_examples, none.num_examples) == (3, 0)
