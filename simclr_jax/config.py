"""The schema of a run: frozen dataclasses, the only defaults there are.

A config file in `configs/` builds a `Config` from differences to these
defaults and hands it to the command line as an `ml_collections.ConfigDict`
(`to_config_dict`), where `--config.optim.base_lr=0.3` overrides it. The command
turns it back with `from_config_dict`, which reports every unknown field, wrong
type and impossible combination in one `ValueError`.

Fields hold primary values only (what a person decides). What follows from them
(steps, peak learning rate, per-device batch) is derived after the overrides in
`simclr_jax.resolve`. This file imports neither JAX nor TensorFlow.
"""

from __future__ import annotations

import collections.abc
from collections.abc import Callable
import dataclasses
import difflib
import typing
from typing import Any, TypeVar

import ml_collections

from simclr_jax import config_checks, paths

C = TypeVar('C')
# Fields of a section `data` that take a path, see `paths.absolute`.
_PATH_FIELDS = ('path', 'data_dir')


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Where images come from.

  Attributes:
    source: 'tfds', 'folder' (of pictures), 'parquet' (Hugging Face's files, or
      those of `simclr_jax.prepare`), 'arrays' (.npz or .npy of uint8),
      'digits' (scikit-learn's, no download) or 'procedural' (generated, with
      known invariances; for tests).
    name: TFDS data set, e.g. 'imagenet2012' or 'imagenet2012_subset/1pct'.
    data_dir: TFDS data directory; '' is TFDS's own default.
    path: Folder of images for source 'folder', of Parquet files (or a single
      one) for 'parquet', an .npz file or a folder of arrays for 'arrays'.
    labels_from: For source 'folder': 'none', or 'folders' to use the first
      folder level below `path` (below `path`/split for evaluation) as class.
    image_key: TFDS feature or Parquet column that holds the image; the default
      also finds the column 'img'.
    label_key: TFDS feature or Parquet column that holds the integer label; ''
      for none. A Parquet file may lack the default where nothing else looks
      like a label: it has none then.
    train_split: Split to pretrain on, in TFDS syntax ('train', 'train[:10%]').
      For a folder: a sub-folder of `path`, or '' for all of it; '[:80%]' or
      'train[:80%]' is a part, fixed by a hash of each picture's path. For
      Parquet and arrays as the files are named; a part counts rows.
    test_split: Held-out split for probe and kNN, same syntax; '' for none.
    image_size: Side of the square views and evaluation images, in pixels.
    loader: Who reads, decodes and augments on the host: 'tf' (tf.data) or
      'opencv' (faster, and needs no TensorFlow). Both give the same examples in
      the same order with the same views.
    augment_on: Where views are made: 'host', 'hybrid' (the host decodes, crops
      and resizes to uint8, the devices flip, change colours and blur) or
      'device' (all of it, from pixels kept on the devices).
    device_cache: For augment_on 'device', how the pixels lie: 'replicated',
      'sharded' over the devices, or 'auto' (replicated where that fits).
    canvas_size: For augment_on 'device', side in pixels of the square that
      holds each image; larger images are shrunk to fit, keeping their aspect.
      0 asks for images of one size and keeps it.
    bits: Bits in use of images that are stored with 16, 8 to 16: 12 for most
      microscopes and X-rays. The upper 8 of them are kept.
    max_bad_fraction: Share of damaged pictures (0..1) from which on a folder
      or Parquet split is refused; below it they are counted, listed and
      skipped.
    num_workers: Parallel calls that read, decode and augment; 0 is one
      for each core. For loader 'opencv' worker processes; 0 works in threads of
      this process, which suits few or large pictures: at 32 px Python lets them
      do little more than take turns.
    prefetch_batches: Batches kept ready on the host.
  """

  source: str = 'tfds'
  name: str = ''
  data_dir: str = ''
  path: str = ''
  labels_from: str = 'none'
  image_key: str = 'image'
  label_key: str = 'label'
  train_split: str = 'train'
  test_split: str = 'test'
  image_size: int = 224
  loader: str = 'tf'
  augment_on: str = 'host'
  device_cache: str = 'auto'
  canvas_size: int = 0
  bits: int = 16
  max_bad_fraction: float = 0.01
  num_workers: int = 0
  prefetch_batches: int = 2


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
  """How one image becomes views; defaults are the official ImageNet values.

  The order is crop, flip, jitter, grey, clip, blur, solarize, clip (official
  data_util.py:preprocess_for_train; solarize as in BYOL, which puts it last).

  Attributes:
    crop_sampler: 'official' (tf.image.sample_distorted_bounding_box with
      min_object_covered 0.1: height and aspect uniform, 100 tries, else the
      whole image) or 'torchvision' (RandomResizedCrop: area uniform, aspect
      log-uniform, 10 tries, else a centre crop of allowed aspect) or 'none'
      (resize the whole image).
    crop_area: Least and largest crop area as a share of the image.
    crop_aspect: Least and largest aspect ratio (width / height).
    resize: 'bicubic' or 'bilinear', without antialias as in the official code.
    flip_prob: Probability of a horizontal flip.
    jitter_prob: Probability that the colour jitter is applied at all.
    jitter_strength: Factor s on the four strengths below.
    brightness, contrast, saturation, hue: Strengths at s = 1; hue in turns.
    jitter_order: 'random' (uniform over the 24 orders) or 'fixed'
      (brightness, contrast, saturation, hue).
    brightness_mode: 'multiplicative' (SimCLR v2, torchvision) or 'additive'
      (SimCLR v1's code).
    color_ops: 'official' (contrast about the per-channel mean, saturation and
      hue in HSV), 'torchvision' (contrast about the mean grey value, saturation
      blends with grey, hue in HSV) or 'affine', an approximation of the
      official ones without HSV, for slow devices (contrast about the
      per-channel mean, saturation blends with grey, hue turns in the YIQ
      plane); its views look alike but are not those of any published result.
    gray_prob: Probability of dropping the colour.
    blur_prob: Probability of a Gaussian blur.
    blur_sigma: Least and largest sigma in pixels.
    blur_sigma_per: 'image' (the paper) or 'batch' (the official code: one
      sigma for each step and view).
    solarize_prob: Probability of inverting pixels above `solarize_threshold`.
    solarize_threshold: In [0, 1].
    randaugment_layers: Operations of RandAugment (data/randaugment.py) after
      all of the above, on pixels rounded to bytes; 0 is none. On the host only.
    randaugment_magnitude: Their strength, 0 to 30.
  """

  crop_sampler: str = 'official'
  crop_area: tuple[float, float] = (0.08, 1.0)
  crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
  resize: str = 'bicubic'
  flip_prob: float = 0.5
  jitter_prob: float = 0.8
  jitter_strength: float = 1.0
  brightness: float = 0.8
  contrast: float = 0.8
  saturation: float = 0.8
  hue: float = 0.2
  jitter_order: str = 'random'
  brightness_mode: str = 'multiplicative'
  color_ops: str = 'official'
  gray_prob: float = 0.2
  blur_prob: float = 0.5
  blur_sigma: tuple[float, float] = (0.1, 2.0)
  blur_sigma_per: str = 'image'
  solarize_prob: float = 0.0
  solarize_threshold: float = 0.5
  randaugment_layers: int = 0
  randaugment_magnitude: int = 9


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Backbone and projection head.

  Attributes:
    depth: ResNet depth: 18, 34, 50, 101, 152 or 200.
    width: Width multiplier (2.0 is 'ResNet (2x)'; fractions make it thin).
    sk_ratio: Selective-kernel ratio; 0 is off, 0.0625 as in SimCLR v2.
    se_ratio: Squeeze-and-excitation ratio; 0 is off.
    stem: 'auto' (CIFAR stem iff image_size <= 32), 'cifar' or 'imagenet'. What
      'auto' has decided stands in the passport and stays with the weights.
    padding: 'official' (max-pool SAME) or 'torch' (max-pool padded by one on
      both sides, so that torchvision can represent the network exactly).
    shortcut: 'group' (official: the first block of every group projects) or
      'shape' (torchvision: only where the shape changes).
    zero_init_residual: Start the last gamma of each residual block at 0.
    bn_decay: Decay of the moving statistics.
    bn_epsilon: Added to the variance.
    head: 'nonlinear', 'linear' or 'none' (z is h).
    head_layers: Layers of the nonlinear head, 0 to 4; 0 is the same as 'none'.
    head_hidden: Hidden width; 0 means the width of h.
    head_dim: Width of z.
    head_norm: 'batch' (bias-free layers with batch norm; official) or 'none'
      (layers with bias).
    classifier_layer: Output of the projection head that the classifier (in
      pretraining the online head) reads; 0 is h. SimCLR v2 fine-tunes from 1
      where labels are few (official ft_proj_selector).
    compute_dtype: 'float32' or 'bfloat16' for activations; parameters,
      statistics and loss stay float32.
    batch_norm: 'folded' (in training, a batch norm behind a 1x1 convolution
      that does not narrow, or before a max-pool, is computed without its
      full-size input: the same values up to rounding, a quarter less memory
      traffic) or 'plain' (a layer of its own everywhere).
    remat: What the backward pass computes again instead of keeping: 'none'
      (nothing), 'norms' (all but convolutions and block outputs) or 'blocks'
      (all but block outputs: least memory, a third more arithmetic).
  """

  depth: int = 50
  width: float = 1.0
  sk_ratio: float = 0.0
  se_ratio: float = 0.0
  stem: str = 'auto'
  padding: str = 'official'
  shortcut: str = 'group'
  zero_init_residual: bool = True
  bn_decay: float = 0.9
  bn_epsilon: float = 1e-5
  head: str = 'nonlinear'
  head_layers: int = 3
  head_hidden: int = 0
  head_dim: int = 128
  head_norm: str = 'batch'
  classifier_layer: int = 0
  compute_dtype: str = 'float32'
  batch_norm: str = 'folded'
  remat: str = 'none'


@dataclasses.dataclass(frozen=True)
class LossConfig:
  """NT-Xent.

  Attributes:
    temperature: Divides the similarities; > 0.
    scale: 'official' (mean over B of loss_a + loss_b, exactly twice the
      paper's) or 'paper' (mean over 2B).
    normalize: l2-normalise z first (official hidden_norm).
    implementation: 'plain' (all logits at once), 'chunked' (never holds them),
      'ring' (never gathers the keys either) or 'auto' (by the memory that each
      would need; see `simclr_jax.loss_choice`). The same loss and gradient.
    chunk_size: Keys (rows of z) compared at a time on each device by 'chunked'
      and 'ring'; 0 chooses.
  """

  temperature: float = 0.1
  scale: str = 'official'
  normalize: bool = True
  implementation: str = 'auto'
  chunk_size: int = 0


@dataclasses.dataclass(frozen=True)
class OptimConfig:
  """Optimizer and learning-rate schedule.

  Attributes:
    name: 'lars', 'sgd', 'adam' (decay added to the gradient) or 'adamw'. With
      the other defaults 'sgd' and 'adam' are not the official code's 'momentum'
      and 'adam': those decay biases too (decay_exclude=('batch_norm',)), and
      its momentum is Nesterov's (nesterov=True).
    base_lr: Before scaling.
    lr_scaling: 'linear' (x batch/256), 'sqrt' (x sqrt(batch)) or 'none'.
    schedule: 'cosine' (to 0), 'constant' or 'step'.
    warmup: Linear warm-up from 0, a duration ('10 epochs') or a share of the
      run ('10 %').
    step_milestones: For 'step': fractions of the run (0..1) at which the rate
      is multiplied by `step_gamma`.
    step_gamma: See `step_milestones`.
    weight_decay: Coefficient.
    decay_exclude: Parameter roles without weight decay, out of 'batch_norm',
      'bias', 'online_head'.
    adapt_exclude: Parameter roles without the LARS trust ratio.
    momentum: For lars and sgd.
    nesterov: For lars and sgd.
    trust_coefficient: LARS eta.
    adam_b1, adam_b2, adam_eps: For adam and adamw (Keras' epsilon).
    clip_grad_norm: Clip the global gradient norm; 0 is off.
  """

  name: str = 'lars'
  base_lr: float = 0.3
  lr_scaling: str = 'linear'
  schedule: str = 'cosine'
  warmup: str = '10 epochs'
  step_milestones: tuple[float, ...] = (0.6, 0.8)
  step_gamma: float = 0.1
  weight_decay: float = 1e-6
  decay_exclude: tuple[str, ...] = ('batch_norm', 'bias')
  adapt_exclude: tuple[str, ...] = ('batch_norm', 'bias', 'online_head')
  momentum: float = 0.9
  nesterov: bool = False
  trust_coefficient: float = 0.001
  adam_b1: float = 0.9
  adam_b2: float = 0.999
  adam_eps: float = 1e-7
  clip_grad_norm: float = 0.0


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """The pretraining loop.

  Attributes:
    batch_size: Global batch, in images (not views).
    duration: '100 epochs', '5000 steps' or '1e6 examples'. Epochs follow the
      official rule num_examples * epochs // batch_size + 1.
    log_every: Duration between metric lines.
    diagnostics_every: Duration between the costlier metrics (effective rank,
      uniformity, hardest negatives); '0 steps' is never.
    profile_start: Step at which a profiler trace starts; -1 is never.
    profile_steps: Length of the traced window.
    matmul_precision: 'default' (the fastest of the device) or 'highest'.
    micro_batches: Parts in which a batch goes through the network one after
      the other, where its activations do not fit at once. Batch norm sees one
      part at a time.
    accumulation: For micro_batches above 1, 'exact' (loss and gradient of the
      whole batch; the network runs forward twice) or 'plain' (the mean of the
      parts' losses; refused where the loss compares the examples of a batch).
    state_sharding: 'replicated' (every device holds all parameters and the
      optimizer's state) or 'fsdp' (each holds a piece; gathered in every step).
    on_non_finite: What a step does whose loss, gradient or new state is not
      finite: 'stop' ends the run, 'skip' undoes it and goes on with the next
      batch.
    max_skipped_steps: Steps in a row that may be skipped; one more ends the
      run.
  """

  batch_size: int = 4096
  duration: str = '100 epochs'
  log_every: str = '50 steps'
  diagnostics_every: str = '500 steps'
  profile_start: int = -1
  profile_steps: int = 5
  matmul_precision: str = 'default'
  micro_batches: int = 1
  accumulation: str = 'exact'
  state_sharding: str = 'replicated'
  on_non_finite: str = 'stop'
  max_skipped_steps: int = 10


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  """What is saved and kept.

  Attributes:
    every: Duration between checkpoints; the last step is always saved.
    keep_latest: How many of the newest are kept.
    keep_best: How many of the best by `best_metric` are kept besides; 0 is
      none.
    best_metric: 'knn_top1', 'online_top1' or 'loss'; 'holdout_top1' is that of
      fine-tuning, which sets it itself.
    asynchronous: Write in the background.
    max_failed_saves: Saves in a row that may fail (a full disk) while training
      goes on; one more ends the run.
  """

  every: str = '1 epochs'
  keep_latest: int = 2
  keep_best: int = 0
  best_metric: str = 'knn_top1'
  asynchronous: bool = True
  max_failed_saves: int = 3


@dataclasses.dataclass(frozen=True)
class MonitorConfig:
  """What judges the encoder while it trains; needs labels.

  Attributes:
    online_head: Train a linear classifier on stop_gradient(h) beside the
      encoder (official head_supervised); ignored where there are no labels.
    online_lr: Its learning rate: 'recipe' (the optimizer and schedule of the
      encoder, as in the official code, which can diverge in a short run), or a
      number, e.g. '0.1', for SGD at a constant rate.
    knn_every: Duration between kNN evaluations on the test split; '0 steps' is
      never.
    knn_max_bank: Most training examples in the kNN bank.
  """

  online_head: bool = True
  online_lr: str = 'recipe'
  knn_every: str = '0 steps'
  knn_max_bank: int = 50_000


@dataclasses.dataclass(frozen=True)
class EvalConfig:
  """Preprocessing and batch of every evaluation.

  Attributes:
    batch_size: Global batch for feature extraction.
    crop_fraction: Centre crop as a share of the short side, for images larger
      than 32 px (official 0.875); images of image_size <= 32 are not cropped.
    resize: 'bicubic' or 'bilinear', without antialias.
  """

  batch_size: int = 512
  crop_fraction: float = 0.875
  resize: str = 'bicubic'


@dataclasses.dataclass(frozen=True)
class ProbeConfig:
  """Linear probe.

  Attributes:
    mode: 'features' (features computed once, sweep in one vectorised training)
      or 'official' (SGD nesterov on augmented crops).
    batch_size: Probe batch.
    epochs: Passes over the probe's training set.
    base_lrs: Swept learning rates before linear scaling (x batch/256); the
      official mode takes the first.
    weight_decays: Swept; the official mode takes the first.
    num_seeds: Orders of the examples (in the official mode initialisations
      too) per setting.
    holdout_fraction: Share of the training split that selects the setting.
    labels_per_class: Train on this many labels per class; 0 is all.
    standardize: Scale features to zero mean and unit variance (of the
      training part) first.
    num_bootstrap: Resamples of the test split for the interval.
  """

  mode: str = 'features'
  batch_size: int = 512
  epochs: int = 100
  base_lrs: tuple[float, ...] = (0.1, 0.01, 0.03, 0.3, 1.0)
  weight_decays: tuple[float, ...] = (0.0, 1e-6, 1e-4)
  num_seeds: int = 1
  holdout_fraction: float = 0.1
  labels_per_class: int = 0
  standardize: bool = False
  num_bootstrap: int = 1000


@dataclasses.dataclass(frozen=True)
class KnnConfig:
  """kNN on cosine similarity.

  Attributes:
    ks: Neighbourhood sizes to report; the first is the headline.
    temperatures: Of the weighted vote exp(similarity / temperature); the first
      is the headline.
    chunk_size: Bank rows compared at a time on each device.
    layer: 'h' or 'z'.
    num_bootstrap: Resamples of the test split for the interval.
  """

  ks: tuple[int, ...] = (20, 1, 5, 10, 200)
  temperatures: tuple[float, ...] = (0.07, 0.1, 0.5)
  chunk_size: int = 16_384
  layer: str = 'h'
  num_bootstrap: int = 1000


@dataclasses.dataclass(frozen=True)
class Config:
  """One run.

  Attributes:
    seed: Of initialisation, order and augmentation.
    objective: Key of `simclr_jax.objectives.OBJECTIVES`.
  """

  seed: int = 0
  objective: str = 'simclr'
  data: DataConfig = dataclasses.field(default_factory=DataConfig)
  augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
  model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
  loss: LossConfig = dataclasses.field(default_factory=LossConfig)
  optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
  train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
  checkpoint: CheckpointConfig = dataclasses.field(
    default_factory=CheckpointConfig
  )
  monitor: MonitorConfig = dataclasses.field(default_factory=MonitorConfig)
  eval: EvalConfig = dataclasses.field(default_factory=EvalConfig)
  probe: ProbeConfig = dataclasses.field(default_factory=ProbeConfig)
  knn: KnnConfig = dataclasses.field(default_factory=KnnConfig)


def to_dict(config: Any) -> dict[str, Any]:
  """Nested dict of a config dataclass; tuples stay tuples."""
  return {
    f.name: (
      to_dict(value)
      if dataclasses.is_dataclass(value := getattr(config, f.name))
      else value
    )
    for f in dataclasses.fields(config)
  }


def to_config_dict(config: Any) -> ml_collections.ConfigDict:
  """What a config file returns to the command line."""
  return ml_collections.ConfigDict(to_dict(config))


def from_config_dict(
  values: ml_collections.ConfigDict | collections.abc.Mapping[str, Any],
) -> Config:
  """Checked `Config` from the command line, a file or a passport.

  Args:
    values: Nested mapping; missing fields take their defaults, lists become
      tuples (JSON has no tuples), integers become floats where one is wanted.

  Raises:
    ValueError: Listing every unknown field, wrong type and problem found by
      `validate`.
  """
  return read_values(Config, values, config_checks.find_problems)


def read_values(
  cls: type[C],
  values: ml_collections.ConfigDict | collections.abc.Mapping[str, Any],
  find_problems: Callable[..., list[str]],
) -> C:
  """`from_config_dict` for any schema, e.g. that of fine-tuning.

  Args:
    cls: Dataclass of the schema.
    values: As for `from_config_dict`.
    find_problems: (config, unreadable=) -> sentences, as
      `config_checks.find_problems`.
  """
  if isinstance(values, ml_collections.ConfigDict):
    values = values.to_dict()
  problems: list[str] = []
  unreadable: list[str] = []
  config: C = _build(cls, values, '', problems, unreadable)
  problems += find_problems(config, unreadable=unreadable)
  if problems:
    raise ValueError(_list_problems(problems))
  return config


def find_preset(
  presets: collections.abc.Mapping[str, Any], name: str
) -> ml_collections.ConfigDict:
  """What a config file returns for `--config=file.py:name`.

  Raises:
    ValueError: If there is no such preset; it lists those there are.
  """
  if name not in presets:
    close = difflib.get_close_matches(name, presets, n=1)
    hint = f' (did you mean {close[0]!r}?)' if close else ''
    raise ValueError(
      f'{name!r} is not a preset of this config file{hint}; '
      f'known: {", ".join(presets)}'
    )
  return to_config_dict(presets[name])


def replace(config: Config, **sections: dict[str, Any]) -> Config:
  """Copy of `config` with fields of sections changed, checked.

  Example: `replace(config, data={'path': '/pictures'}, train={...})`.
  """
  values = to_dict(config)
  for section, fields in sections.items():
    if isinstance(values.get(section), dict):
      values[section] = {**values[section], **fields}
    else:
      values[section] = fields
  return from_config_dict(values)


def validate(config: Config) -> None:
  """Raises one ValueError that lists every impossible value or combination."""
  if problems := config_checks.find_problems(config):
    raise ValueError(_list_problems(problems))


def _list_problems(problems: list[str]) -> str:
  count = f'{len(problems)} problem{"s" if len(problems) > 1 else ""}'
  return f'{count} in the config:\n' + '\n'.join(f'  - {p}' for p in problems)


def _build(
  cls: type,
  values: Any,
  where: str,
  problems: list[str],
  unreadable: list[str],
  default: Any = None,
) -> Any:
  """Dataclass from a mapping; a wrong entry is reported and its default used.

  Args:
    cls: The dataclass.
    values: What should be a mapping of its fields.
    where: Path of `values` below the config, with a dot at its end.
    problems: Receives a sentence for each wrong entry.
    unreadable: Receives the path of each entry whose default stands in.
    default: Gives what `values` lacks; None is `cls()`.
  """
  default = cls() if default is None else default
  if not isinstance(values, collections.abc.Mapping):
    place = f'config.{where}'.rstrip('.')
    found = config_checks.show(values)
    problems.append(f'{place} must be a section of fields, got {found}')
    unreadable.append(where)
    return default
  hints = typing.get_type_hints(cls)
  known = {}
  for name, value in values.items():
    path = f'{where}{name}'
    if name not in hints:
      path = f'{where}{str(name)[:99]}'
      close = difflib.get_close_matches(str(name)[:99], hints, n=1)
      hint = f'did you mean {close[0]!r}?' if close else 'no name is close;'
      problems.append(
        f'config.{path} is not a field; {hint} known: {", ".join(hints)}'
      )
    elif dataclasses.is_dataclass(hints[name]):
      known[name] = _build(
        typing.cast(type, hints[name]),
        value,
        f'{path}.',
        problems,
        unreadable,
        default=getattr(default, name),
      )
    else:
      try:
        known[name] = _coerce(hints[name], value)
        if name in _PATH_FIELDS:
          # The passport is read from other folders too.
          known[name] = paths.absolute(known[name])
      except ValueError as error:
        problems.append(f'config.{path}: {error}')
        unreadable.append(path)
      except TypeError:
        problems.append(
          f'config.{path} must be {_type_name(hints[name])}, got '
          f'{config_checks.show(value)}'
        )
        unreadable.append(path)
  return dataclasses.replace(default, **known)


def _type_name(hint: Any) -> str:
  return str(hint) if typing.get_origin(hint) else hint.__name__


def _coerce(hint: Any, value: Any) -> Any:
  """`value` as `hint`; TypeError if that would change what was meant."""
  if typing.get_origin(hint) is tuple:
    if not isinstance(value, (tuple, list)):
      raise TypeError
    inner = typing.get_args(hint)
    if len(inner) == 2 and inner[1] is Ellipsis:
      return tuple(_coerce(inner[0], v) for v in value)
    if len(inner) != len(value):
      raise TypeError
    return tuple(_coerce(t, v) for t, v in zip(inner, value, strict=True))
  # bool is an int in Python: `width=True` must not pass as 1.0.
  if isinstance(value, bool) and hint is not bool:
    raise TypeError
  if isinstance(value, int) and abs(value) >= 2**63:
    raise TypeError
  if hint is float and isinstance(value, int):
    return float(value)
  if not isinstance(value, hint):
    raise TypeError
  return value
