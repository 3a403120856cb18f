"""Generated pictures whose invariances are known, to test what is learnt.

The class is the shape of a motif that is repeated over the picture, so nearly
every crop shows it. Everything else is drawn per image, independently of the
class: the two colours (motif and ground), the size and pitch of the motifs,
their phase and jitter, and a little noise. The two colours are nearly unique to
an image and survive every crop: a contrastive task on crops alone can be solved
by comparing colour histograms, without ever looking at the shape (Chen et al.
2020, section 3.2 and figure 5). With colour distortion only the shape is left.
Motif and ground differ in luma by at least 0.25, in either direction, so that
the shape can be seen without colour and luma does not give it away.

Shapes are closed under horizontal flips. Example i of a split is a function of
(split, i) alone, from raw generator words, so that it never changes: the first
of 'train[:N]' are the same whatever N is. Labels go round: i mod 8.
"""

from __future__ import annotations

import functools
import hashlib

from etils import epath
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax.data.color_matrices import LUMA
from simclr_jax.data.source import Example, Source
from simclr_jax.data.sources import slices

SIZE = 32
SIZES = {'train': 20_000, 'test': 4_000}
SHAPES = (
  'disc',
  'ring',
  'square',
  'frame',
  'triangle',
  'plus',
  'cross',
  'bar',
)
VERSION = 1  # Raise when a picture changes, so that the fingerprint does too.

_MIN_LUMA_GAP = 0.25
_SUPERSAMPLE = 2
_NOISE = 0.02


def make(
  data: config_lib.DataConfig,
  split: str,
  *,
  workdir: epath.PathLike | None = None,
) -> Source:
  """Source of generated pictures, uint8 [32, 32, 3].

  Args:
    data: Not read: nothing about this data set can be chosen.
    split: 'train' (20 000), 'test' (4 000) or a part such as 'train[:512]'.
    workdir: Not used.

  Raises:
    ValueError: If the split is unknown or empty.
  """
  del data, workdir
  name, chosen = slices.parse(split, SIZES)

  def read(i: int) -> Example:
    index = chosen[i]
    return Example(render(name, index), index % len(SHAPES))

  digest = hashlib.sha256(f'{VERSION} {name} {chosen}'.encode()).hexdigest()
  return Source(
    name=f'procedural/{split}',
    num_examples=len(chosen),
    num_classes=len(SHAPES),
    encoded=False,
    read=read,
    example_id=lambda i: f'procedural {name} {chosen[i]}',
    fingerprint=digest,
    class_names=SHAPES,
    label_fn=lambda i: chosen[i] % len(SHAPES),
  )


# All pictures together are 74 MB, and drawing one takes half a millisecond.
@functools.lru_cache(maxsize=sum(SIZES.values()))
def render(split: str, index: int) -> np.ndarray:
  """Picture `index` of a split, read-only uint8 [32, 32, 3]."""
  uniform = _Uniform(split, index)
  motif, ground = draw_colors(uniform)
  cover = _draw_cover(uniform, SHAPES[index % len(SHAPES)])
  image = ground + cover[..., None] * (motif - ground)
  image += _NOISE * (2 * uniform(SIZE, SIZE, 1) - 1)
  pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
  pixels.flags.writeable = False
  return pixels


class _Uniform:
  """float64 draws in [0, 1) that depend on (split, index) alone."""

  def __init__(self, split: str, index: int):
    stream = list(SIZES).index(split)
    self._bits = np.random.Philox(key=np.array([stream, index], np.uint64))

  def __call__(self, *shape: int) -> np.ndarray:
    count = int(np.prod(shape, dtype=np.int64))
    words = self._bits.random_raw(count) >> np.uint64(11)
    return (words * 2.0**-53).reshape(shape)


def draw_colors(uniform: _Uniform) -> tuple[np.ndarray, np.ndarray]:
  """RGB of motif and ground, float64 [3] each in [0, 1]."""
  while True:
    motif, ground = uniform(2, 3)
    if abs((motif - ground) @ LUMA) >= _MIN_LUMA_GAP:
      return motif, ground


def _draw_cover(uniform: _Uniform, shape: str) -> np.ndarray:
  """Share of each pixel that motifs cover, float64 [32, 32]."""
  pitch = 9 + 4 * uniform()  # pixels between motifs
  radius = pitch * (0.36 + 0.1 * uniform())
  phase = uniform(2) * pitch
  side = SIZE * _SUPERSAMPLE
  axis = (np.arange(side) + 0.5) / _SUPERSAMPLE
  y = axis[:, None] + phase[0]
  x = axis[None, :] + phase[1]
  row, column = np.floor(y / pitch), np.floor(x / pitch)
  # Motifs are shifted a little one by one: no lattice to recognise instead.
  jitter = (uniform(8, 8, 2) - 0.5) * 0.16 * pitch
  shift = jitter[row.astype(int) % 8, column.astype(int) % 8]
  v = (y - (row + 0.5) * pitch - shift[..., 0]) / radius
  u = (x - (column + 0.5) * pitch - shift[..., 1]) / radius
  inside = _inside(shape, u, v).astype(np.float64)
  return inside.reshape(SIZE, _SUPERSAMPLE, SIZE, _SUPERSAMPLE).mean((1, 3))


def _inside(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
  """Whether (u right, v down), in radii from the centre, lie in the motif."""
  chess = np.maximum(abs(u), abs(v))
  if shape == 'disc':
    return u**2 + v**2 < 1
  if shape == 'ring':
    return abs(np.hypot(u, v) - 0.72) < 0.28
  if shape == 'square':
    return chess < 0.88
  if shape == 'frame':
    return abs(chess - 0.72) < 0.22
  if shape == 'triangle':
    return (v < 0.85) & (abs(u) < (v + 1) * 0.55)
  if shape == 'plus':
    return (chess < 1) & (np.minimum(abs(u), abs(v)) < 0.3)
  if shape == 'cross':
    return (chess < 0.95) & (abs(abs(u) - abs(v)) < 0.36)
  return (abs(v) < 0.4) & (abs(u) < 1)  # bar
