r"""Embeds a folder of pictures, or any data set, into Parquet files.

  python -m simclr_jax.embed --checkpoint=WORKDIR --input=/pictures --out=DIR
  python -m simclr_jax.embed --checkpoint=WORKDIR --input=cifar10 --split=test \
    --outputs=h,z --dtype=float16 --out=DIR

Network and preprocessing come from the checkpoint's passport. --input is a
folder of pictures, of Parquet files or of arrays, a single .npz or .parquet,
the name of a TFDS data set, or 'run' for the data that the encoder was trained
on (--data.path=PLACE where that has been moved); KIND:PATH where a folder could
be several of these.

DIR/part-*.parquet have the columns id (row of the data set), path, h, z, label;
DIR/embeddings.json says what they are of; pictures that cannot be read are
counted and listed in DIR/skipped_files.txt. Killed at any moment, the same
command continues; every picture is embedded once. With several processes
(--coordinator, or found by themselves) all need the same DIR.

When pictures have been added to the folder, the same command with --add embeds
those alone; ids stay what they are. Pictures that are gone or have changed are
refused: DIR would find what is not there.

Exit codes: 0 done, 1 could not be read or written, 2 wrong input, 69 another
process was lost, 75 stopped by a signal (of several processes the one that got
it dies of it, and the others end with 69). After 1, 69 and 75 the same command
continues.
"""

from __future__ import annotations

import pathlib
import sys
import time

from absl import flags
import jax

from simclr_jax import (
  command_flags,
  console,
  flag_errors,
  multi_process,
  processes,
  retries,
  section_flags,
  writes,
)
from simclr_jax.data import pipeline
from simclr_jax.retrieval import (
  completion,
  computing,
  embedding,
  growth,
  inputs,
  spaces,
)
from simclr_jax.retrieval.identity import DTYPES, OUTPUTS
from simclr_jax.training import checkpoint, choice, signals
from simclr_jax.training import passport as passport_lib

_CHECKPOINT = command_flags.DEFINE_address(
  'checkpoint', None, 'Workdir of a run (local or gs://...).'
)
_STEP = command_flags.DEFINE_string(
  'step', '', "Step of the checkpoint, or 'best'; default: the newest."
)
_INPUT = command_flags.DEFINE_path(
  'input', None, 'What to embed: a folder, a file, a data set, or run.'
)
_SPLIT = command_flags.DEFINE_string(
  'split',
  '',
  "Split of the data set ('train', 'test[:1000]'); of a folder a sub-folder; "
  'default: all of a folder, the training split of the run.',
)
_OUT = command_flags.DEFINE_address(
  'out', None, 'Local folder for the embeddings.'
)
_OUTPUTS = command_flags.DEFINE_list(
  'outputs', ['h'], f'Some of {", ".join(OUTPUTS)}: features, projections.'
)
_DTYPE = command_flags.DEFINE_enum(
  'dtype', 'float32', list(DTYPES), 'Of the vectors.'
)
_NORMALIZE = command_flags.DEFINE_bool(
  'normalize', False, 'Divide each vector by its length; recorded.'
)
_SHARD_ROWS = command_flags.DEFINE_integer(
  'shard_rows',
  embedding.SHARD_ROWS,
  'Pictures to a file: what is computed again after a kill, at most.',
)
_ADD = command_flags.DEFINE_bool(
  'add',
  False,
  'Into a finished set whose folder has grown: embed the new pictures alone.',
)
_RANDOM_INIT = command_flags.DEFINE_bool(
  'random_init', False, 'The network freshly initialised: the baseline.'
)
_BATCH_SIZE = command_flags.DEFINE_integer(
  'batch_size', 0, 'Pictures of a process at a time; 0: as the checkpoint says.'
)
_LABELS_FROM = command_flags.DEFINE_enum(
  'labels_from',
  None,
  ['none', 'folders'],
  "For a folder: 'folders' stores the first folder level as class.",
)
_LABEL_KEY = command_flags.DEFINE_string(
  'label_key', None, 'Column or TFDS feature of the label; none: --label_key=-.'
)
_IMAGE_KEY = command_flags.DEFINE_string(
  'image_key', None, 'Column or TFDS feature of the picture.'
)
_BITS = command_flags.DEFINE_integer(
  'bits', None, 'Bits in use of 16-bit images; else as in the checkpoint.'
)
_DATA_DIR = command_flags.DEFINE_address(
  'data_dir', None, 'TFDS data directory.'
)
_LOADER = command_flags.DEFINE_enum(
  'loader', None, list(pipeline.LOADERS), 'Who reads and decodes.'
)
_NUM_WORKERS = command_flags.DEFINE_integer(
  'num_workers', None, 'Parallel calls that read and decode.', lower_bound=0
)
section_flags.define('data')
flags.adopt_module_key_flags(multi_process)


def main(argv: list[str]) -> int:
  """Exit code of the command."""

  def body() -> int:
    with processes.together():
      if len(argv) > 1:
        raise ValueError(f'unknown arguments {" ".join(argv[1:])}')
      options = embedding.Options(
        outputs=tuple(_OUTPUTS.value),
        dtype=_DTYPE.value,
        normalize=_NORMALIZE.value,
        shard_rows=_SHARD_ROWS.value,
      )
      step = choice.parse_step(_STEP.value)
    loaded = checkpoint.load_encoder(_CHECKPOINT.value, step=step)
    with processes.together():
      found = _find(loaded)
    try:
      with section_flags.named('--data'):
        return _embed(loaded, found, options)
    except computing.Stopped:
      print('stopped; the same command continues', file=sys.stderr)
      return console.EXIT_STOPPED

  return multi_process.run(
    body,
    codes={
      OSError: console.EXIT_FAILED,
      ValueError: console.EXIT_WRONG_INPUT,
      checkpoint.DamagedCheckpoint: console.EXIT_WRONG_INPUT,
    },
    agreed=(checkpoint.DamagedCheckpoint,),
  )


def _find(loaded: checkpoint.LoadedEncoder) -> inputs.Input:
  """The data set that the flags name."""
  changes = {
    name: flag.value
    for name, flag in {
      'labels_from': _LABELS_FROM,
      'label_key': _LABEL_KEY,
      'image_key': _IMAGE_KEY,
      'bits': _BITS,
      'data_dir': _DATA_DIR,
      'loader': _LOADER,
      'num_workers': _NUM_WORKERS,
    }.items()
    if flag.value is not None
  }
  if changes.get('label_key') == '-':
    changes['label_key'] = ''
  return inputs.find_input(
    str(_INPUT.value),
    passport_lib.config_from_passport(loaded.passport),
    split=_SPLIT.value,
    batch_size=_BATCH_SIZE.value,
    changes=changes,
    moved=section_flags.given(('data',)).get('data', {}),
  )


def _embed(
  loaded: checkpoint.LoadedEncoder,
  found: inputs.Input,
  options: embedding.Options,
) -> int:
  start = time.monotonic()
  kind = spaces.KINDS[1] if _RANDOM_INIT.value else spaces.KINDS[0]

  def embed(stop_fn: computing.StopFn) -> completion.Embedded:
    embed_fn = growth.add if _ADD.value else embedding.embed
    out = pathlib.Path(str(_OUT.value))
    with writes.to(out):
      return embed_fn(
        loaded, found, out=out, options=options, kind=kind, stop_fn=stop_fn
      )

  if jax.process_count() > 1:
    # A signal ends its process, the others notice; nothing complete is lost.
    embedded = embed(lambda: False)
  else:
    with (
      signals.StopRequest(will='stopping after this batch') as stop,
      retries.listening(lambda: stop.requested),
    ):
      try:
        embedded = embed(lambda: stop.requested)
      except retries.DataAway:
        if stop.requested:
          raise computing.Stopped from None
        raise
  if jax.process_index() == 0:
    rate = embedded.num_computed / (time.monotonic() - start)
    there = embedded.num_rows - embedded.num_computed
    print(
      f'{embedded.num_rows:,} embeddings of {", ".join(options.outputs)}'
      + (f', {there:,} of them there already' if there else '')
      + (f' ({rate:,.0f}/s)' if embedded.num_computed else '')
    )
    if embedded.bad:
      print(
        f'{len(embedded.bad):,} pictures could not be read: '
        f'{embedded.folder / "skipped_files.txt"}'
      )
    print(f'-> {embedded.folder}')
  return 0


if __name__ == '__main__':
  flag_errors.run(main, required=['checkpoint', 'input', 'out'])
