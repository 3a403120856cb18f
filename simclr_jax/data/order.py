"""Which example stands where, and the random words it is augmented from.

Everything is a function of (seed, epoch, position) in NumPy integers: the same
on every host, for any number of workers and after any restart, so there is no
iterator state to save. Example at global position p (p = step * batch + row) of
a data set of n: epoch = p // n, index = permutation(seed, epoch, n)[p % n].

Only raw words of a bit generator are used, whose stream NumPy keeps stable
(NEP 19); the methods of `np.random.Generator` may change between versions.
"""

from __future__ import annotations

import collections
import threading

import numpy as np

# Three epochs can be in flight at once: a batch may straddle two, and the
# workers run ahead of it.
_CACHED_EPOCHS = 3
_GOLDEN = 0x9E3779B97F4A7C15  # splitmix64's increment, 2^64 / golden ratio
_EXAMPLE_STREAM = 0x6578616D706C6573  # different constants keep the streams
_BATCH_STREAM = 0x6261746368000000  # of examples and of batches apart
_WORD = (1 << 64) - 1

_cache: collections.OrderedDict[tuple[int, int, int], np.ndarray] = (
  collections.OrderedDict()
)
_cache_lock = threading.Lock()


def permutation(seed: int, epoch: int, n: int) -> np.ndarray:
  """Order of epoch `epoch`: a true permutation of range(n).

  The stable argsort of n raw 64-bit Philox words keyed by (seed, epoch). Equal
  words (probability n^2 / 2^65) keep their order, so it is always a
  permutation.

  Args:
    seed: In [0, 2^64).
    epoch: In [0, 2^64).
    n: Number of examples, >= 0.

  Returns:
    Read-only int64 [n]; the last few are cached, shared between threads.
  """
  key = (int(seed), int(epoch), int(n))
  # Held while sorting, so that many workers entering an epoch sort it once.
  with _cache_lock:
    if key not in _cache:
      words = np.random.Philox(
        key=np.array([key[0], key[1]], np.uint64)
      ).random_raw(key[2])
      order = np.argsort(words, kind='stable').astype(np.int64, copy=False)
      order.flags.writeable = False
      _cache[key] = order
    _cache.move_to_end(key)
    while len(_cache) > _CACHED_EPOCHS:
      _cache.popitem(last=False)
    return _cache[key]


def locate(seed: int, positions: np.ndarray, *, n: int) -> np.ndarray:
  """Epoch and example at global positions.

  Args:
    seed: In [0, 2^64).
    positions: int64 [k], each >= 0.
    n: Number of examples, >= 1.

  Returns:
    int64 [2, k]: epochs and example indices.
  """
  positions = np.asarray(positions, np.int64)
  epochs, offsets = np.divmod(positions, n)
  indices = np.empty_like(offsets)
  for epoch in np.unique(epochs):
    here = epochs == epoch
    indices[here] = permutation(seed, int(epoch), n)[offsets[here]]
  return np.stack([epochs, indices])


def example_words(
  seed: int, epoch: int | np.ndarray, *, index: int | np.ndarray
) -> np.ndarray:
  """The words that every random draw of an example in an epoch derives from.

  Within one (seed, epoch) all indices get different words: for fixed seed and
  epoch this is the splitmix64 sequence, a bijection of 64 bits.

  Args:
    seed: In [0, 2^64).
    epoch: Number or array [...], >= 0.
    index: Number or array [...] that broadcasts with `epoch`.

  Returns:
    uint32 [..., 2].
  """
  stream = _mix(_mix(_word(seed), _EXAMPLE_STREAM), epoch)
  return _halves(_mix(stream, index))


def batch_words(seed: int, step: int | np.ndarray) -> np.ndarray:
  """The words of draws shared by a whole global batch, uint32 [..., 2]."""
  return _halves(_mix(_mix(_word(seed), _BATCH_STREAM), step))


def whole(words: np.ndarray) -> np.ndarray:
  """uint32 [..., 2] -> uint64 [...]: what `_halves` took apart."""
  low, high = words[..., 0].astype(np.uint64), words[..., 1].astype(np.uint64)
  return low | (high << np.uint64(32))


def sequence(start: np.ndarray, places: np.ndarray) -> np.ndarray:
  """Elements of the splitmix64 sequences that begin at `start`.

  Args:
    start: uint64 [...].
    places: int [...], broadcast with `start`, each >= 0.

  Returns:
    uint64 [...].
  """
  return _mix(start, places)


def _word(value: int | np.ndarray) -> np.ndarray:
  """uint64 array; Python integers may use all 64 bits."""
  if isinstance(value, int):
    return np.array(value & _WORD, np.uint64)
  return np.asarray(value).astype(np.uint64)


def _mix(state: np.ndarray, value: int | np.ndarray) -> np.ndarray:
  """Element `value` of the splitmix64 sequence that starts at `state`.

  Steele, Lea and Flood (2014), Fast splittable pseudorandom number generators;
  the finaliser is Stafford's variant 13. A bijection in either argument.
  """
  # The products are meant to wrap around; NumPy warns of it for scalars.
  with np.errstate(over='ignore'):
    z = state + (_word(value) + np.uint64(1)) * np.uint64(_GOLDEN)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


def _halves(words: np.ndarray) -> np.ndarray:
  """uint64 [...] -> uint32 [..., 2], low half first on any machine."""
  low = (words & np.uint64(0xFFFFFFFF)).astype(np.uint32)
  high = (words >> np.uint64(32)).astype(np.uint32)
  return np.stack([low, high], axis=-1)
