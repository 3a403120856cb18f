"""Every file and folder of a checkpoint, damaged in every way.

Orbax looks at some files only now and then (markers, shardings, and array data
that it has merged elsewhere), so a step may be readable all the same; then it
has to be what was saved, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
import pathlib
import re
import shutil

import jax
import pytest

from simclr_jax.training import checkpoint, damage
from tests import random_state


def truncate(path: pathlib.Path) -> None:
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: pathlib.Path) -> None:
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 0x10
  path.write_bytes(data)


def empty_folder(path: pathlib.Path) -> None:
  shutil.rmtree(path)
  path.mkdir()


FILES: dict[str, Callable[[pathlib.Path], object]] = {
  'truncated': truncate,
  'one byte flipped': flip,
  'missing': pathlib.Path.unlink,
  'empty': lambda path: path.write_bytes(b''),
}
FOLDERS: dict[str, Callable[[pathlib.Path], object]] = {
  'emptied': empty_folder,
  'missing': shutil.rmtree,
}
# Without these, intact, nothing of a step is used.
NEEDED = (
  'manifest/metadata', 'passport/metadata', 'state/manifest.ocdbt', 'state/d/#'
)  # fmt: skip
NEEDED_FOLDERS = (
  'manifest', 'passport', 'state', 'state/d', 'state/ocdbt.process_#',
  'state/ocdbt.process_#/d',
)  # fmt: skip


def kind(name: str) -> str:
  """Without what differs from save to save."""
  return re.sub(r'[0-9a-f]{32}|(?<=process_)\d+', '#', name)


@pytest.fixture(scope='module')
def saved(tmp_path_factory) -> pathlib.Path:
  """A workdir with steps 80 and 90, to be copied."""
  workdir = tmp_path_factory.mktemp('saved')
  checkpointer = checkpoint.Checkpointer(
    workdir / 'checkpoints', random_state.SYNC
  )
  random_state.save(checkpointer, 80)
  random_state.save(checkpointer, 90)
  checkpointer.close()
  return workdir


@pytest.fixture(scope='module')
def states():
  return {step: random_state.make_state(step) for step in (80, 90)}


def contents(folder: pathlib.Path) -> dict[str, bytes]:
  return {
    str(p.relative_to(folder)): p.read_bytes()
    for p in folder.rglob('*')
    if p.is_file()
  }


def restored_step(workdir, states, capfd) -> int:
  """Step that is read; its bits, what is said and what stays are checked."""
  folder = workdir / 'checkpoints'
  damaged = contents(folder / '90')
  capfd.readouterr()
  checkpointer = checkpoint.Checkpointer(folder, random_state.SYNC)
  restored = checkpointer.restore_latest(random_state.abstract(states[90]))
  checkpointer.close()
  random_state.assert_same_bits(restored.state, states[restored.step])
  said = f'*** checkpoint {folder / "90"} is DAMAGED' in capfd.readouterr().err
  assert said == (restored.step == 80)
  place = '90.damaged-0' if restored.step == 80 else '90'
  assert contents(folder / place) == damaged
  assert checkpoint.list_steps(folder) == sorted({80, restored.step})
  return restored.step


def damage_each(
  saved, tmp_path, states, capfd, *, names, damage
) -> dict[str, set[int]]:
  """Kind of file -> steps that were read when one of that kind was damaged."""
  found: dict[str, set[int]] = {}
  for number, name in enumerate(names):
    workdir = tmp_path / str(number)
    shutil.copytree(saved, workdir)
    damage(workdir / 'checkpoints' / '90' / name)
    step = restored_step(workdir, states, capfd)
    found.setdefault(kind(name), set()).add(step)
    shutil.rmtree(workdir)
  return found


@pytest.mark.parametrize('how', FILES)
def test_every_file(saved, tmp_path, states, capfd, how):
  step = saved / 'checkpoints' / '90'
  names = [
    name
    for path in step.rglob('*')
    # What evaluation reads, and what nobody does, has tests of its own.
    if path.is_file()
    and not (name := str(path.relative_to(step))).startswith('encoder/')
    and path.name != 'commit_success.txt'
  ]
  found = damage_each(
    saved, tmp_path, states, capfd, names=names, damage=FILES[how]
  )
  assert set(NEEDED) < set(found)
  for name in NEEDED:
    assert found[name] == {80}, name
  # One of the files of array data holds the arrays.
  assert 80 in found['state/ocdbt.process_#/d/#']


@pytest.mark.parametrize('how', FOLDERS)
def test_every_folder(saved, tmp_path, states, capfd, how):
  step = saved / 'checkpoints' / '90'
  names = [
    name
    for path in step.rglob('*')
    if path.is_dir()
    and not (name := str(path.relative_to(step))).startswith('encoder')
  ]
  found = damage_each(
    saved, tmp_path, states, capfd, names=names, damage=FOLDERS[how]
  )
  assert {name for name, steps in found.items() if steps == {80}} == set(
    NEEDED_FOLDERS
  )


@pytest.mark.parametrize('how', FILES)
def test_every_file_of_the_encoder(saved, tmp_path, states, how):
  """Readers get the bits that were saved, or the step before, and move none."""
  step = saved / 'checkpoints' / '90'
  names = [
    str(path.relative_to(step))
    for path in (step / 'encoder').rglob('*')
    if path.is_file() and path.name != 'commit_success.txt'
  ]
  prints = {
    number: checkpoint.fingerprint(
      {'params': state.params, 'batch_stats': state.model_state}
    )
    for number, state in states.items()
  }
  fallen = set()
  for number, name in enumerate(names):
    workdir = tmp_path / str(number)
    shutil.copytree(saved, workdir)
    FILES[how](workdir / 'checkpoints' / '90' / name)
    encoder = checkpoint.load_encoder(workdir)
    assert encoder.fingerprint == prints[encoder.step], name
    assert checkpoint.list_steps(workdir) == [80, 90]
    if encoder.step == 80:
      fallen.add(kind(name))
    shutil.rmtree(workdir)
  assert {'encoder/manifest.ocdbt', 'encoder/d/#'} <= fallen
  assert 'encoder/ocdbt.process_#/d/#' in fallen


@pytest.mark.parametrize(
  ('error', 'is_damage'),
  [
    (Exception('DATA_LOSS: checksum'), True),
    (ValueError('Error opening "zarr" driver: Data corruption'), True),
    (FileNotFoundError(2, 'No such file'), True),
    (damage.NotAsSaved('sha256 differs'), True),
    (ValueError('UNAVAILABLE: try again'), False),
    (ValueError('not of the content'), False),
    (OSError(5, 'Input/output error'), False),
    (ValueError("OUT_OF_RANGE: Error reading [os_error_code='5']"), False),
    (ValueError("NOT_FOUND: Error reading [os_error_code='2']"), True),
    (OSError(24, 'Too many open files'), False),
    (PermissionError(13, 'Permission denied'), False),
    (KeyError('getpwuid(): uid not found: 54321'), False),
    (RuntimeError("can't start new thread"), False),
    (MemoryError(), False),
    (jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: device'), False),
  ],
)
def test_which_errors_are_damage(error, is_damage):
  assert damage.is_damage(error) == is_damage
  wrapper = Exception('Encountered error while reading array index')
  wrapper.__cause__ = error
  assert damage.is_damage(wrapper) == is_damage
