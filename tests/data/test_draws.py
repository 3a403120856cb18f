"""Named draws: repeatable, independent, never the same seed twice."""

import numpy as np
import pytest
from scipy import stats

from simclr_jax.data.draws import Draws
from simclr_jax.data.lazy_tf import tf

WORDS = np.array([0xFFFFFFFF, 0x12345678], np.uint32)


def flip_bits(first, second):
  return WORDS ^ np.array([first, second], np.uint32)


def test_same_words_and_name_same_number():
  first = Draws(WORDS, 'view0').uniform('crop')
  assert float(first) == float(Draws(WORDS, 'view0').uniform('crop'))
  signed = tf.constant(WORDS.view(np.int32))
  assert float(first) == float(Draws(signed, 'view0').uniform('crop'))


def test_every_part_of_the_name_and_all_bits_of_the_words_count():
  seeds = {
    tuple(Draws(words, scope).seed(name).numpy())
    for words in (
      WORDS,
      flip_bits(1, 0),
      flip_bits(0, 1),
      flip_bits(1 << 31, 0),
    )
    for scope in ('view0', 'view1', 'batch/view0')
    for name in ('crop', 'flip')
  }
  assert len(seeds) == 4 * 3 * 2


def test_a_name_cannot_be_drawn_twice():
  draws = Draws(WORDS, 'view0')
  draws.uniform('crop')
  with pytest.raises(ValueError, match='view0/crop'):
    draws.seed('crop')


def test_numbers_are_uniform_and_names_independent():
  # Neighbouring words, as bad as words can be.
  words = np.stack([np.arange(5000), np.zeros(5000)], 1).astype(np.uint32)

  def draw(pair):
    draws = Draws(pair, 'view0')
    return tf.stack([draws.uniform('a'), draws.uniform('b', -2.0, 4.0)])

  dataset = tf.data.Dataset.from_tensor_slices(words).map(draw).batch(5000)
  a, b = next(iter(dataset)).numpy().T
  assert stats.kstest(a, 'uniform').pvalue > 1e-3
  assert stats.kstest(b, stats.uniform(-2, 6).cdf).pvalue > 1e-3
  assert abs(stats.spearmanr(a, b).statistic) < 0.05
  assert abs(stats.spearmanr(a[1:], a[:-1]).statistic) < 0.05


def test_chance_is_a_probability():
  draws = [Draws(flip_bits(i, 0), 'v') for i in range(200)]
  assert 20 < sum(bool(d.chance('p', 0.2)) for d in draws) < 60
  assert all(bool(d.chance('one', 1.0)) for d in draws)


@pytest.mark.parametrize(
  'words', [np.zeros(2, np.int64), np.zeros(2, np.float32), WORDS[:1]]
)
def test_other_words_are_refused(words):
  with pytest.raises(ValueError, match='uint32'):
    Draws(words, 'view0')
