"""Arrays of uint8 as a data set."""

from __future__ import annotations

import pickle
import subprocess
import sys

import cloudpickle
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax import data
from simclr_jax.data.sources import arrays

_RNG = np.random.Generator(np.random.PCG64(0))
IMAGES = _RNG.integers(0, 256, (10, 4, 6, 3), np.uint8)
GREY = IMAGES[..., 0]
LABELS = np.arange(10) % 4


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  """The user's cache folder of this test."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  return tmp_path / 'cache' / 'simclr_jax'


def _make(path, split='train', **fields):
  config = config_lib.DataConfig(source='arrays', path=str(path), **fields)
  return data.make_source(config, split)


def _images(source):
  examples = [source.read(i).image for i in range(source.num_examples)]
  assert all(e.dtype == np.uint8 and e.shape[-1] == 3 for e in examples)
  return np.stack(examples)


def _labels(source):
  return [source.read(i).label for i in range(source.num_examples)]


def _folder_npy(root):
  np.save(root / 'train_images.npy', IMAGES[:7])
  np.save(root / 'train_labels.npy', LABELS[:7])
  np.save(root / 'test_images.npy', IMAGES[7:])
  np.save(root / 'test_labels.npy', LABELS[7:])
  return root


def _folder_npz(root):
  np.savez(root / 'train.npz', images=IMAGES[:7], labels=LABELS[:7])
  np.savez_compressed(root / 'test.npz', images=IMAGES[7:], labels=LABELS[7:])
  return root


def _one_npz(root):
  np.savez(
    root / 'set.npz',
    train_images=IMAGES[:7],
    train_labels=LABELS[:7, None],
    test_images=IMAGES[7:],
    test_labels=LABELS[7:].astype(np.uint8),
  )
  return root / 'set.npz'


@pytest.mark.parametrize('build', [_folder_npy, _folder_npz, _one_npz])
def test_every_layout(build, tmp_path):
  path = build(tmp_path)
  train, test = _make(path), _make(path, 'test')
  np.testing.assert_array_equal(_images(train), IMAGES[:7])
  np.testing.assert_array_equal(_images(test), IMAGES[7:])
  assert _labels(train) == LABELS[:7].tolist()
  assert _labels(test) == LABELS[7:].tolist()
  # Class 3 of the test split is none of the training's last rows.
  assert train.num_classes == test.num_classes == 4 and not train.encoded
  names = [s.example_id(i) for s in (train, test) for i in range(3)]
  assert len(set(names)) == 6
  part = _make(path, 'train[2:5]')
  np.testing.assert_array_equal(_images(part), IMAGES[2:5])
  assert part.example_id(0) == train.example_id(2)
  assert _make(path, 'train[:2]').num_classes == 4


def test_one_npz_without_splits_is_train(tmp_path):
  np.savez(tmp_path / 'all.npz', images=IMAGES, labels=LABELS)
  path = tmp_path / 'all.npz'
  held_out = _make(path, 'train[80%:]')
  np.testing.assert_array_equal(_images(held_out), IMAGES[8:])
  with pytest.raises(ValueError, match=r"'test' is not in .*it has train"):
    _make(path, 'test')


def test_labels_may_be_absent_or_unwanted(tmp_path):
  np.savez(tmp_path / 'train.npz', images=IMAGES)
  np.savez(tmp_path / 'test.npz', images=IMAGES, labels=np.full(10, -1))
  for split in ('train', 'test'):
    source = _make(tmp_path, split)
    assert source.num_classes == 0 and _labels(source) == [-1] * 10
  np.savez(tmp_path / 'other.npz', images=IMAGES, labels=LABELS)
  assert _make(tmp_path, 'other', label_key='').num_classes == 0
  assert _make(tmp_path, 'other').num_classes == 4


def test_classes_are_counted_with_those_of_training(tmp_path):
  np.savez(tmp_path / 'train.npz', images=IMAGES, labels=LABELS % 2)
  np.savez(tmp_path / 'test.npz', images=IMAGES, labels=LABELS)
  before = _make(tmp_path)
  assert before.num_classes == 2 and _make(tmp_path, 'test').num_classes == 4
  np.savez(tmp_path / 'test.npz', images=IMAGES, labels=LABELS * 0)
  assert _make(tmp_path, 'test').num_classes == 2
  # What is held out does not change what is trained.
  assert _make(tmp_path).fingerprint == before.fingerprint


@pytest.mark.parametrize('grey', [GREY, GREY[..., None]])
def test_grey_becomes_three_equal_channels(grey, tmp_path):
  np.save(tmp_path / 'train_images.npy', grey)
  want = np.stack([GREY, GREY, GREY], -1)
  np.testing.assert_array_equal(_images(_make(tmp_path)), want)


@pytest.mark.parametrize(
  ('images', 'message'),
  [
    (IMAGES / 255, r'float64.*must be uint8.*np.rint\(255 \* x\)'),
    (IMAGES.astype(np.int64), 'int64.*must be uint8'),
    (IMAGES.transpose(0, 3, 1, 2), r'channels come first \(NCHW\)'),
    (GREY[:, None], r'channels come first \(NCHW\)'),
    (np.zeros((2, 4, 6, 4), np.uint8), r'must be \[n, H, W, 3\]'),
    (np.zeros((2, 72), np.uint8), r'must be \[n, H, W, 3\]'),
    (IMAGES[:0], 'it is empty'),
    (np.array([None, 'x']), 'cannot be read|must be uint8'),
  ],
)
@pytest.mark.parametrize('form', ['npy', 'npz'])
def test_wrong_images(images, message, form, tmp_path):
  if form == 'npy':
    np.save(tmp_path / 'train_images.npy', images)
  else:
    np.savez(tmp_path / 'train.npz', images=images)
  with pytest.raises(ValueError, match=message) as error:
    _make(tmp_path)
  assert 'train' in str(error.value)


@pytest.mark.parametrize(
  ('labels', 'message'),
  [
    (LABELS[:9], '10 images, one label for each'),
    (np.eye(10, dtype=np.int64), '10 images, one label for each'),
    (LABELS.astype(np.float32), 'float32.*must be integers'),
    (LABELS - 2, 'holds -2'),
  ],
)
def test_wrong_labels(labels, message, tmp_path):
  np.savez(tmp_path / 'train.npz', images=IMAGES, labels=labels)
  with pytest.raises(ValueError, match=message):
    _make(tmp_path)


def test_other_keys_are_listed(tmp_path):
  path = tmp_path / 'mnist.npz'
  np.savez(path, x_train=GREY, y_train=LABELS)
  for place in (path, tmp_path):
    with pytest.raises(ValueError, match=r"train_images.*\['x_train', 'y_tr"):
      _make(place)


def test_nothing_there(tmp_path):
  with pytest.raises(ValueError, match='neither a folder nor an .npz'):
    _make(tmp_path / 'nowhere')
  (tmp_path / 'notes.txt').write_text('')
  with pytest.raises(ValueError, match=r"SPLIT_images.npy .*'notes.txt'"):
    _make(tmp_path)
  for name, content in (('a.npz', b'PK no'), ('b.npz', b'')):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf'{name} is no .npz file'):
      _make(tmp_path / name)
    with pytest.raises(ValueError, match=rf'{name} is no .npz file'):
      _make(tmp_path, name.removesuffix('.npz'))
    (tmp_path / name).unlink()
  np.save(tmp_path / 'c.npy', IMAGES)
  with pytest.raises(ValueError, match='SPLIT_images.npy, and config'):
    _make(tmp_path / 'c.npy')
  np.save(tmp_path / 'train_images.npy', IMAGES)
  with pytest.raises(ValueError, match=r"did you mean 'train'"):
    _make(tmp_path, 'trian')
  whole = (tmp_path / 'train_images.npy').read_bytes()
  (tmp_path / 'train_images.npy').write_bytes(whole[:-100])
  with pytest.raises(ValueError, match='train_images.npy cannot be read'):
    _make(tmp_path)


def test_fingerprint_is_that_of_the_contents(tmp_path):
  prints = []
  for n, (images, labels) in enumerate(
    [
      (IMAGES, LABELS),
      (IMAGES, LABELS),
      (IMAGES, LABELS[::-1]),
      (IMAGES[::-1], LABELS),
      (IMAGES ^ np.uint8(1), LABELS),
      (IMAGES.reshape(10, 6, 4, 3), LABELS),
    ]
  ):
    np.savez(tmp_path / f's{n}.npz', images=images, labels=labels)
    prints.append(_make(tmp_path, f's{n}').fingerprint)
  prints.append(_make(tmp_path, 's0[:9]').fingerprint)
  assert prints[0] == prints[1] and len(set(prints)) == 6


def test_fingerprint_of_a_large_array_is_kept(tmp_path, monkeypatch, cache):
  monkeypatch.setattr(arrays, '_HASHED', 100)
  np.save(tmp_path / 'train_images.npy', IMAGES)
  first = _make(tmp_path).fingerprint
  assert len(list(cache.glob('arrays_*.npz'))) == 1
  monkeypatch.setattr(arrays, 'Progress', None)  # nothing is hashed again
  assert _make(tmp_path).fingerprint == first


def test_npy_is_not_read_into_memory(tmp_path):
  _folder_npy(tmp_path)
  source = _make(tmp_path)
  pictures = source.read.__self__
  assert isinstance(pictures.images, np.memmap)


@pytest.mark.parametrize('build', [_folder_npy, _folder_npz])
def test_travels_to_another_process(build, tmp_path):
  path = build(tmp_path)
  source = _make(path, 'train[2:5]')
  payload = tmp_path / 'source.pkl'
  payload.write_bytes(cloudpickle.dumps(source))
  # Not the pictures: only where they are.
  assert len(pickle.dumps(source.read)) < 2000 and IMAGES.nbytes > 700
  here = pickle.loads(payload.read_bytes())
  np.testing.assert_array_equal(_images(here), IMAGES[2:5])
  code = (
    'import pickle, sys\n'
    f'source = pickle.load(open({str(payload)!r}, "rb"))\n'
    'print([int(source.read(i).image.sum()) for i in range(3)])\n'
    'sys.exit("tensorflow" in sys.modules)'
  )
  run = subprocess.run(
    [sys.executable, '-W', 'ignore', '-c', code],
    capture_output=True,
    text=True,
    check=False,
  )
  assert run.returncode == 0, run.stderr
  assert run.stdout.strip() == str([int(x.sum()) for x in IMAGES[2:5]])


def test_file_that_changes_is_not_mixed_with_what_it_was(tmp_path):
  path = _folder_npz(tmp_path)
  travelled = pickle.loads(cloudpickle.dumps(_make(path)))
  np.savez(tmp_path / 'train.npz', images=IMAGES, labels=LABELS)
  with pytest.raises(ValueError, match='has changed since this run opened it'):
    travelled.read(0)
