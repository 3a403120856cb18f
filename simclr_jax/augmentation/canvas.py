"""Pictures of any size in squares of one size, as the devices keep them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from simclr_jax.data import decode as decode_lib
from simclr_jax.data import reading
from simclr_jax.data.source import Example, Source


class Canvas(NamedTuple):
  """The array that holds any one picture.

  Attributes:
    height, width: Pixels.
    shrink: Whether larger pictures are shrunk to fit (and smaller ones placed
      as they are); else all have this size.
  """

  height: int
  width: int
  shrink: bool

  @property
  def num_bytes(self) -> int:
    """Bytes of one picture."""
    return self.height * self.width * 3


def choose_canvas(source: Source, canvas_size: int) -> Canvas:
  """A square of `canvas_size`, or the first picture's size where that is 0."""
  if canvas_size > 0:
    return Canvas(canvas_size, canvas_size, shrink=True)
  height, width, _ = decode(source, 0, reading.read(source, 0)).shape
  return Canvas(height, width, shrink=False)


def decode(source: Source, index: int, example: Example) -> np.ndarray:
  """uint8 [H, W, 3], by Pillow: the same pixels as TensorFlow's accurate ones.

  Raises:
    ValueError: If it cannot be decoded; it names the example.
  """
  if isinstance(example.image, np.ndarray):
    return example.image
  try:
    return decode_lib.decode_with_pillow(example.image)
  except ValueError as error:
    raise ValueError(
      reading.describe_failure(source, index, error=error)
    ) from error


def place(
  source: Source, index: int, *, canvas: Canvas, out: np.ndarray
) -> tuple[tuple[int, int], int]:
  """Puts an example at the top left of its canvas.

  A picture larger than the canvas is shrunk so that its longer side fits, by
  the mean over the area of each new pixel (Pillow's BOX): crops are resized
  without antialias afterwards, as everywhere here, so a sharper filter would
  gain nothing that survives. Boxes are drawn within the picture, and the rest
  of the canvas is never seen.

  Args:
    source: Where it comes from.
    index: Place in the source.
    canvas: What it must fit.
    out: uint8 [height, width, 3] of zeros, written to.

  Returns:
    ((height, width) of the picture in the canvas, label).

  Raises:
    ValueError: If it cannot be read, or has another size and may not be shrunk.
  """
  example = reading.read(source, index)
  pixels = decode(source, index, example)
  height, width = pixels.shape[:2]
  if not canvas.shrink and (height, width) != (canvas.height, canvas.width):
    raise ValueError(
      f'example {index} of {source.name} ({source.example_id(index)}) has '
      f'{height} x {width} pixels and the first one {canvas.height} x '
      f'{canvas.width}; config.data.canvas_size = 0 takes images of one size '
      'only. Set it to a side that holds the boxes you want, e.g. 256 for '
      'views of 224 px'
    )
  scale = min(1.0, canvas.height / height, canvas.width / width)
  if scale < 1:
    height, width = (max(1, round(x * scale)) for x in (height, width))
    pixels = np.asarray(
      Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX)
    )
  out[:height, :width] = pixels
  return (height, width), example.label
