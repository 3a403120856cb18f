"""Writes a data set to Parquet, which is then read without TensorFlow.

  python -m simclr_jax.prepare --config=configs/cifar10.py --out=DIR
  python -m simclr_jax.prepare --config=configs/folder.py --out=DIR \
    --config.data.path=/pictures --splits='train=[:90%],test=[90%:]'

Any data set that a config can name (TFDS, folders, arrays, ...) becomes
DIR/data/SPLIT-00000-of-00007.parquet in the layout of Hugging Face's image data
sets. Encoded pictures are stored as the same bytes where they can be. The files
are read back and compared, then DIR/data appears as a whole: what an
interrupted run leaves (DIR/.partial) is never read, and the same command begins
again. The last lines are the flags that use the data set, to which
--config.data.loader=opencv is added where there is no TensorFlow.

Exit codes: 0 done, 1 failed, 2 command, config or data are wrong.
"""

from __future__ import annotations

import pathlib

from simclr_jax import command_flags, console, flag_errors
from simclr_jax import config as config_lib
from simclr_jax.data import preparation

_CONFIG = command_flags.DEFINE_config_file(
  'config', help_string='Config file that names the data set.'
)
_OUT = command_flags.DEFINE_path(
  'out', None, 'New local folder for the data set.'
)
_SPLITS = command_flags.DEFINE_string(
  'splits',
  '',
  "What to write, e.g. 'train,test' or 'train=train[:90%],test=train[90%:]'; "
  "'' for the config's train_split and test_split.",
)
_SHARD_MB = command_flags.DEFINE_integer(
  'shard_mb', 500, 'A file is closed once it holds as many megabytes.'
)
_ROWS_PER_SHARD = command_flags.DEFINE_integer(
  'rows_per_shard', 0, 'A file is closed at so many pictures; 0 for any number.'
)


def main(argv: list[str]) -> int:
  """Exit code of the command."""
  try:
    console.start(devices=False)
    if len(argv) > 1:
      raise ValueError(f'unknown arguments {" ".join(argv[1:])}')
    config = config_lib.from_config_dict(_CONFIG.value)
    prepared = preparation.run(
      config,
      pathlib.Path(str(_OUT.value)),
      splits=preparation.parse_splits(_SPLITS.value, config.data),
      shard_mb=_SHARD_MB.value,
      rows_per_shard=_ROWS_PER_SHARD.value,
    )
  except ValueError as error:
    return console.fail(error, code=console.EXIT_WRONG_INPUT)
  except OSError as error:
    return console.fail(error, code=console.EXIT_FAILED)
  loader = '--config.data.loader=opencv'
  hint = (
    '' if config.data.loader == 'opencv' else f' (no TensorFlow: + {loader})'
  )
  print(f'use it with{hint}:\n  {preparation.overrides(config, prepared)}')
  return 0


if __name__ == '__main__':
  flag_errors.run(main, required=['config', 'out'])
