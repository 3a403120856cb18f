r"""Finds pictures that are there twice, or nearly, by their embeddings.

  python -m simclr_jax.duplicates --embeddings=DIR --out=duplicates.json \
    --sheet=duplicates.html

DIR is what simclr_jax.embed wrote. Pictures whose embeddings have a cosine of
at least --threshold are one group; files with the same bytes are told apart
from those that only look alike (--bytes=false reads no picture again). How
alike two different pictures are depends on the encoder. By default a pair is
ten times as close as a picture and its nearest other usually are; the line
about the nearest other picture says what a --threshold has to be above.

Every picture is compared with all others, in bounded memory; for more than some
hundred thousand use --index=hnsw (pip install '.[search]' in the clone).

Exit codes: 0 done, 1 could not be written, 2 wrong input.
"""

from __future__ import annotations

import os
import pathlib
import sys
from typing import Any

from absl import flags
import jax

from simclr_jax import (
  command_flags,
  console,
  flag_errors,
  out_file,
  section_flags,
  writes,
)
from simclr_jax.retrieval import (
  atomic,
  duplicates,
  indexes,
  pictures,
  searching,
  sheets,
)
from simclr_jax.retrieval.embedding_set import EmbeddingSet
from simclr_jax.training import mesh as mesh_lib

# Above it something is wrong with the threshold rather than with the pictures.
_MANY = 0.2

_EMBEDDINGS = command_flags.DEFINE_path(
  'embeddings', None, 'Folder that simclr_jax.embed wrote.'
)
_THRESHOLD = command_flags.DEFINE_float(
  'threshold',
  None,
  'Least cosine of a pair; default: by how near different pictures are.',
)
_K = command_flags.DEFINE_integer(
  'k', 10, 'Nearest others of each that are looked at.'
)
_OUTPUT = command_flags.DEFINE_enum(
  'output', '', ['', 'h', 'z'], 'Vectors to compare; default: h where it is.'
)
_TRANSFORM = command_flags.DEFINE_string(
  'transform', '', 'pca:WIDTH or whitening:WIDTH, fitted on the embeddings.'
)
_INDEX = command_flags.DEFINE_string(
  'index', 'exact', f'One of {", ".join(indexes.KINDS)}.'
)
_BYTES = command_flags.DEFINE_bool('bytes', True, 'Tell the same bytes apart.')
_PICTURES = command_flags.DEFINE_path(
  'pictures', '', 'Where the folder that was embedded lies now.'
)
_OUT = command_flags.DEFINE_address('out', None, 'JSON file with all groups.')
_SHEET = command_flags.DEFINE_address(
  'sheet', '', 'Contact sheet (.png, .html).'
)
section_flags.define('data')
flags.adopt_module_key_flags(console)


def main(argv: list[str]) -> int:
  """Exit code of the command."""
  try:
    console.start()
    if len(argv) > 1:
      raise ValueError(f'unknown arguments {" ".join(argv[1:])}')
    _check_flags()
    embeddings = EmbeddingSet(pathlib.Path(str(_EMBEDDINGS.value)))
    with writes.to(embeddings.folder):  # Where an index or a transform is kept.
      _run(embeddings)
  except OSError as error:
    return console.fail(error, code=console.EXIT_FAILED)
  except ValueError as error:
    return console.fail(error, code=console.EXIT_WRONG_INPUT)
  return 0


def _check_flags() -> None:
  """Raises ValueError if a number is out of range, or files cannot be."""
  threshold = 0.0 if _THRESHOLD.value is None else _THRESHOLD.value
  duplicates.check(threshold, _K.value)
  if _OUT.value:
    if not _OUT.value.endswith('.json'):
      raise ValueError(f'--out={_OUT.value}: a .json is wanted')
    out_file.check(_OUT.value, local=True)
  if _SHEET.value:
    sheets.check_path(_SHEET.value, flag='sheet')
  elif _PICTURES.value and not _BYTES.value:
    raise ValueError(
      '--pictures is for --bytes and --sheet: nothing else reads pictures'
    )


def _run(embeddings: EmbeddingSet) -> None:
  shown = None
  if _BYTES.value or _SHEET.value:
    shown = pictures.SetPictures(
      embeddings,
      folder=_PICTURES.value,
      moved=section_flags.given(('data',)).get('data', {}),
    )
  view = searching.open_view(
    embeddings, output=_OUTPUT.value, transform=_TRANSFORM.value
  )
  index = indexes.open_index(
    embeddings,
    view,
    kind=_INDEX.value,
    mesh=mesh_lib.make_mesh(jax.local_devices()),
  )
  bank, threshold = view.bank(embeddings), _THRESHOLD.value
  if threshold is None:
    threshold = duplicates.suggest_threshold(bank, index.search)
  found = duplicates.find_groups(
    bank, index.search, threshold=threshold, k=_K.value
  )
  if _BYTES.value and shown is not None:
    found = duplicates.tell_identical(found, embeddings, shown.stored)
  _print(found, threshold)
  report = duplicates.to_json(found, embeddings, threshold=threshold)
  if _OUT.value:
    path = pathlib.Path(_OUT.value)
    atomic.write_json(path, report)
    print(f'-> {path}', file=sys.stderr)
  if _SHEET.value and shown is not None:
    _write_sheet(embeddings, shown, found, report)


def _print(found: duplicates.Found, threshold: float) -> None:
  same = (
    f', {found.num_identical:,} of them byte by byte' if _BYTES.value else ''
  )
  print(
    f'{found.num_pictures:,} pictures, {len(found.groups):,} groups with a '
    f'cosine of {threshold:.5g} or more; '
    f'{found.num_redundant:,} pictures repeat another{same}'
  )
  shares = ', '.join(
    f'{share:.1%} below {value:.4f}' for share, value in found.quantiles.items()
  )
  print(f'cosine to the nearest other picture: {shares}', flush=True)
  if found.num_members > _MANY * found.num_pictures:
    print(
      f'warning: {found.num_members / found.num_pictures:.0%} of the pictures '
      f'are in groups: --threshold={threshold:g} is low for this '
      'encoder, or most pictures are copies; look at --sheet',
      file=sys.stderr,
    )


def _write_sheet(
  embeddings: EmbeddingSet,
  shown: pictures.SetPictures,
  found: duplicates.Found,
  report: dict[str, Any],
) -> None:
  groups = report['groups']
  if not groups:
    print('no groups: no sheet is written', file=sys.stderr)
    return
  most = sheets.MAX_LINES[os.path.splitext(_SHEET.value)[1].lower()]
  sheets.write(
    _SHEET.value,
    f'{len(groups):,} groups of pictures that are alike',
    f'Of {found.num_pictures:,} pictures of {embeddings.name}: those whose '
    f'embeddings have a cosine of {report["threshold"]:.5g} or more. Blue '
    'frames: the bytes of another one; orange: nearly the same.',
    lines=duplicates.to_lines(groups, embeddings, shown, most=most),
  )
  left_out = max(len(groups) - most, 0)
  more = f' (without the last {left_out:,} groups)' if left_out else ''
  print(f'-> {_SHEET.value}{more}', file=sys.stderr)
  shown.warn()


if __name__ == '__main__':
  flag_errors.run(main, required=['embeddings'])
