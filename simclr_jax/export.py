"""Writes the encoder of a checkpoint for another program.

  python -m simclr_jax.export --checkpoint=WORKDIR --format=torchvision \
    --out=exported/resnet50
  python -m simclr_jax.export --checkpoint=WORKDIR --format=stablehlo \
    --outputs=h,z --out=exported/program

The exported files are loaded again by the program they are for, and its
features of real pictures are compared with ours: above --threshold nothing is
left. What a format cannot express exactly is refused. --out has an export.json
(preprocessing, config, differences, licence note) and a README.md beside the
files.

Exit codes: 0 done, 1 the exported model differs or could not be written, 2 the
checkpoint, the flags or the installed packages do not allow it.
"""

from __future__ import annotations

import pathlib

from simclr_jax import command_flags, console, exporters, flag_errors
from simclr_jax.exporters import job
from simclr_jax.exporters.network import OUTPUTS, Options
from simclr_jax.training import checkpoint, choice

_CHECKPOINT = command_flags.DEFINE_address(
  'checkpoint', None, 'Workdir of a run (local or gs://...).'
)
_FORMAT = command_flags.DEFINE_string(
  'format', None, f'One of {", ".join(exporters.EXPORTERS)}.'
)
_OUT = command_flags.DEFINE_path('out', None, 'New local folder.')
_STEP = command_flags.DEFINE_string(
  'step', '', "Step of the checkpoint, or 'best'; default: the newest."
)
_OUTPUTS = command_flags.DEFINE_list(
  'outputs',
  ['h'],
  f'Some of {", ".join(OUTPUTS)}: features, projections, online classifier.',
)
_THRESHOLD = command_flags.DEFINE_float(
  'threshold',
  job.THRESHOLD,
  'Largest difference of an output, relative to its largest value.',
)
_PICKLE = command_flags.DEFINE_bool(
  'pickle', False, 'For torch formats: write a .pth beside the .safetensors.'
)
_LICENSE = command_flags.DEFINE_string(
  'weights_license', '', 'SPDX identifier of the weights, for the model card.'
)


def main(argv: list[str]) -> int:
  """Exit code of the command."""
  try:
    console.start()
    if len(argv) > 1:
      raise ValueError(f'unknown arguments {" ".join(argv[1:])}')
    exported = job.export(
      checkpoint.load_encoder(
        _CHECKPOINT.value, step=choice.parse_step(_STEP.value)
      ),
      str(_FORMAT.value),
      out=pathlib.Path(str(_OUT.value)),
      outputs=_OUTPUTS.value,
      threshold=_THRESHOLD.value,
      options=Options(pickle=_PICKLE.value, license=_LICENSE.value),
    )
  except (OSError, job.ExportDiffers) as error:
    return console.fail(error, code=console.EXIT_FAILED)
  except (ValueError, checkpoint.DamagedCheckpoint) as error:
    return console.fail(error, code=console.EXIT_WRONG_INPUT)
  for name, found in exported.differences.items():
    print(
      f'{name}: largest difference {found["absolute"]:.3g}, '
      f'{found["relative"]:.3g} of the largest value {found["largest"]:.3g} '
      f'(threshold {_THRESHOLD.value:g})'
    )
  facts = exported.description['export']
  if exact := facts.get('exact_for'):
    print(f'exact for: {exact}')
  print(f'-> {exported.folder} ({exported.num_bytes / 1e6:.1f} MB)')
  print(facts['how_to_load'])
  return 0


if __name__ == '__main__':
  flag_errors.run(main, required=['checkpoint', 'format', 'out'])
