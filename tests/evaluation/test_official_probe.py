"""The official protocol, written out once more in NumPy."""

import dataclasses

import jax
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax import data
from simclr_jax.data import pipeline
from simclr_jax.evaluation import encoder as encoder_lib
from simclr_jax.evaluation import features as features_lib
from simclr_jax.evaluation import official_probe
from simclr_jax.training import mesh as mesh_lib

CLASSES, LR, DECAY, BATCH, EPOCHS = 8, 0.1, 0.1, 32, 12
CONFIG = config_lib.replace(
  config_lib.Config(),
  data={
    'source': 'procedural',
    'train_split': 'train[:96]',
    'test_split': 'test[:40]',
    'image_size': 8,
  },
  eval={'batch_size': 40},
  probe={
    'mode': 'official',
    'epochs': EPOCHS,
    'batch_size': BATCH,
    'base_lrs': (LR,),
    'weight_decays': (DECAY,),
    'num_bootstrap': 100,
  },
)


@pytest.fixture(scope='module')
def sources():
  return tuple(
    data.make_source(CONFIG.data, split)
    for split in (CONFIG.data.train_split, CONFIG.data.test_split)
  )


@pytest.fixture(scope='module')
def encoder():
  return encoder_lib.make_raw_pixel_encoder(CONFIG, mesh=mesh_lib.make_mesh())


def _replay(train, num_steps):
  """(kernel, bias, losses) by the rule, in float64."""
  start = jax.random.normal(jax.random.key(0), (8 * 8 * 3, CLASSES))
  w = [0.01 * np.asarray(start, np.float64), np.zeros(CLASSES)]
  v = [np.zeros_like(x) for x in w]
  losses = []
  batches = pipeline.train_batches(
    train,
    data=CONFIG.data,
    augment=official_probe.crop_and_flip(CONFIG.augment),
    num_views=1,
    batch_size=BATCH,
    seed=0,
    num_steps=num_steps,
  )
  for step, batch in enumerate(batches):
    x = batch['views'][:, 0].reshape(BATCH, -1).astype(np.float64)
    logits = x @ w[0] + w[1]
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    losses.append(-np.log(p[np.arange(BATCH), batch['label']]).mean())
    error = (p - np.eye(CLASSES)[batch['label']]) / BATCH
    # Not under LARS: the bias decays too.
    grads = [x.T @ error + DECAY * w[0], error.sum(0) + DECAY * w[1]]
    rate = LR * BATCH / 256 * 0.5 * (1 + np.cos(np.pi * step / num_steps))
    # Keras: the rate is inside the momentum.
    v = [0.9 * old - rate * g for old, g in zip(v, grads, strict=True)]
    w = [
      x + 0.9 * new - rate * g for x, new, g in zip(w, v, grads, strict=True)
    ]
  return w[0], w[1], losses


def test_equals_the_protocol_written_out(encoder, sources, monkeypatch):
  train, test = sources
  num_steps = 96 * EPOCHS // BATCH + 1
  kernel, bias, losses = _replay(train, num_steps)
  trained = []
  train_fn = official_probe._train
  monkeypatch.setattr(
    official_probe,
    '_train',
    lambda *a, **k: trained.append(train_fn(*a, **k)) or trained[-1],
  )
  found = official_probe.probe_official(encoder, train, test, CONFIG)
  assert found.num_steps == num_steps
  np.testing.assert_allclose(trained[0].kernel_DxK, kernel, atol=1e-6)
  np.testing.assert_allclose(trained[0].bias_K, bias, atol=1e-6)
  np.testing.assert_allclose(found.train_nll, np.mean(losses[-3:]), rtol=1e-5)
  features = features_lib.extract_features(encoder, test, CONFIG)
  predicted = (features.h @ kernel + bias).argmax(1)
  expected = np.mean(predicted == features.labels)
  np.testing.assert_allclose(found.top1, expected, atol=1e-9)
  assert found.mode == 'official' and found.top5 >= found.top1
  again = official_probe.probe_official(encoder, train, test, CONFIG)
  assert again == found


def test_trains_on_crops_and_flips_alone():
  augment = official_probe.crop_and_flip(CONFIG.augment)
  changed = {
    f.name: getattr(augment, f.name)
    for f in dataclasses.fields(augment)
    if getattr(augment, f.name) != getattr(CONFIG.augment, f.name)
  }
  assert changed == {'jitter_prob': 0.0, 'gray_prob': 0.0, 'blur_prob': 0.0}


def test_refuses_an_encoder_that_moves(encoder, sources):
  moving = dataclasses.replace(
    encoder, kind='random_init', variables={'w': np.ones(2, np.float32)}
  )

  def moving_fn(variables, images):
    moving.variables = {'w': 0.9 * moving.variables['w']}
    return encoder.apply_fn(variables, images)

  moving.apply_fn = moving_fn
  with pytest.raises(ValueError, match='encoder changed'):
    official_probe.probe_official(moving, *sources, CONFIG)


@pytest.mark.parametrize(
  'probe, message',
  [
    ({'base_lrs': (1e30,)}, 'loss did not fall'),
    ({'batch_size': 30}, 'does not divide over 8'),
    ({'labels_per_class': 3}, 'labels_per_class'),
  ],
)
def test_refuses_what_gives_no_honest_number(encoder, sources, probe, message):
  config = config_lib.replace(CONFIG, probe={'epochs': 1, **probe})
  with pytest.raises(ValueError, match=message):
    official_probe.probe_official(encoder, *sources, config)


def test_refuses_unlabelled_and_equal_splits(encoder, sources):
  train, test = sources
  unlabelled = dataclasses.replace(train, num_classes=0)
  with pytest.raises(ValueError, match='no labels'):
    official_probe.probe_official(encoder, unlabelled, test, CONFIG)
  with pytest.raises(ValueError, match='the same examples'):
    official_probe.probe_official(encoder, train, train, CONFIG)


def test_says_what_it_does_not_sweep(encoder, sources):
  config = config_lib.replace(CONFIG, probe={'base_lrs': (LR, 9.0)})
  found = official_probe.probe_official(encoder, *sources, config)
  assert 'probe.base_lrs' in found.warnings[0]
  assert found.base_lr == LR
