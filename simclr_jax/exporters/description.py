"""export.json and README.md: what whoever gets the files has to know."""

from __future__ import annotations

from collections.abc import Mapping
import copy
import datetime
import pathlib
from typing import Any

from simclr_jax import models
from simclr_jax.exporters.network import Network, Options, Written

_PRIVATE = ('data_dir', 'path')


def license_note(network: Network, options: Options) -> str:
  """Whose terms hold for the weights."""
  data = network.passport['data'].get('name', 'unknown')
  given = (
    f'They are given under {options.license}. '
    if options.license
    else ('Whoever exported them has stated no licence. ')
  )
  return (
    f'{given}The licence of simclr_jax (Apache-2.0) is that of its code and '
    f'says nothing about weights; the terms of the training data ({data}) and '
    'of weights they were imported from may restrict their use.'
  )


def describe(
  network: Network,
  name: str,
  *,
  written: Written,
  differences: Mapping[str, Mapping[str, float]],
  options: Options,
) -> dict[str, Any]:
  """export.json: the passport without folders of this machine, and the export.

  Args:
    network: What was exported.
    name: Of the format.
    written: By the exporter.
    differences: Output -> how far the exported model is from ours.
    options: Of the export.
  """
  passport: dict[str, Any] = copy.deepcopy(dict(network.passport))
  for field in _PRIVATE:
    value = passport['config']['data'].get(field, '')
    passport['config']['data'][field] = pathlib.PurePath(value).name
  if source := passport.get('imported', {}).get('source'):
    passport['imported']['source'] = pathlib.PurePath(source).name
  return {
    **passport,
    'export': {
      'format': name,
      'created': datetime.datetime.now(datetime.UTC).isoformat('T', 'seconds'),
      'outputs': {name: _widths(network)[name] for name in network.outputs},
      'compute_dtype': 'float32',
      'input_side': network.side,
      'how_to_load': written.how_to_load,
      'differences': {k: dict(v) for k, v in differences.items()},
      'license': license_note(network, options),
      **written.facts,
    },
  }


def _widths(network: Network) -> dict[str, int]:
  return {
    'h': network.num_features,
    'z': models.embedding_dim(network.config.model),
    'logits': network.num_classes,
  }


def preprocessing_text(network: Network) -> str:
  """Sentences for people."""
  stated = network.passport['preprocessing']
  size = stated['image_size']
  crop = stated.get('crop_fraction')
  parts = ['RGB pictures with values in [0, 1] (uint8 / 255)']
  if crop:
    parts.append(f'the centred square of {crop:g} of the short side')
  parts.append(f'resized to {size} x {size} ({stated["resize"]}, no antialias)')
  form = network.input_form
  if form.mean is None:
    parts.append('no mean and no std subtracted or divided')
  else:
    parts.append(f'then (picture - {list(form.mean)}) / {list(form.std or ())}')
  if form.pad:
    parts.append(f'then {form.pad} pixel(s) of zeros on every side')
  return ', '.join(parts) + '.'


def card(
  network: Network, description: Mapping[str, Any], *, license: str
) -> str:
  """README.md; the head is what the Hugging Face Hub reads."""
  export = description['export']
  config, model = network.config, network.config.model
  head = [
    '---',
    'library_name: '
    + {'huggingface': 'transformers', 'timm': 'timm'}.get(
      export['format'], 'simclr_jax'
    ),
    'pipeline_tag: '
    + (
      'image-classification'
      if network.num_classes
      else 'image-feature-extraction'
    ),
    'tags: [simclr, self-supervised, resnet]',
  ]
  if license:
    head.append(f'license: {license}')
  head.append('---')
  rows = '\n'.join(
    f'| {name} | {found["absolute"]:.2g} | {found["relative"]:.2g} |'
    for name, found in export['differences'].items()
  )
  exact = export.get('exact_for')
  data = network.passport['data']
  return '\n'.join(
    [
      *head,
      '',
      f'# ResNet-{model.depth} ({model.width:g}x), SimCLR',
      '',
      f'Step {network.passport["step"]} of a run on {data.get("name")} '
      f'({data.get("num_examples")} pictures, {config.train.duration}, batch '
      f'{config.train.batch_size}), exported by simclr_jax as '
      f'`{export["format"]}`.',
      '',
      f'**Input**: {preprocessing_text(network)} Layout {export["layout"]}.',
      '',
      *([f'**Exact for** {exact}.', ''] if exact else []),
      *(
        [f'**Preprocessor**: {export["preprocessor"]}.', '']
        if 'preprocessor' in export
        else []
      ),
      '```python',
      export['how_to_load'],
      '```',
      '',
      'Largest difference of float32 outputs from the checkpoint, on crops of '
      'two photographs (relative: to the largest value):',
      '',
      '| output | absolute | relative |',
      '|---|---|---|',
      rows,
      '',
      f'**Licence**: {export["license"]}',
      '',
    ]
  )
