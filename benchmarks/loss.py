"""Time and memory of NT-Xent's forms: plain, chunked, ring.

  python -m benchmarks.loss --out=docs/results/loss_DEVICE.json

Value and gradient with all metrics, in float32, of N rows of width 128, over
all devices that JAX sees. Beside them the floor: the two matrix products
(N x d)(d x N) and (N x N)(N x d) alone, which any form that computes similarity
and gradient once cannot do without. Prints one JSON line and a table. The forms
take turns, so that a busy machine slows all of them; times are the least and
the median of the turns. Memory is what XLA reserves for temporaries on each
device. Ratios are of least times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import statistics
import time
from typing import Any

from absl import app, flags
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np

from benchmarks import result_file
from simclr_jax import config as config_lib
from simclr_jax import console, loss_choice
from simclr_jax.objectives import simclr
from simclr_jax.training import mesh as mesh_lib

_OUT = flags.DEFINE_string('out', '', 'Where the JSON goes; default: nowhere.')
_ROWS = flags.DEFINE_list(
  'rows',
  ['256', '1024', '4096', '8192', '16384', '65536'],
  'N, rows of the global batch: twice the images.',
)
_TURNS = flags.DEFINE_integer('turns', 9, 'Most runs of each form.')
_SECONDS = flags.DEFINE_float(
  'seconds', 60, 'After so long no further turn of an N starts.'
)
_MEMORY = flags.DEFINE_float(
  'memory_gib',
  0,
  'Of a device; forms that need more are skipped. 0 asks the device, and takes '
  '8 where it does not say (CPU).',
)
DIM = 128
TEMPERATURE = 0.1
FLOOR_SIMILARITIES = 2**26
FORMS = ('plain', 'chunked', 'ring')


def memory_limit() -> int:
  """Bytes of a device that a form may take."""
  if _MEMORY.value:
    return int(_MEMORY.value * 2**30)
  stats = jax.devices()[0].memory_stats() or {}
  return int(stats.get('bytes_limit', 8 * 2**30))


def make_embeddings(num_rows: int) -> np.ndarray:
  """Float32 [N, d] of length 1, views of an image closer than others."""
  rng = np.random.default_rng(0)
  images = np.repeat(rng.normal(size=(num_rows // 2, DIM)), 2, axis=0)
  z = images + rng.normal(size=(num_rows, DIM))
  return (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)


def products(z_NxD: jax.Array) -> jax.Array:
  """Similarities, and similarities times keys: the floor.

  Over all keys at once as long as a device's similarities take 256 MiB.
  """
  keys_NxD = jax.reshard(z_NxD, P())
  num_rows = keys_NxD.shape[0]
  local_rows = num_rows // jax.device_count()
  num_chunks = max(1, local_rows * num_rows // FLOOR_SIMILARITIES)

  def add(sums_NxD: jax.Array, keys_CxD: jax.Array) -> tuple[jax.Array, None]:
    highest = jax.lax.Precision.HIGHEST
    dots_NxC = jnp.matmul(z_NxD, keys_CxD.T, precision=highest)
    return sums_NxD + jnp.matmul(dots_NxC, keys_CxD, precision=highest), None

  chunks_KxCxD = keys_NxD.reshape(num_chunks, -1, keys_NxD.shape[1])
  return jax.lax.scan(add, jnp.zeros_like(z_NxD), chunks_KxCxD)[0]


def make_form(name: str) -> Callable[[jax.Array], Any]:
  """(loss, metrics), gradient of z, as the objective takes them."""
  loss = config_lib.LossConfig(temperature=TEMPERATURE, implementation=name)
  return jax.value_and_grad(lambda z: simclr.contrast(z, loss), has_aux=True)


def out_of_memory(error: jax.errors.JaxRuntimeError, when: str) -> str:
  """Why a form is skipped; any error but a lack of memory is raised again."""
  text = str(error)
  if 'RESOURCE_EXHAUSTED' not in text:
    raise error
  return f'out of memory {when} it: {text.splitlines()[0][:200]}'


def compile_forms(
  num_rows: int, z_NxD: jax.Array
) -> Iterator[tuple[dict[str, Any], Any]]:
  """(row of the table, compiled program or None) of the floor and each form."""
  limit = memory_limit()
  for name in ('two products', *FORMS):
    row: dict[str, Any] = {'rows': num_rows, 'form': name}
    if name in FORMS:
      choice = loss_choice.choose(
        config_lib.LossConfig(implementation=name),
        num_rows=num_rows,
        dim=DIM,
        num_devices=jax.device_count(),
      )
      row |= {
        'chunk_size': choice.chunk_size,
        'estimated_bytes': choice.bytes_per_device,
      }
    function = make_form(name) if name in FORMS else products
    try:
      compiled = jax.jit(function).lower(z_NxD).compile()
    except jax.errors.JaxRuntimeError as error:
      row['skipped'] = out_of_memory(error, 'compiling')
      yield row, None
      continue
    memory = compiled.memory_analysis()
    assert memory is not None, 'this backend does not tell its memory'
    row['temporary_bytes'] = memory.temp_size_in_bytes
    if row['temporary_bytes'] > limit:
      needs = row['temporary_bytes'] / 2**30
      row['skipped'] = (
        f'needs {needs:.1f} GiB of temporaries on each device, there are '
        f'{limit / 2**30:.1f}'
      )
      yield row, None
    else:
      yield row, compiled


def measure(num_rows: int, mesh: jax.sharding.Mesh) -> list[dict[str, Any]]:
  """Rows of the table for one N."""
  z_NxD = jax.device_put(
    make_embeddings(num_rows), mesh_lib.batch_sharding(mesh)
  )
  rows = list(compile_forms(num_rows, z_NxD))
  running = [(row, program) for row, program in rows if program is not None]
  times: dict[str, list[float]] = {row['form']: [] for row, _ in running}
  begin = time.perf_counter()
  for turn in range(_TURNS.value + 1):
    if turn and time.perf_counter() - begin > _SECONDS.value:
      break
    for row, program in running:
      if 'skipped' in row:
        continue
      start = time.perf_counter()
      try:
        result = jax.block_until_ready(program(z_NxD))
      except jax.errors.JaxRuntimeError as error:
        row['skipped'] = out_of_memory(error, 'running')
        continue
      times[row['form']].append(time.perf_counter() - start)
      if row['form'] in FORMS:
        row['loss'] = float(result[0][0])
      del result
  for row, _ in running:
    if 'skipped' in row:
      continue
    # The first turn warms up; where it took all the time there is, it counts.
    turns = times[row['form']][1:] or times[row['form']]
    row['seconds_min'] = min(turns)
    row['seconds_median'] = statistics.median(turns)
    row['turns'] = len(turns)
  return [row for row, _ in rows]


def add_ratios(rows: list[dict[str, Any]]) -> None:
  """Time and memory relative to the plain form and the floor of the same N."""
  known = {(row['rows'], row['form']): row for row in rows}
  for row in rows:
    for other, name in (('plain', 'plain'), ('two products', 'floor')):
      base = known[row['rows'], other]
      if 'seconds_min' in row and 'seconds_min' in base:
        row[f'time_over_{name}'] = row['seconds_min'] / base['seconds_min']
    # XLA reserves nothing for a small enough N; a form may not compile.
    plain = known[row['rows'], 'plain'].get('temporary_bytes')
    if plain and 'temporary_bytes' in row:
      row['memory_over_plain'] = row['temporary_bytes'] / plain


def print_table(rows: list[dict[str, Any]]) -> None:
  """One line for each N and form."""
  print(
    f'{"N":>6}  {"form":<13}{"chunk":>6}{"min s":>10}{"median s":>10}'
    f'{"/ plain":>9}{"/ floor":>9}{"MiB/device":>12}{"/ plain":>9}'
  )
  for row in rows:
    line = f'{row["rows"]:>6}  {row["form"]:<13}{row.get("chunk_size", 0):>6}'
    if 'skipped' in row:
      print(f'{line}  skipped: {row["skipped"]}')
      continue
    ratios = [
      f'{row[name]:{form}}' if name in row else '-'
      for name, form in (
        ('time_over_plain', '.2f'),
        ('time_over_floor', '.2f'),
        ('memory_over_plain', '.3f'),
      )
    ]
    print(
      f'{line}{row["seconds_min"]:>10.4f}{row["seconds_median"]:>10.4f}'
      f'{ratios[0]:>9}{ratios[1]:>9}'
      f'{row["temporary_bytes"] / 2**20:>12.1f}'
      f'{ratios[2]:>9}'
    )


def main(argv: list[str]) -> None:
  """Measures every N."""
  del argv
  console.start()
  mesh = mesh_lib.make_mesh()
  rows: list[dict[str, Any]] = []
  with jax.set_mesh(mesh):
    for num_rows in map(int, _ROWS.value):
      rows += measure(num_rows, mesh)
  add_ratios(rows)
  result_file.report('loss', rows, out=_OUT.value)
  print_table(rows)


if __name__ == '__main__':
  app.run(main)
