"""The schemas of fine-tuning and distillation: differences to a passport.

The network, the data and how pictures are prepared stand in the passport of the
checkpoint that a command starts from; these dataclasses hold what that cannot
know. `derive.py` puts both together. Read and checked like `simclr_jax.config`,
whose sections they share where they mean the same.
"""

from __future__ import annotations

import collections.abc
import dataclasses
from typing import Any, TypeAlias

import ml_collections

from simclr_jax import config as config_lib
from simclr_jax.finetuning import config_checks

Values: TypeAlias = (
  ml_collections.ConfigDict | collections.abc.Mapping[str, Any]
)


@dataclasses.dataclass(frozen=True)
class DataChanges:
  """Fields of `config.DataConfig`; '', 0 and -1 are 'as in the passport'.

  Another `source` than the passport's starts from the defaults of name, path,
  labels and splits.

  Attributes:
    source, name, data_dir, path, labels_from: See `config.DataConfig`.
    image_key, label_key, train_split, test_split: See there.
    loader, augment_on: See there.
    image_size: Side of the pictures in pixels; 0 as in the passport.
    bits: See there; 0 as in the passport.
    num_workers: -1 as in the passport.
  """

  source: str = ''
  name: str = ''
  data_dir: str = ''
  path: str = ''
  labels_from: str = ''
  image_key: str = ''
  label_key: str = ''
  train_split: str = ''
  test_split: str = ''
  loader: str = ''
  augment_on: str = ''
  image_size: int = 0
  bits: int = 0
  num_workers: int = -1


@dataclasses.dataclass(frozen=True)
class LabelsConfig:
  """Which labels of the training split are used: stratified, seeded, nested.

  Attributes:
    fraction: Share of the labels of every class, above 0 and at most 1; no
      class gets less than one.
    per_class: Labels of every class instead; 0 is by `fraction`.
    seed: Of the choice. The same seed gives nested subsets: 1 % lies within
      10 %.
    holdout_fraction: Share of the chosen labels that is not trained on but
      selects the step (and stops early); 0 takes the last step. Never the test
      split.
  """

  fraction: float = 1.0
  per_class: int = 0
  seed: int = 0
  holdout_fraction: float = 0.0


@dataclasses.dataclass(frozen=True)
class AugmentChanges:
  """Crop and flip as in pretraining, without colour or blur, and options.

  Attributes:
    crop_area: Least and largest crop area as a share; (0, 0) as in the
      passport.
    flip_prob: -1 as in the passport.
    randaugment_layers, randaugment_magnitude: See `config.AugmentConfig`.
    mixup_alpha: Of Beta(alpha, alpha), from which the share of the other
      picture is drawn (Zhang et al. 2018); 0 is off.
    cutmix_alpha: The same for the area that the other picture covers (Yun et
      al. 2019); 0 is off. With both, each batch takes either.
    mix_prob: Share of the batches that are mixed.
  """

  crop_area: tuple[float, float] = (0.0, 0.0)
  flip_prob: float = -1.0
  randaugment_layers: int = 0
  randaugment_magnitude: int = 9
  mixup_alpha: float = 0.0
  cutmix_alpha: float = 0.0
  mix_prob: float = 1.0


def _default_optim() -> config_lib.OptimConfig:
  """SimCLR v2's: LARS, 0.005 * sqrt(B), no decay, no warm-up."""
  return config_lib.OptimConfig(
    base_lr=0.005, lr_scaling='sqrt', warmup='0 epochs', weight_decay=0.0
  )


def _default_train() -> config_lib.TrainConfig:
  return config_lib.TrainConfig(
    batch_size=1024,
    duration='60 epochs',
    log_every='50 steps',
    diagnostics_every='0 steps',
  )


@dataclasses.dataclass(frozen=True)
class StageConfig:
  """What fine-tuning and distillation have in common.

  Attributes:
    seed: Of the classifier (or the fresh network), order and augmentation.
    evaluate_every: Duration between judgements on the holdout; each has its
      checkpoint.
    patience: Judgements without a new best one after which training stops; 0
      is never.
    checkpoint_every: Duration between checkpoints where there is no holdout.
    keep_latest: How many of the newest checkpoints are kept (the best one is
      kept besides).
    num_bootstrap: Resamples of the test split for the intervals.
    data, augment: Changes to the passport.
    optim, train: As in pretraining; `train.diagnostics_every` stays '0 steps'.
  """

  seed: int = 0
  evaluate_every: str = '1 epochs'
  patience: int = 0
  checkpoint_every: str = '1 epochs'
  keep_latest: int = 2
  num_bootstrap: int = 1000
  data: DataChanges = dataclasses.field(default_factory=DataChanges)
  augment: AugmentChanges = dataclasses.field(default_factory=AugmentChanges)
  optim: config_lib.OptimConfig = dataclasses.field(
    default_factory=_default_optim
  )
  train: config_lib.TrainConfig = dataclasses.field(
    default_factory=_default_train
  )


@dataclasses.dataclass(frozen=True)
class FinetuneConfig(StageConfig):
  """Training of the whole network, from an encoder or from scratch.

  Attributes:
    head_layer: Output of the projection head that the classifier reads; 0 is h
      (the head is not read), 1 trains its first layer on (SimCLR v2, where
      labels are few).
    classifier_init: 'zeros' (official zero_init_logits_layer) or 'normal' (std
      0.01).
    label_smoothing: Share of the target spread over all classes, in [0, 1).
    labels: Which labels.
  """

  head_layer: int = 0
  classifier_init: str = 'zeros'
  label_smoothing: float = 0.0
  labels: LabelsConfig = dataclasses.field(default_factory=LabelsConfig)


@dataclasses.dataclass(frozen=True)
class StudentConfig:
  """The network that learns from the teacher; 0 and -1: as the teacher's.

  Its projection head is left out: the classifier reads h.

  Attributes:
    depth, width, sk_ratio, se_ratio: See `config.ModelConfig`.
  """

  depth: int = 0
  width: float = 0.0
  sk_ratio: float = -1.0
  se_ratio: float = -1.0


@dataclasses.dataclass(frozen=True)
class DistillConfig(StageConfig):
  """Distillation of a fine-tuned teacher (SimCLR v2, its third step).

  Attributes:
    temperature: Divides the logits of teacher and student.
    labelled_weight: Share of the cross-entropy with true labels in the loss,
      1 - alpha of the paper's equation 3, in [0, 1); 0 uses no label. The
      labels are those that the teacher was fine-tuned on.
    use_holdout: Whether the teacher's holdout selects the step here, too.
    student: Its network.
  """

  temperature: float = 1.0
  labelled_weight: float = 0.0
  use_holdout: bool = False
  student: StudentConfig = dataclasses.field(default_factory=StudentConfig)


def read_finetune(values: Values) -> FinetuneConfig:
  """Checked config from the command line, a file or a passport.

  Raises:
    ValueError: Listing every problem, as `config.from_config_dict`.
  """
  return config_lib.read_values(
    FinetuneConfig, values, config_checks.find_finetune_problems
  )


def read_distill(values: Values) -> DistillConfig:
  """As `read_finetune`, for distillation."""
  return config_lib.read_values(
    DistillConfig, values, config_checks.find_distill_problems
  )
