"""What a row of the table is, and what many rows build on."""

from __future__ import annotations

from collections.abc import Callable
import io
import pathlib
import shutil
from typing import NamedTuple

import numpy as np
from PIL import Image

# Folder of the row -> arguments of the command. `RUN` lies beside it.
BuildFn = Callable[[pathlib.Path], list[str]]
RUN = 'run'  # A finished run, read-only: copy it to change it.


class Row(NamedTuple):
  """A bad input and what it gives.

  Attributes:
    name: Of the case.
    command: Module below simclr_jax.
    build: Makes the input; gives the arguments.
    says: Regular expression, found in the error (or, with code 0, in what the
      command writes).
    code: Exit code.
    tensorflow: Whether the command needs it.
    unprivileged: Whether modes of files are to hold for root too.
  """

  name: str
  command: str
  build: BuildFn
  says: str
  code: int = 2
  tensorflow: bool = False
  unprivileged: bool = False


def pixels(height: int = 9, width: int = 12, *, seed: int = 0) -> np.ndarray:
  """uint8 [H, W, 3]."""
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (height, width, 3), np.uint8)


def encode(image: Image.Image, form: str, **options: object) -> bytes:
  """Bytes of a picture."""
  out = io.BytesIO()
  image.save(out, form, **options)
  return out.getvalue()


def picture(form: str = 'PNG', *, seed: int = 0, **options: object) -> bytes:
  """A small sound picture."""
  return encode(Image.fromarray(pixels(seed=seed)), form, **options)


def pictures(folder: pathlib.Path, *, count: int = 4) -> pathlib.Path:
  """A folder of sound pictures, `folder`/pictures."""
  root = folder / 'pictures'
  root.mkdir()
  for i in range(count):
    (root / f'{i}.png').write_bytes(picture(seed=i))
  return root


def main(folder: pathlib.Path, *arguments: str) -> list[str]:
  """`main` on little data, without TensorFlow."""
  return [
    '--config=configs/smoke.py',
    f'--workdir={folder / "workdir"}',
    '--config.data.loader=opencv',
    *arguments,
  ]


def folder_run(
  folder: pathlib.Path, root: object, *arguments: str
) -> list[str]:
  """`main` on a folder of pictures, without TensorFlow."""
  return [
    '--config=configs/folder.py',
    f'--workdir={folder / "workdir"}',
    '--config.data.loader=opencv',
    '--config.train.batch_size=2',
    f'--config.data.path={root}',
    *arguments,
  ]


def prepare(folder: pathlib.Path, root: object, *arguments: str) -> list[str]:
  """`prepare` of a folder of pictures: reads all, trains nothing."""
  return [
    '--config=configs/folder.py',
    f'--config.data.path={root}',
    f'--out={folder / "out"}',
    *arguments,
  ]


def judge(workdir: object, *arguments: str) -> list[str]:
  """`knn` or `linear_probe`, without TensorFlow."""
  return [f'--checkpoint={workdir}', '--data.loader=opencv', *arguments]


def copy_run(folder: pathlib.Path) -> pathlib.Path:
  """A finished run that the row may change."""
  return pathlib.Path(shutil.copytree(folder.parent / RUN, folder / RUN))


def prepare_table(
  folder: pathlib.Path, source: str, *arguments: str
) -> list[str]:
  """`prepare` of the Parquet files or arrays in a folder."""
  return [
    '--config=configs/parquet.py',
    f'--config.data.source={source}',
    f'--config.data.path={folder}',
    '--config.data.test_split=',
    f'--out={folder}_out',
    *arguments,
  ]
