"""Makes a checkpoint of weights of another codebase.

  python -m simclr_jax.import_checkpoint --source=run/ckpt-7 \
    --format=official_tf2 --config=configs/imagenet.py --out=runs/official
  python -m simclr_jax.import_checkpoint --source=resnet50.safetensors \
    --format=torchvision --normalize=imagenet --out=runs/resnet50

Afterwards --out is a workdir like that of a run: linear_probe, knn and export
take it as --checkpoint. The config says which network it is and which data it
will be judged on; what the file itself decides replaces it and is printed.
Everything in the file has to be explained: a table says what was loaded, and
anything missing, unexpected or of another shape is an error unless it is named.

Exit codes: 0 done, 1 could not be written, 2 nothing was written because the
file or the flags are wrong.
"""

from __future__ import annotations

import pathlib
import sys

from simclr_jax import command_flags, console, flag_errors, importers
from simclr_jax import config as config_lib
from simclr_jax.evaluation import encoder
from simclr_jax.importers import job

_CONFIG = command_flags.DEFINE_config_file(
  'config', help_string='Config file of the network, and of data to judge it.'
)
_SOURCE = command_flags.DEFINE_path(
  'source', None, 'File, TensorFlow checkpoint prefix or folder.'
)
_FORMAT = command_flags.DEFINE_string(
  'format', None, f'One of {", ".join(importers.FORMATS)}.'
)
_OUT = command_flags.DEFINE_path('out', None, 'New workdir (local).')
_NORMALIZE = command_flags.DEFINE_string(
  'normalize',
  '',
  "How pictures in [0, 1] were prepared: 'none', 'imagenet' or "
  "'m,m,m/s,s,s'. Wanted for torch files, which do not say it.",
)
_PREFIX = command_flags.DEFINE_string(
  'prefix',
  '',
  "What the network's names begin with, where there are several networks in "
  'the file (ema_model/, encoder_q.).',
)
_LEAVE_OUT = command_flags.DEFINE_list(
  'leave_out', [], 'Beginnings of names that are not looked at.'
)
_ALLOW_MISSING = command_flags.DEFINE_list(
  'allow_missing',
  [],
  "'head': the file need not have a projection head; z is then h.",
)


def main(argv: list[str]) -> int:
  """Exit code of the command."""
  try:
    console.start()
    if len(argv) > 1:
      raise ValueError(f'unknown arguments {" ".join(argv[1:])}')
    config = _CONFIG.value
    imported = job.import_checkpoint(
      pathlib.Path(str(_SOURCE.value)),
      str(_FORMAT.value),
      out=pathlib.Path(str(_OUT.value)),
      config=None if config is None else config_lib.from_config_dict(config),
      normalize=_NORMALIZE.value,
      prefix=_PREFIX.value,
      leave_out=_LEAVE_OUT.value,
      allow_missing=_ALLOW_MISSING.value,
    )
  except OSError as error:
    return console.fail(error, code=console.EXIT_FAILED)
  except ValueError as error:
    return console.fail(error, code=console.EXIT_WRONG_INPUT)
  print(imported.match.table())
  for note in imported.notes:
    print(f'note: {note}')
  for change in imported.decided:
    print(f'decided by the file: {change}')
  stated = imported.passport['preprocessing']
  print(
    f'pictures: [0, 1], mean {stated["mean"]}, std {stated["std"]}, pad '
    f'{stated["pad"]}, {stated["image_size"]} px'
  )
  if warning := encoder.resize_warning(imported.passport):
    print(f'warning: {warning}', file=sys.stderr)
  print(f'-> {imported.path}')
  return 0


if __name__ == '__main__':
  flag_errors.run(main, required=['source', 'format', 'out'])
