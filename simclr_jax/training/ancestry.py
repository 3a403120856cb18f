"""Where the weights of a checkpoint come from, in words, by its passport.

Reports, model cards and recipe checks all ask here, so that none of them calls
a classifier self-supervised. A passport of fine-tuning or distillation keeps
the config of the pretraining beside its own sections: what a checkpoint is
stands in passport['objective'] alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import pathlib
from typing import Any, NamedTuple

from simclr_jax.data.names import printable

Passport = Mapping[str, Any]
_SCRATCH = 'scratch'


class Told(NamedTuple):
  """What only the passport of a checkpoint knows.

  Attributes:
    origin: Complete sentences on how the weights came about, with the names of
      files but not of their folders.
    saw: Whether the classes were seen in training; a sentence.
    facts: (name, value), the most important one first; may name folders.
  """

  origin: str
  saw: str
  facts: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Kind:
  """A way in which checkpoints come about.

  Attributes:
    adjective: Of the encoder, 'fine-tuned'.
    how: As what another checkpoint was made from, 'pretrained with SimCLR'.
    title: Of a page or a model card.
    tags: Of a model card.
    tell: The rest, from a passport.
    is_pretraining: Whether it is a run of one of `objectives.OBJECTIVES`.
  """

  adjective: str
  how: str
  title: str
  tags: tuple[str, ...]
  tell: Callable[[Passport], Told]
  is_pretraining: bool = False


def key(passport: Passport) -> str:
  """Name of the kind: of `KINDS`, or an objective that is not known."""
  objective = str(passport.get('objective'))
  start = passport.get(objective, {}).get('start', {})
  # The comparison that fine-tuning makes from scratch has its objective, too.
  return _SCRATCH if start.get('kind') == _SCRATCH else objective


def kind_of(passport: Passport) -> Kind:
  """What a checkpoint is; in neutral words where its objective is not known."""
  return _kind(key(passport))


def tell(passport: Passport) -> Told:
  """How it came about."""
  return kind_of(passport).tell(passport)


def _kind(objective: object) -> Kind:
  known = KINDS.get(str(objective))
  if known is not None:
    return known
  name = printable(str(objective))
  return Kind(
    adjective='trained',
    how=f'of objective {name!r}',
    title=f'objective {name!r}',
    tags=(),
    tell=_unknown,
  )


def _pretraining(passport: Passport) -> Told:
  data, batch = passport['data'], _batch(passport)
  origin = (
    f'Step {_steps(passport)} of SimCLR pretraining on {_name(data)} '
    f'({data.get("num_examples", 0):,} pictures, without their labels), batch '
    f'{batch}.'
  )
  if lineage := passport.get('lineage'):
    origin += (
      f' The run goes on from step {lineage[-1].get("step")} of another one.'
    )
  return Told(
    origin,
    'Pretraining saw no class.',
    (
      (
        'Pretrained',
        f'{passport["step"]:,} steps of {batch} images, without labels',
      ),
    ),
  )


def _finetuning(passport: Passport) -> Told:
  section = passport.get('finetune', {})
  start, labelled = section.get('start', {}), section.get('labelled', {})
  labels = _labels(labelled)
  whole = printable(str(labelled.get('whole', passport['data'].get('name'))))
  if start.get('kind') == _SCRATCH:
    begun = 'It began with a fresh initialisation: nothing was pretrained.'
    begins = 'fresh initialisation: nothing was pretrained'
  else:
    begun = f'It began with an encoder {_parent(start)}.'
    begins = f'encoder {_parent(start)}: {start.get("path", "?")}'
  trained = f'{passport["step"]:,} steps of {_batch(passport)} images'
  return Told(
    f'A classifier, trained on {labels} of {whole}: step {_steps(passport)}, '
    f'batch {_batch(passport)}. {begun}',
    f'The classes were trained on: {labels}.',
    (
      ('Trained', f'{trained}, with their labels'),
      ('Labels', f'{labels}; of {whole}'),
      ('Begins with', begins),
    ),
  )


def _distillation(passport: Passport) -> Told:
  section, data = passport.get('distill', {}), passport['data']
  teacher, config = section.get('teacher', {}), section.get('config', {})
  labels = _labels(section.get('labelled', {}))
  weight = float(config.get('labelled_weight', 0))
  temperature = f'temperature {float(config.get("temperature", 1)):g}'
  read = 'no true label is in the loss'
  if weight:
    read = f'true labels have a share of {weight:g} in the loss'
  if config.get('use_holdout'):
    read += ", the teacher's holdout chooses the step"
  trained = f'{passport["step"]:,} steps of {_batch(passport)} images'
  return Told(
    f'A student, trained on the predictions of a classifier {_parent(teacher)} '
    f'at {temperature}, on {_name(data)} ({data.get("num_examples", 0):,} '
    f'pictures): step {_steps(passport)}, batch {_batch(passport)}. It began '
    f'with a fresh initialisation; {read}. The labels behind its teacher: '
    f'{labels}.',
    f'The student learnt the classes from its teacher; {read}.',
    (
      ('Distilled', f"{trained}, by a teacher's predictions at {temperature}"),
      (
        'Teacher',
        f'classifier {_parent(teacher)}: {teacher.get("path", "?")}',
      ),
      ('Labels', f'{read}; behind the teacher are {labels}'),
    ),
  )


def _import(passport: Passport) -> Told:
  section = passport.get('imported', {})
  source = str(section.get('source', '?'))
  file = printable(pathlib.PurePath(source).name)
  form = f'format {section.get("format", "?")}'
  arrays = _arrays(section, passport)
  inner = section.get('description') or {}
  saw = 'Whether its training saw classes is not known here.'
  if {'objective', 'config', 'data', 'step'} <= inner.keys():
    # An export of ours says how it came about.
    trained, saw = f'Before the export: {tell(inner).origin}', tell(inner).saw
  elif passport['step']:
    trained = f'By the file it is of step {passport["step"]:,}.'
  else:
    trained = 'The file does not say how long it was trained.'
  origin = (
    f'Imported from {file} ({form}), not trained here. {arrays}. {trained}'
  )
  notes = [printable(str(note)) for note in section.get('notes', ())]
  return Told(
    origin,
    saw,
    (
      ('Imported from', f'{printable(source)} ({form}); not trained here'),
      ('Trained', trained.removeprefix('Before the export: ')),
      ('Arrays', arrays),
      ('Input', _normalization(passport)),
      *((('Notes', '; '.join(notes)),) if notes else ()),
    ),
  )


def _unknown(passport: Passport) -> Told:
  name = printable(str(passport.get('objective')))
  return Told(
    f'Step {passport["step"]:,} of a run with the objective {name!r}, which '
    'this version of simclr_jax cannot describe.',
    'Whether its training saw classes is not known here.',
    (('Objective', f'{name!r}, which this version cannot describe'),),
  )


def _parent(link: Mapping[str, Any]) -> str:
  """'pretrained with SimCLR (step 3, fingerprint 0a1b2c3d4e5f)'."""
  return (
    f'{_kind(link.get("objective")).how} (step {link.get("step", "?")}, '
    f'fingerprint {str(link.get("fingerprint", "?"))[:12]})'
  )


def _labels(labelled: Mapping[str, Any]) -> str:
  if 'num_fit' not in labelled:
    return 'an unknown number of labels'
  text = f'{labelled["num_fit"]:,} labels'
  if number := labelled.get('num_classes'):
    text += f' of {number:,} class{"" if number == 1 else "es"}'
  if held := labelled.get('num_holdout'):
    text += f' ({held:,} more held out to choose the step)'
  return text


def _arrays(section: Mapping[str, Any], passport: Passport) -> str:
  loaded = section.get('arrays', {}).get('loaded')
  parts = ['Arrays loaded' if loaded is None else f'{loaded:,} arrays loaded']
  parts += [
    f'{count:,} left out ({printable(str(why))})'
    for why, count in section.get('left_out', {}).items()
  ]
  if passport['config'].get('model', {}).get('head') == 'none':
    parts.append('no projection head: z is h')
  return ', '.join(parts)


def _normalization(passport: Passport) -> str:
  stated = passport.get('preprocessing', {})
  if stated.get('mean') is None:
    text = 'values in [0, 1], no mean and no std'
  else:
    text = f'mean {stated["mean"]}, std {stated.get("std")}'
  if stated.get('trained_with_antialias'):
    text += ', trained on images shrunk with antialias'
  return text + (f', pad {stated["pad"]}' if stated.get('pad') else '')


def _steps(passport: Passport) -> str:
  total = (passport.get('derived') or {}).get('total_steps')
  return f'{passport["step"]:,}' + (f' of {total:,}' if total else '')


def _batch(passport: Passport) -> str:
  return str(passport['config'].get('train', {}).get('batch_size', '?'))


def _name(data: Mapping[str, Any]) -> str:
  return printable(str(data.get('name', '?')))


KINDS: dict[str, Kind] = {
  'simclr': Kind(
    adjective='pretrained',
    how='pretrained with SimCLR',
    title='SimCLR',
    tags=('simclr', 'self-supervised'),
    tell=_pretraining,
    is_pretraining=True,
  ),
  'finetune': Kind(
    adjective='fine-tuned',
    # Of another checkpoint it is not known what that began with.
    how='trained on labels',
    title='Fine-tuned classifier',
    tags=('fine-tuned',),
    tell=_finetuning,
  ),
  _SCRATCH: Kind(
    adjective='trained from scratch',
    how='trained on labels',
    title='Classifier trained from scratch',
    tags=(),
    tell=_finetuning,
  ),
  'distill': Kind(
    adjective='distilled',
    how='distilled',
    title='Distilled classifier',
    tags=('knowledge-distillation',),
    tell=_distillation,
  ),
  'imported': Kind(
    adjective='imported',
    how='imported from a file of another program',
    title='Imported network',
    tags=('imported',),
    tell=_import,
  ),
}
