"""Prints launch/jobset.yaml with its values filled in; launch/gke.sh calls it.

  python launch/render.py --name=v1 --image=IMAGE --topology=4x4 -- FLAGS

Values are put into the parsed template, never into its text: whatever a flag of
the run holds, it stays one argument. Exit code 2 where a value is wrong.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
import math
import pathlib
import re
import sys

import yaml

TEMPLATE = pathlib.Path(__file__).with_name('jobset.yaml')

# Kubernetes derives names of pods and hosts from this one: NAME-slice-0-0-xxxxx
# must stay within the 63 characters of a DNS label.
_NAME = re.compile(r'[a-z]([-a-z0-9]{0,38}[a-z0-9])?')
_LABEL = re.compile(r'[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?')
_ACCELERATORS = {
  'tpu-v4-podslice': 3,
  'tpu-v5-lite-podslice': 2,
  'tpu-v5p-slice': 3,
  'tpu-v6e-slice': 2,
  'tpu7x': 3,
}  # Name of GKE: dimensions of its topologies.


def count_nodes(topology: str, *, accelerator: str, chips_per_node: int) -> int:
  """Machines of a slice.

  Args:
    topology: Chips along each dimension, such as '4x4'.
    accelerator: GKE's name of the TPU.
    chips_per_node: Chips of one machine.

  Raises:
    ValueError: If there is no such slice.
  """
  dimensions = _ACCELERATORS.get(accelerator)
  if dimensions is None:
    known = ', '.join(_ACCELERATORS)
    raise ValueError(f'--accelerator={accelerator}: one of {known}')
  if not re.fullmatch(r'[1-9]\d*(x[1-9]\d*)*', topology):
    raise ValueError(f'--topology={topology}: numbers of chips, such as 4x4')
  sides = [int(side) for side in topology.split('x')]
  if len(sides) != dimensions:
    raise ValueError(
      f'--topology={topology}: {accelerator} has {dimensions} dimensions'
    )
  chips = math.prod(sides)
  if chips % chips_per_node:
    raise ValueError(
      f'--chips_per_node={chips_per_node} does not divide the {chips} chips of '
      f'--topology={topology}; slices of one machine have 1, 4 or 8 on it'
    )
  return chips // chips_per_node


def render(values: Mapping[str, object]) -> dict:
  """The template with `values`; a mapping's entry with the value None goes.

  Raises:
    ValueError: If the template names a value that is not there.
  """
  filled = _fill(yaml.safe_load(TEMPLATE.read_text()), values)
  assert isinstance(filled, dict)
  return filled


def _fill(node: object, values: Mapping[str, object]) -> object:
  if isinstance(node, dict):
    filled = {key: _fill(value, values) for key, value in node.items()}
    return {key: value for key, value in filled.items() if value is not None}
  if isinstance(node, list):
    return [_fill(value, values) for value in node]
  if not isinstance(node, str) or '${' not in node:
    return node
  match = re.fullmatch(r'\$\{(\w+)\}', node)
  if not match or match[1] not in values:
    known = ', '.join('${' + name + '}' for name in values)
    raise ValueError(f'{TEMPLATE.name}: {node!r} is none of {known}')
  return values[match[1]]


def _values(options: argparse.Namespace) -> dict[str, object]:
  if not _NAME.fullmatch(options.name):
    raise ValueError(
      f'--name={options.name}: up to 40 small letters, digits and -, beginning '
      'with a letter'
    )
  for option in ('namespace', 'service_account'):
    value = getattr(options, option)
    if value and not _LABEL.fullmatch(value):
      raise ValueError(
        f'--{option}={value}: small letters, digits and - are allowed'
      )
  for option in ('chips_per_node', 'slices', 'grace_seconds'):
    if getattr(options, option) < 1:
      raise ValueError(f'--{option}={getattr(options, option)}: at least 1')
  if not options.image or options.image.split() != [options.image]:
    raise ValueError(f'--image={options.image!r}: a name without spaces')
  if not options.args:
    raise ValueError('flags of the run are missing: end the line with -- FLAGS')
  nodes = count_nodes(
    options.topology,
    accelerator=options.accelerator,
    chips_per_node=options.chips_per_node,
  )
  # Several pods find each other by what GKE tells them, or say that they
  # cannot; a single one has nobody to look for.
  distributed = 'auto' if nodes * options.slices > 1 else 'off'
  return {
    'name': options.name,
    'namespace': options.namespace,
    'image': options.image,
    'accelerator': options.accelerator,
    'topology': options.topology,
    'chips_per_node': options.chips_per_node,
    'nodes': nodes,
    'slices': options.slices,
    'max_restarts': options.max_restarts,
    'grace_seconds': options.grace_seconds,
    'service_account': options.service_account or None,
    'spot': 'true' if options.spot == 'true' else None,
    # Kubernetes reads $(NAME) as a variable, and $$ as one dollar.
    'args': [
      arg.replace('$', '$$')
      for arg in (f'--distributed={distributed}', *options.args)
    ],
  }


def _parse(argv: Sequence[str]) -> argparse.Namespace:
  parser = argparse.ArgumentParser(allow_abbrev=False)
  for name in ('name', 'image', 'topology'):
    parser.add_argument(f'--{name}', required=True)
  parser.add_argument('--namespace', default='default')
  parser.add_argument('--accelerator', default='tpu-v5-lite-podslice')
  parser.add_argument('--service_account', default='')
  parser.add_argument('--spot', choices=['true', 'false'], default='false')
  for name, default in (
    ('chips_per_node', 4),
    ('slices', 1),
    ('max_restarts', 100),
    ('grace_seconds', 120),
  ):
    parser.add_argument(f'--{name}', type=int, default=default)
  parser.add_argument('args', nargs='*', help='flags of the run, after --')
  return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
  """Exit code of the command."""
  try:
    manifest = render(_values(_parse(argv)))
  except ValueError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  # One argument, one line: a long flag is not folded.
  yaml.safe_dump(manifest, sys.stdout, sort_keys=False, width=10**6)
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
