"""Random numbers of one view of one example, by name and without state."""

from __future__ import annotations

import hashlib

import numpy as np

from simclr_jax.data.lazy_tf import tf


class Draws:
  """Named uniform draws from two words; a name may be drawn once.

  The seed of a draw is the words XOR 64 bits of a hash of its full name:
  different names give different seeds for the same words, at the price of one
  operation, and all 64 bits of the words count (tf.random's own fold_in
  keeps 32). TensorFlow's generator (Philox) scrambles the seed.

  Args:
    words: uint32 or int32 [2].
    scope: Start of the full name of every draw.

  Raises:
    ValueError: If `words` is anything else.
  """

  def __init__(self, words: tf.Tensor, scope: str):
    words = tf.convert_to_tensor(words)
    if words.dtype not in (
      tf.int32,
      tf.uint32,
    ) or not words.shape.is_compatible_with([2]):
      raise ValueError(
        f'words are {words.dtype.name} {words.shape}; must be uint32 or int32 '
        '[2], else bits of the seed would be lost'
      )
    self._words = tf.bitcast(words, tf.int32)
    self._scope = scope
    self._used: set[str] = set()

  def seed(self, name: str) -> tf.Tensor:
    """int32 [2] seed that belongs to this name alone."""
    if name in self._used:
      raise ValueError(
        f'{self._scope}/{name} was drawn before: a second draw would repeat it'
      )
    self._used.add(name)
    digest = hashlib.sha256(f'{self._scope}/{name}'.encode()).digest()
    tag = np.frombuffer(digest[:8], '<i4')
    return tf.bitwise.bitwise_xor(self._words, tf.constant(tag))

  def uniform(
    self, name: str, low: float = 0.0, high: float = 1.0
  ) -> tf.Tensor:
    """float32 scalar in [low, high)."""
    return tf.random.stateless_uniform([], self.seed(name), low, high)

  def chance(self, name: str, probability: float) -> tf.Tensor:
    """Boolean scalar; true with the given probability."""
    return self.uniform(name) < probability
