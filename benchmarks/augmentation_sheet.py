"""The same examples through all three places that make views, side by side.

  python -m benchmarks.augmentation_sheet --out=docs/images/augmentation.png

Scikit-learn's two bundled photographs, shrunk to a canvas, then official
ImageNet augmentation with the same draws: on the host (TensorFlow), hybrid (the
host crops to uint8, the device does the rest) and on the device. Two more
columns show how they differ, amplified, and state the largest difference.
"""

from __future__ import annotations

import dataclasses
import pathlib

from absl import app, flags
import jax
import matplotlib
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax import console
from simclr_jax.augmentation import canvas as canvas_lib
from simclr_jax.augmentation import make_device_views
from simclr_jax.data import draws, order, views
from simclr_jax.data.lazy_tf import tf
from simclr_jax.data.source import Example, Source

_OUT = flags.DEFINE_string(
  'out', 'docs/images/augmentation.png', 'The picture.'
)
_EPOCHS = flags.DEFINE_integer('epochs', 2, 'Rows for each photograph.')
_SEED = flags.DEFINE_integer('seed', 0, 'Of the draws.')

SIDE = 160  # of views, pixels
CANVAS = canvas_lib.Canvas(256, 256, shrink=True)
HYBRID_GAIN, DEVICE_GAIN = 200, 1_000_000


@dataclasses.dataclass(frozen=True)
class Sheet:
  """What is shown, a row for each example and epoch.

  Attributes:
    pictures: uint8 [n, 256, 256, 3], the canvases.
    sizes: int [n, 2], of the pictures in them.
    draws: float32 [n, 17].
    host, hybrid, device: Views float32 [n, SIDE, SIDE, 3].
  """

  pictures: np.ndarray
  sizes: np.ndarray
  draws: np.ndarray
  host: np.ndarray
  hybrid: np.ndarray
  device: np.ndarray


def load_photographs() -> tuple[np.ndarray, np.ndarray]:
  """Canvases and sizes of the two photographs."""
  from sklearn import datasets

  photographs = datasets.load_sample_images().images
  source = Source(
    name='photographs',
    num_examples=len(photographs),
    num_classes=0,
    encoded=False,
    read=lambda i: Example(photographs[i], -1),
    example_id=str,
    fingerprint='',
  )
  canvases = np.zeros(
    (len(photographs), CANVAS.height, CANVAS.width, 3), np.uint8
  )
  sizes = [
    canvas_lib.place(source, i, canvas=CANVAS, out=canvases[i])[0]
    for i in range(len(photographs))
  ]
  return canvases, np.array(sizes)


def make_sheet() -> Sheet:
  """Every view, made three times."""
  augment = config_lib.AugmentConfig()
  canvases, sizes = load_photographs()
  index = np.repeat(np.arange(len(canvases)), _EPOCHS.value)
  epochs = np.tile(np.arange(_EPOCHS.value), len(canvases))
  words = order.example_words(_SEED.value, epochs, index=index)
  pictures, sizes = canvases[index], sizes[index]
  packed = draws.draw_views(
    augment, words, batch_words=words, sizes=sizes, num_views=1
  )
  options = {'image_size': SIDE, 'num_views': 1}
  view_fn = views.make_view_fn(augment, **options)
  crop_fn = views.make_crop_fn(augment, **options)
  host, crops = [], []
  for picture, (height, width), row in zip(
    pictures, sizes, packed, strict=True
  ):
    visible = tf.constant(picture[:height, :width])
    host.append(view_fn(visible, row).numpy()[0])
    crops.append(crop_fn(visible, row).numpy())
  made = {
    augment_on: np.asarray(
      jax.jit(
        make_device_views(augment, image_size=SIDE, augment_on=augment_on)
      )(pixels, packed)
    )[:, 0]
    for augment_on, pixels in (
      ('hybrid', np.stack(crops)),
      ('device', pictures),
    )
  }
  return Sheet(
    pictures=pictures,
    sizes=sizes,
    draws=packed[:, 0],
    host=np.stack(host),
    **made,
  )


def describe(row: np.ndarray, names: tuple[str, ...]) -> str:
  """What was drawn, in a few words."""
  drawn = draws.unpack(row)
  steps = ['flip'] if drawn.flip else []
  if drawn.jitter:
    steps += [
      f'{names[int(place)]} {getattr(drawn, names[int(place)]):.2f}'
      for place in drawn.order[: len(names)]
    ]
  steps += ['grey'] if drawn.gray else []
  steps += [f'blur {drawn.blur_sigma:.2f} px'] if drawn.blur_sigma else []
  return '\n'.join(steps) or 'crop alone'


def draw_sheet(sheet: Sheet, path: pathlib.Path) -> None:
  """Writes the picture."""
  matplotlib.use('Agg')
  from matplotlib import patches
  from matplotlib import pyplot as plt

  titles = (
    'photograph and box',
    'host',
    'hybrid',
    'device',
    f'|hybrid − host|\n× {HYBRID_GAIN}',
    f'|device − host|\n× {DEVICE_GAIN:,}',
  )
  names = draws.jitter_ops(config_lib.AugmentConfig())
  rows = len(sheet.host)
  figure, axes = plt.subplots(
    rows,
    len(titles),
    figsize=(13, 2.1 * rows + 0.4),
    squeeze=False,
    layout='constrained',
  )
  for title, axis in zip(titles, axes[0], strict=True):
    axis.set_title(title, fontsize=11)
  for place, line in enumerate(axes):
    height, width = sheet.sizes[place]
    top, left, box_height, box_width = draws.unpack(sheet.draws[place]).box
    line[0].imshow(sheet.pictures[place, :height, :width])
    line[0].set_anchor('N')
    line[0].add_patch(
      patches.Rectangle(
        (left - 0.5, top - 0.5),
        box_width,
        box_height,
        fill=False,
        edgecolor='yellow',
        linewidth=2,
      )
    )
    host = sheet.host[place]
    for axis, view in zip(
      line[1:4], (host, sheet.hybrid[place], sheet.device[place]), strict=True
    ):
      axis.imshow(view)
    for axis, view, gain in (
      (line[4], sheet.hybrid[place], HYBRID_GAIN),
      (line[5], sheet.device[place], DEVICE_GAIN),
    ):
      difference = np.abs(view - host)
      axis.imshow(np.clip(difference * gain, 0, 1))
      axis.set_xlabel(f'at most {difference.max() * 255:.2g} of 255')
    line[0].set_ylabel(
      describe(sheet.draws[place], names),
      rotation=0,
      ha='right',
      va='center',
      fontsize=9,
      linespacing=1.4,
    )
    for axis in line:
      axis.set(xticks=[], yticks=[])
      for side in axis.spines.values():
        side.set_visible(False)
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path, dpi=72)
  plt.close(figure)


def main(argv: list[str]) -> None:
  """Makes, compares and draws."""
  del argv
  console.start()
  sheet = make_sheet()
  draw_sheet(sheet, pathlib.Path(_OUT.value))
  for name in ('hybrid', 'device'):
    difference = np.abs(getattr(sheet, name) - sheet.host) * 255
    print(
      f'{name} against host, in levels of 255: at most {difference.max():.3g}, '
      f'mean {difference.mean():.2g}'
    )


if __name__ == '__main__':
  app.run(main)
