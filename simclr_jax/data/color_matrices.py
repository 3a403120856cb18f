"""Colour changes that are 3 x 3 matrices, for whoever makes the pixels.

A matrix M acts on a pixel as a column: new = M @ (r, g, b).
"""

from __future__ import annotations

import numpy as np

# ITU-R 601 luma to four digits, as TensorFlow and torchvision have it.
LUMA = (0.2989, 0.587, 0.114)

# RGB -> luma Y and the two chroma axes I and Q of NTSC (FCC 1953), digits of
# tf.image.rgb_to_yiq.
_YIQ = np.array(
  [
    [0.299, 0.587, 0.114],
    [0.59590059, -0.27455667, -0.32134392],
    [0.21153661, -0.52273617, 0.31119955],
  ]
)


def _hue_parts() -> np.ndarray:
  """[3, 3, 3]: what of a hue turn is constant, times cosine, times sine.

  new = YIQ^-1 R(a) YIQ old, where R keeps Y and turns (I, Q) by a. Hue goes
  from red over green to blue, which is clockwise in (I, Q): a = -2 pi delta.
  """
  keep, cosine, sine = np.zeros((3, 3, 3))
  keep[0, 0] = 1
  cosine[1, 1] = cosine[2, 2] = 1
  sine[1, 2], sine[2, 1] = 1, -1
  back = np.linalg.inv(_YIQ)
  return np.stack([back @ part @ _YIQ for part in (keep, cosine, sine)])


HUE_PARTS = _hue_parts().astype(np.float32)


def hue_matrix(delta: float) -> np.ndarray:
  """float32 [3, 3] that turns the hue by `delta` turns in the YIQ plane.

  An approximation of adding to H of HSV: it keeps luma and chroma where that
  keeps the largest and the smallest channel, so colours leave [0, 1] and are
  clipped, and the pure colours are not quite 1/6 of a turn apart.
  """
  angle = 2 * np.pi * delta
  keep, cosine, sine = HUE_PARTS
  return (
    keep + np.float32(np.cos(angle)) * cosine + np.float32(np.sin(angle)) * sine
  )
