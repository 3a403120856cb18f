"""How the page of a classifier or of imported weights differs from the usual.

What a checkpoint is stands in passport['objective']. Everything that a section
says of the training, or leaves out because it would make no sense, stands in
one record here; sections hold no such decisions themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import difflib

from simclr_jax.reports import panels
from simclr_jax.reports.run_data import RunData
from simclr_jax.training import ancestry


@dataclasses.dataclass(frozen=True)
class PageKind:
  """What is said, and what is not.

  Attributes:
    title: Of the page; the name of the training split follows.
    pictures: What the pictures of the training split are called.
    split: What stands behind their number.
    left_out: Heading -> why that section is not there.
    training: Curves; none where nothing was trained.
    contrasts: Whether the loss compares pairs of views: alarms and levels.
    no_advice: Why recipe advice is not asked; '' where it is.
    distorted: What `similarities` are of.
    on_outputs: What to expect of h (and z), for `similarities`.
    outputs: Which of 'z', 'h' have a histogram.
    on_z: Why h and z differ, for `layers`.
    views: Heading, number of views, text and alt text of the sheet of views.
    on_probe: Note to the table of probe and kNN; '' for none.
    on_copies: Note to near-duplicates; '' for none.
    on_data: First sentence of the table of data.
    was_trained: Whether the data that the passport states were trained on.
    on_recipe: First sentence of the recipe.
    result: (heading, file in the workdir) of a job's own table; None without.
  """

  title: str
  pictures: str
  split: str
  left_out: Mapping[str, str]
  training: tuple[panels.Panel, ...]
  contrasts: bool
  no_advice: str
  distorted: str
  on_outputs: str
  outputs: tuple[str, ...]
  on_z: str
  views: Views | None
  on_probe: str
  on_copies: str
  on_data: str
  was_trained: bool = True
  on_recipe: str = (
    'Fields that differ from the defaults of simclr_jax, from the passport of '
    'the checkpoint.'
  )
  result: tuple[str, str] | None = None


@dataclasses.dataclass(frozen=True)
class Views:
  """The contact sheet of what training sees.

  Attributes:
    heading, text: Of the section.
    num_views: Of each picture.
    alt: What follows 'N pictures, ' in the alt text.
  """

  heading: str
  text: str
  num_views: int
  alt: str


_PAIRS = 'Pairs of views'
_Z_IS_NOTHING = 'z of a classifier means nothing: no loss worked on it'
_ON_LABELS = (
  'A probe and kNN on h, beside the classifier itself. They are given all '
  'labels of the training split, whatever the network was trained on.'
)
_ON_COPIES = (
  'An encoder that has learnt classes draws pictures of one class together: '
  'more of these than usual are no copies. One that was pretrained without '
  'labels is the better judge.'
)
_FINETUNE = PageKind(
  title='Fine-tuned on',
  pictures='pictures of the training split',
  split=' in the training split',
  left_out={
    'Embeddings during training': 'no pairs of views were trained on',
    'h against z': _Z_IS_NOTHING,
  },
  training=panels.CLASSIFIER,
  contrasts=False,
  no_advice='its rules are of pretraining',
  distorted='distortions (two each, as fine-tuning makes them) of',
  on_outputs=' (during training it uses the batch). No loss asked for this: '
  'what a classifier is trained for is that pictures of the same class are '
  'more alike than others.',
  outputs=('h',),
  on_z='',
  views=Views(
    'What training sees',
    'Pictures of the training split beside a distortion as fine-tuning makes '
    'it, before mixup or CutMix. Only some of the split may have been trained '
    'on.',
    1,
    'each beside a random distortion of it.',
  ),
  on_probe=_ON_LABELS,
  on_copies=_ON_COPIES,
  on_data='Labels were trained on.',
  result=('Classifiers', 'finetune.json'),
)
KINDS: dict[str, PageKind] = {
  'simclr': PageKind(
    title='SimCLR on',
    pictures='training pictures',
    split='',
    left_out={},
    training=panels.CONTRASTIVE,
    contrasts=True,
    no_advice='',
    distorted='the views of',
    on_outputs=' (during training it uses the batch). The loss works on z; h '
    'is what is kept. The less the histograms overlap, the better the encoder '
    'knows a picture again.',
    outputs=('z', 'h'),
    on_z='What z has forgotten is what the loss asked it to; h is what one '
    'keeps. ',
    views=Views(
      _PAIRS,
      'What training pulls together: two random distortions of one picture. '
      'What differs between the views is what the encoder is told to ignore.',
      2,
      'each beside two random distortions of it as training saw them.',
    ),
    on_probe='',
    on_copies='',
    on_data='Labels were used to judge alone.',
  ),
  'finetune': _FINETUNE,
  'distill': dataclasses.replace(
    _FINETUNE,
    title='Distilled on',
    training=panels.STUDENT,
    distorted='distortions (two each, as distillation makes them) of',
    views=Views(
      'What training sees',
      'Pictures of the training split beside a distortion as distillation '
      'makes it: the teacher judges the very view that the student sees.',
      1,
      'each beside a random distortion of it.',
    ),
    on_data='A teacher was asked about these pictures.',
    result=('Teacher and student', 'distill.json'),
  ),
  'scratch': dataclasses.replace(
    _FINETUNE,
    title='Trained from scratch on',
    distorted='distortions (two each, as training makes them) of',
    views=Views(
      'What training sees',
      'Pictures of the training split beside a distortion as training makes '
      'it, before mixup or CutMix. Only some of the split may have been '
      'trained on.',
      1,
      'each beside a random distortion of it.',
    ),
  ),
  'imported': PageKind(
    title='Imported network, judged on',
    pictures='pictures of the training split',
    split=' in the training split',
    left_out={
      'Training': 'nothing was trained here',
      'Embeddings during training': 'nothing was trained here',
      'Speed': 'nothing was trained here',
      _PAIRS: 'how pictures were distorted in its training is not known here',
    },
    training=(),
    contrasts=False,
    no_advice='nothing was trained here',
    distorted='distortions (two each, as the config makes them; those of its '
    'own training are not known here) of',
    on_outputs='. The less the histograms overlap, the better the encoder '
    'knows a picture again.',
    outputs=('z', 'h'),
    on_z='',
    views=None,
    on_probe='',
    on_copies='',
    on_data='What it was trained on is not known here: these judge it.',
    was_trained=False,
    on_recipe='The config that it was imported with: the network, and the data '
    'that judge it. What it says of training was not used.',
  ),
}


def of(run: RunData) -> PageKind:
  """The kind of the run's checkpoint.

  Raises:
    ValueError: If its objective is not known: a page would say what is false.
  """
  objective = ancestry.key(run.passport)
  if objective not in KINDS:
    close = difflib.get_close_matches(objective, KINDS, 1)
    hint = f'; did you mean {close[0]!r}?' if close else ''
    raise ValueError(
      f'{run.loaded.path} is a checkpoint of objective {objective!r}, and a '
      f'report knows {", ".join(KINDS)}{hint}: it would say what is not true'
    )
  return KINDS[objective]
