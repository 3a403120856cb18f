"""Advice for data that no source reads: archives, tables, other image formats.

Each text is one sentence with a command that works.
"""

from __future__ import annotations

from collections.abc import Iterable
import os

# What Pillow opens beyond the formats that are read here.
_PILLOW = ('.tif', '.tiff', '.avif', '.jp2', '.ppm', '.pgm', '.tga', '.psd')
_HEIF = ('.heic', '.heif')
_CAMERA = ('.dng', '.cr2', '.cr3', '.nef', '.arw', '.dcm', '.jxl', '.svg')
_ARCHIVES = (
  '.tar',
  '.tgz',
  '.gz',
  '.bz2',
  '.xz',
  '.zst',
  '.zip',
  '.7z',
  '.rar',
)
_TABLES = ('.csv', '.tsv', '.xls', '.xlsx', '.json', '.jsonl')
_VIDEOS = ('.mp4', '.mov', '.avi', '.mkv', '.webm')
_ARRAYS = ('.npy', '.npz')
_STORES = (
  *('.h5', '.hdf5', '.mat', '.pkl', '.pickle', '.pt', '.pth'),
  *('.lmdb', '.mdb', '.rec', '.idx', '.bin'),
)
IMAGES = (*_PILLOW, *_HEIF, *_CAMERA)
# First bytes of formats whose files may have the extension of another.
_BEGINNINGS = {
  b'II*\0': 'TIFF',
  b'MM\0*': 'TIFF',
  b'ftypheic': 'HEIC',
  b'ftypheix': 'HEIC',
  b'ftypmif1': 'HEIC',
  b'ftypavif': 'AVIF',
}


def advise(path: str, extensions: Iterable[str]) -> str:
  """What to do with files of these extensions; '' where nothing is known.

  Args:
    path: The file, or the folder that holds them.
    extensions: With their dot, in lower case; the first that is known counts,
      a table last: it describes the others.
  """
  for extension in sorted(extensions, key=lambda e: e in _TABLES):
    if text := _advise(path, extension):
      return text
  return ''


def of_file(path: str) -> str:
  """As `advise`, for a single file."""
  return advise(path, [os.path.splitext(path)[1].lower()])


def format_of(data: bytes) -> str:
  """Name of a known format that is not read; '' for none."""
  for beginning, name in _BEGINNINGS.items():
    if data.startswith(beginning) or data[4:12] == beginning:
      return name
  return ''


def _advise(path: str, extension: str) -> str:
  if extension in _ARCHIVES:
    tool = 'unzip -d FOLDER' if extension == '.zip' else 'tar -C FOLDER -xf'
    return (
      f'unpack the archive (mkdir FOLDER; {tool} {path}) and set '
      'config.data.path to FOLDER'
    )
  if extension in _TABLES:
    return (
      'labels are not read from a table: sort the images into class folders, '
      'one sub-folder for each class, and set config.data.path to the folder '
      "above them (config.data.labels_from='folders')"
    )
  if extension in (*_PILLOW, *_HEIF):
    return _convert(path, extension)
  if extension in _CAMERA:
    return (
      f'convert {extension} files to PNG or JPEG with the program that they '
      'come from'
    )
  if extension in _VIDEOS:
    return (
      'extract frames of the videos as images (ffmpeg -i VIDEO -vf fps=1 '
      'FOLDER/%06d.png) and set config.data.path to FOLDER'
    )
  if extension == '.arrow':
    return _to_parquet(path)
  if extension == '.parquet':
    return '--config.data.source=parquet reads Parquet files'
  if extension in _ARRAYS:
    return (
      '--config.data.source=arrays reads arrays, an .npz or a folder of '
      'train_images.npy, train_labels.npy'
    )
  if extension in _STORES:
    return (
      f'convert {extension} to image files in class folders, or to uint8 '
      "arrays [n, H, W, 3] (numpy.save('train_images.npy', images)) for "
      '--config.data.source=arrays'
    )
  return ''


def _convert(path: str, extension: str) -> str:
  files = f'pathlib.Path("{path}").rglob("*")'
  if os.path.isfile(path):
    files = f'[pathlib.Path("{path}")]'
  install = register = ''
  if extension in _HEIF:
    install = 'pip install pillow-heif; '
    register = 'import pillow_heif; pillow_heif.register_heif_opener(); '
  return (
    f'convert {extension} files (of several pages the first): {install}'
    f"python -c '{register}import pathlib; from PIL import Image, ImageOps; "
    '[ImageOps.exif_transpose(Image.open(p)).save(f"{p}.png") for p in '
    f'{files} if p.suffix.lower() == "{extension}"]\''
  )


def _to_parquet(path: str) -> str:
  folder = os.path.dirname(path) if os.path.isfile(path) else path
  out = f'{folder.rstrip("/")}_parquet'
  return (
    'convert what `save_to_disk` of Hugging Face wrote (Arrow) to Parquet: '
    f'mkdir {out}; '
    "python -c 'from datasets import load_from_disk; d = "
    f'load_from_disk("{folder}"); [s.to_parquet(f"{out}/{{n}}.parquet") for n, '
    's in (d.items() if hasattr(d, "items") else [("train", d)])]\'; then '
    f'--config.data.source=parquet --config.data.path={out}'
  )
