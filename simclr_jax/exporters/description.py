"""export.json and README.md: what whoever gets the files has to know."""

from __future__ import annotations

from collections.abc import Mapping
import datetime
import pathlib
from typing import Any

from simclr_jax import models
from simclr_jax.exporters.network import Network, Options, Written
from simclr_jax.training import ancestry, checkpoint

# Fields whose text is the folder of somebody's machine.
_FOLDERS = ('data_dir', 'path', 'source', 'from', 'checkpoint')
_MOVED = ('data.path:', 'data.data_dir:')


def license_note(network: Network, options: Options) -> str:
  """Whose terms hold for the weights."""
  data = public(network.passport)['data'].get('name', 'unknown')
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
  return {
    **public(network.passport),
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


def public(passport: Mapping[str, Any]) -> dict[str, Any]:
  """A passport without the folders of the machine that wrote it.

  A checkpoint keeps the name of its workdir ('mine/checkpoints/30'), whatever
  else has a place its last part. Names of data hold that place, too.
  """
  data = passport['config'].get('data', {})
  # The longest first: one may lie in the other.
  places = sorted(
    {str(data.get(field) or '').rstrip('/') for field in ('data_dir', 'path')},
    key=len,
    reverse=True,
  )

  def cleaned(value: Any, field: str = '') -> Any:
    if isinstance(value, Mapping):
      return {
        k: cleaned(v, str(k)) for k, v in value.items() if k != 'xla_flags'
      }
    if isinstance(value, (list, tuple)):
      # Changed fields of a run that went on, 'data.path: old -> new'.
      return [cleaned(v) for v in value if not str(v).startswith(_MOVED)]
    if not isinstance(value, str):
      return value
    for place in places:
      if name := pathlib.PurePath(place).name:
        value = value.replace(place, name)
    if field in ('name', 'whole') and pathlib.PurePath(value).is_absolute():
      return '/'.join(pathlib.PurePath(value).parts[-2:])
    return _last_part(value) if field in _FOLDERS else value

  found: dict[str, Any] = cleaned(passport)
  return found


def _last_part(place: str) -> str:
  parts = pathlib.PurePath(place).parts
  if len(parts) > 2 and parts[-2] == checkpoint.FOLDER:
    return '/'.join(parts[-3:])
  return parts[-1] if parts else ''


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
  if (bits := network.config.data.bits) < 16:
    parts.append(f'of 16-bit pictures min(value >> {bits - 8}, 255) as uint8')
  if crop:
    parts.append(f'the centred square of {crop:g} of the short side')
  how = 'no antialias'
  if stated.get('trained_with_antialias'):
    how = 'with antialias, as in its training'
  parts.append(f'resized to {size} x {size} ({stated["resize"]}, {how})')
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
  model, kind = network.config.model, ancestry.kind_of(network.passport)
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
    f'tags: [{", ".join((*kind.tags, "resnet"))}]',
  ]
  if license:
    head.append(f'license: {license}')
  head.append('---')
  rows = '\n'.join(
    f'| {name} | {found["absolute"]:.2g} | {found["relative"]:.2g} |'
    for name, found in export['differences'].items()
  )
  exact = export.get('exact_for')
  origin = ancestry.tell(public(network.passport)).origin
  if network.num_classes and kind.is_pretraining:
    origin += (
      ' Its logits are those of a linear classifier that was trained with '
      'labels beside it (the online head).'
    )
  return '\n'.join(
    [
      *head,
      '',
      f'# ResNet-{model.depth} ({model.width:g}x), {kind.title}',
      '',
      f'{origin} Exported by simclr_jax as `{export["format"]}`.',
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
