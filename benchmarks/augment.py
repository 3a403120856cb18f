"""How fast the devices make views, and what share of a training step that is.

  python -m benchmarks.augment --out=docs/results/augment_NAME.json

Two tables and a JSON line:
- the whole augmentation (official parameters) for each network's image size,
  `augment_on` and `color_ops`: views/s, images/s, compiled flops, bytes and
  temporary memory of a view, and its share of a training step that makes its
  views itself (float32; with the step timed in this run);
- the jitter alone in three formulations: `sequence` (what is used), `places`
  (all four operations at each of the four places, one chosen) and `switch`
  (the textbook form: channels last, lax.switch under vmap).

Timings take turns, and the best of each counts: on a shared machine only ratios
within one run mean anything. `--tpu_topology=v5e:2x2` compiles for a TPU
ahead of time instead (libtpu is enough): bytes and flops, no times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import time
from typing import Any

from absl import app, flags
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np

from benchmarks import result_file
from simclr_jax import config as config_lib
from simclr_jax import console
from simclr_jax.augmentation import color, jitter, make_device_views
from simclr_jax.data import draws, order
from simclr_jax.data.source import Source
from simclr_jax.training import mesh as mesh_lib
from simclr_jax.training import run as run_lib

_IMAGES = flags.DEFINE_list(
  'images', ['256', '8'], 'Images at 32 px and at 224 px, per device.'
)
_STEP_IMAGES = flags.DEFINE_list(
  'step_images', ['32', '4'], 'The same, of the training steps.'
)
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Timings of each program.')
_TPU = flags.DEFINE_string('tpu_topology', '', 'Compile for it, time nothing.')
_OUT = flags.DEFINE_string('out', '', 'Result file, .json; empty: none.')

# Image size -> (ResNet depth, side of the cached canvas).
NETWORKS = {32: (18, 32), 224: (50, 256)}
COLOR_OPS = ('official', 'torchvision', 'affine')
NAMES = ('brightness', 'contrast', 'saturation', 'hue')
Row = dict[str, Any]


def jitter_at_each_place(
  planes: color.Planes,
  drawn: draws.ViewDraws,
  *,
  names: tuple[str, ...],
  color_ops: Mapping[str, color.ColorOp],
) -> color.Planes:
  """Every operation at every place; the one drawn is kept."""
  for place in range(len(names)):
    chosen = planes
    for number, name in enumerate(names):
      turn = (drawn.jitter > 0) & (drawn.order[..., place] == number)
      changed = color.clip(color_ops[name](planes, getattr(drawn, name)))
      chosen = color.where(turn, changed, chosen)
    planes = chosen
  return planes


def jitter_by_switch(images: jax.Array, packed: jax.Array) -> jax.Array:
  """Images [..., H, W, 3], one at a time, as one would write it first."""
  color_ops = jitter.make_color_ops('official', 'multiplicative')

  def apply(image: jax.Array, row: jax.Array) -> jax.Array:
    drawn = draws.unpack(row)

    def branch(name: str) -> Callable[[jax.Array], jax.Array]:
      def change(x: jax.Array) -> jax.Array:
        planes = color_ops[name](
          [x[..., k] for k in range(3)], getattr(drawn, name)
        )
        return jnp.clip(jnp.stack(planes, -1), 0, 1)

      return change

    changed = image
    for place in range(len(NAMES)):
      changed = jax.lax.switch(
        drawn.order[place].astype(jnp.int32),
        [branch(name) for name in NAMES],
        changed,
      )
    return jnp.where(drawn.jitter > 0, changed, image)

  return jax.vmap(jax.vmap(apply))(images, packed)


def draw(augment: config_lib.AugmentConfig, side: int, n: int) -> np.ndarray:
  """Draws float32 [n, 2, 17] for images of `side` px."""
  words = order.example_words(0, 0, index=np.arange(n))
  return draws.draw_views(
    augment,
    words,
    batch_words=words,
    sizes=np.full((n, 2), side),
    num_views=2,
  )


def programs(size: int, images: int) -> list[tuple[Row, Any, list[np.ndarray]]]:
  """(what it is, function, arguments) of everything measured at a size."""
  _, canvas = NETWORKS[size]
  rng = np.random.default_rng(0)
  made: list[tuple[Row, Any, list[np.ndarray]]] = []
  base = config_lib.AugmentConfig(
    blur_prob=0.5 if draws.blur_radius(size) else 0.0
  )
  packed = draw(base, canvas, images)
  for augment_on in ('hybrid', 'device'):
    shape = (images, canvas, canvas, 3)
    if augment_on == 'hybrid':
      shape = (images, 2, size, size, 3)
    pixels = rng.integers(0, 256, shape, dtype=np.uint8)
    for kind in COLOR_OPS:
      augment = config_lib.AugmentConfig(
        blur_prob=base.blur_prob, color_ops=kind
      )
      row = {'part': 'views', 'augment_on': augment_on, 'color_ops': kind}
      fn = make_device_views(augment, image_size=size, augment_on=augment_on)
      made.append((row, fn, [pixels, packed]))
  floats = rng.random((images, 2, 3, size, size), dtype=np.float32)
  options = {
    'names': NAMES,
    'color_ops': jitter.make_color_ops('official', 'multiplicative'),
  }
  chains: dict[str, Any] = {
    'sequence': jitter.jitter_in_drawn_order,
    'places': jitter_at_each_place,
  }
  for name, chain in chains.items():

    def on_planes(x: jax.Array, d: jax.Array, chain: Any = chain) -> jax.Array:
      changed = chain(color.to_planes(x), draws.unpack(d), **options)
      return jnp.stack(changed, axis=-1)

    made.append(({'part': 'jitter', 'form': name}, on_planes, [floats, packed]))
  last = np.moveaxis(floats, 2, -1)
  made.append(
    ({'part': 'jitter', 'form': 'switch'}, jitter_by_switch, [last, packed])
  )
  return [({'size': size, **row}, fn, args) for row, fn, args in made]


def train_step(size: int, images: int) -> Callable[[], Any]:
  """A function that takes one training step on views that are there."""

  def read(index: int) -> Any:
    raise AssertionError('nothing is read here')

  run = run_lib.make_run(
    config_lib.Config(
      data=config_lib.DataConfig(source='digits', image_size=size),
      augment=config_lib.AugmentConfig(blur_prob=0.0),
      model=config_lib.ModelConfig(depth=NETWORKS[size][0]),
      train=config_lib.TrainConfig(batch_size=images, duration='1000 steps'),
      optim=config_lib.OptimConfig(warmup='0 steps'),
    ),
    source=Source('synthetic', 10**6, 0, False, read, str, 'synthetic'),
  )
  views = np.random.default_rng(0).random(
    (images, 2, size, size, 3), dtype=np.float32
  )
  batch = mesh_lib.put_batch(
    {'views': views, 'label': np.full(images, -1, np.int32)}, run.mesh
  )
  step = run.train_step()
  held = [run.init_state()]

  def take() -> Any:
    held[0], output = step(held[0], batch)
    return output

  return take


def cost(compiled: Any, num_views: int) -> Row:
  """Compiled figures of one view."""
  analysis = compiled.cost_analysis()
  memory = compiled.memory_analysis()
  return {
    'flops_per_view': analysis['flops'] / num_views,
    'bytes_per_view': analysis['bytes accessed'] / num_views,
    'temp_bytes_per_view': memory.temp_size_in_bytes / num_views,
  }


def measure_here(size: int, images: int, *, step_images: int) -> list[Row]:
  """Times everything at a size, in turns, on the devices of this process."""
  devices = jax.device_count()
  images, step_images = images * devices, step_images * devices
  mesh = mesh_lib.make_mesh()
  with jax.set_mesh(mesh):
    rows, calls = [], []
    for row, fn, arguments in programs(size, images):
      put = jax.device_put(arguments, mesh_lib.batch_sharding(mesh))
      compiled = jax.jit(fn).lower(*put).compile()
      rows.append({**row, **cost(compiled, 2 * images // devices)})
      calls.append(lambda compiled=compiled, put=put: compiled(*put))
    calls.append(train_step(size, step_images))
    best = [float('inf')] * len(calls)
    for repeat in range(_REPEATS.value + 1):
      for place, call in enumerate(calls):
        begin = time.perf_counter()
        jax.block_until_ready(call())
        if repeat:  # the first call of the step compiles
          best[place] = min(best[place], time.perf_counter() - begin)
  step_seconds = best.pop() / step_images
  for row, seconds in zip(rows, best, strict=True):
    of_image = seconds / images
    row |= {
      'images_per_second': 1 / of_image,
      'views_per_second': 2 / of_image,
      'step_images_per_second': 1 / step_seconds,
      'share_of_step': of_image / (of_image + step_seconds),
    }
  return rows


def compile_for_tpu(size: int, images: int) -> list[Row]:
  """Compiled figures on one chip of the topology."""
  from simclr_jax.planning import program

  # Programs for another machine cannot be kept.
  jax.config.update('jax_enable_compilation_cache', False)
  device = program.devices_of(_TPU.value)[0]
  mesh = jax.sharding.Mesh(np.array([device]), (mesh_lib.DATA_AXIS,))
  sharding = jax.sharding.NamedSharding(mesh, P())
  rows = []
  for row, fn, arguments in programs(size, images):
    shapes = [
      jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
      for x in arguments
    ]
    compiled = jax.jit(fn).lower(*shapes).compile()
    rows.append({**row, **cost(compiled, 2 * images)})
  return rows


def make_table(rows: list[Row], part: str) -> str:
  """For people."""
  keys = ('augment_on', 'color_ops') if part == 'views' else ('form',)
  head = ['size', *keys, 'views/s', 'images/s', 'MFLOP', 'MB', 'temp MB']
  head += ['share of step'] if part == 'views' else ['time']
  lines = [''.join(f'{name:>14}' for name in head)]
  first: dict[int, float] = {}
  for row in rows:
    if row['part'] != part:
      continue
    timed = 'views_per_second' in row
    last = '-'
    if timed and part == 'views':
      last = f'{row["share_of_step"]:.1%}'
    elif timed:
      reference = first.setdefault(row['size'], row['views_per_second'])
      last = f'{reference / row["views_per_second"]:.2f}x'
    cells = [row['size'], *(row[key] for key in keys)]
    cells += [
      f'{row[key]:,.0f}' if timed else 'not measured'
      for key in ('views_per_second', 'images_per_second')
    ]
    cells += [
      f'{row[key] / 1e6:.2f}'
      for key in ('flops_per_view', 'bytes_per_view', 'temp_bytes_per_view')
    ]
    lines.append(''.join(f'{cell:>14}' for cell in (*cells, last)))
  return '\n'.join(lines)


def main(argv: list[str]) -> None:
  """Measures both sizes."""
  del argv
  console.start()
  rows = []
  for place, size in enumerate(NETWORKS):
    images = int(_IMAGES.value[place])
    if _TPU.value:
      found = compile_for_tpu(size, images)
      rows += [{'tpu_topology': _TPU.value, **row} for row in found]
    else:
      steps = int(_STEP_IMAGES.value[place])
      rows += measure_here(size, images, step_images=steps)
  print(result_file.hardware())
  if _TPU.value:
    print(f'compiled for {_TPU.value}')
  for part in ('views', 'jitter'):
    print(f'{make_table(rows, part)}\n')
  result_file.report('augment', rows, out=_OUT.value)


if __name__ == '__main__':
  app.run(main)
