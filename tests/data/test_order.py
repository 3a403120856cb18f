"""Order and words: permutations, independence of everything, quality."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from simclr_jax.data import order


@pytest.mark.parametrize('n', [0, 1, 2, 7, 1000, 50_000])
def test_permutation_is_one(n):
  assert np.array_equal(
    np.sort(order.permutation(3, 5, n)), np.arange(n, dtype=np.int64)
  )


def test_permutations_differ_by_seed_and_epoch():
  orders = [
    order.permutation(seed, epoch, 1000)
    for seed in (0, 1, 2**31 - 1)
    for epoch in range(4)
  ]
  for i, a in enumerate(orders):
    for b in orders[:i]:
      # Two random permutations agree in one place on average.
      assert np.sum(a == b) < 10


def test_permutation_is_uniform():
  # Where element 0 lands over many epochs: chi-square with 9 degrees.
  places = np.array(
    [
      np.flatnonzero(order.permutation(0, epoch, 10) == 0)[0]
      for epoch in range(5000)
    ]
  )
  counts = np.bincount(places, minlength=10)
  chi2 = np.sum((counts - 500) ** 2 / 500)
  assert chi2 < 27.9  # p = 0.001


def test_known_values_stay():
  # A change of order would silently break every resumed run.
  assert order.permutation(0, 0, 8).tolist() == [0, 2, 1, 5, 4, 3, 6, 7]
  assert order.permutation(7, 3, 8).tolist() == [2, 5, 7, 3, 0, 6, 4, 1]
  assert order.example_words(7, 3, index=5).tolist() == [1853709988, 147250240]
  assert order.batch_words(7, 3).tolist() == [3015731751, 3860820516]


def test_splitmix64_reference():
  # First outputs of the published generator seeded with 1234567.
  want = [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
  ]
  state = np.array(1234567, np.uint64)
  assert order._mix(state, np.arange(5)).tolist() == want


def test_permutation_cache_is_bounded_shared_and_read_only():
  results = []
  threads = [
    threading.Thread(
      target=lambda: results.append(order.permutation(11, 0, 20_000))
    )
    for _ in range(4)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert all(r is results[0] for r in results)
  with pytest.raises(ValueError, match='read-only'):
    results[0][0] = 1
  for epoch in range(10):
    order.permutation(11, epoch, 10)
  assert len(order._cache) == order._CACHED_EPOCHS


def test_locate_agrees_with_the_definition():
  n, seed = 10, 4
  positions = np.array([0, 9, 10, 35, 3, 29])
  epochs, indices = order.locate(seed, positions, n=n)
  for p, epoch, index in zip(positions, epochs, indices, strict=True):
    assert epoch == p // n
    assert index == order.permutation(seed, p // n, n)[p % n]


def test_words_do_not_depend_on_how_they_are_asked_for():
  indices = np.arange(50)
  batch = order.example_words(3, np.full(50, 9), index=indices)
  assert batch.shape == (50, 2) and batch.dtype == np.uint32
  for i in indices:
    one = order.example_words(3, 9, index=int(i))
    assert np.array_equal(one, batch[i])
    assert np.array_equal(order.example_words(3, np.int64(9), index=i), one)


def test_words_are_distinct():
  seeds, epochs, indices = np.meshgrid(
    np.arange(8), np.arange(25), np.arange(1000), indexing='ij'
  )
  words = np.concatenate(
    [
      order.example_words(s, epochs[s], index=indices[s]).reshape(-1, 2)
      for s in range(8)
    ]
    + [order.batch_words(s, np.arange(25_000)) for s in range(8)]
  )
  keys = words[:, 0].astype(np.uint64) << np.uint64(32) | words[:, 1]
  assert len(np.unique(keys)) == len(keys) == 400_000


def test_words_are_uniform():
  words = order.example_words(1, 2, index=np.arange(100_000))
  for half in words.T:
    for byte in range(4):
      counts = np.bincount(half >> (8 * byte) & 0xFF, minlength=256)
      expected = len(words) / 256
      chi2 = np.sum((counts - expected) ** 2 / expected)
      assert 160 < chi2 < 377  # 255 degrees, p about 1e-6 on either side


@pytest.mark.parametrize('which', ['seed', 'epoch', 'index'])
def test_one_changed_bit_changes_half_of_the_bits(which):
  base = {'seed': 12, 'epoch': 34, 'index': 56}
  shares = []
  for bit in range(24):
    for start in range(64):
      a = {**base, which: base[which] + start * 977}
      b = {**a, which: a[which] ^ (1 << bit)}
      flips = [
        order.example_words(v['seed'], v['epoch'], index=v['index'])
        for v in (a, b)
      ]
      shares.append(np.bitwise_count(flips[0] ^ flips[1]).sum() / 64)
  assert abs(np.mean(shares) - 0.5) < 0.01
  assert min(shares) > 0.15


def test_streams_of_examples_and_batches_differ():
  examples = order.example_words(0, 0, index=np.arange(1000))
  batches = order.batch_words(0, np.arange(1000))
  assert not np.any(np.all(examples[:, None] == batches[None], axis=-1))
