"""How devices and rows lie on the mesh."""

import dataclasses

import jax
import numpy as np
import pytest

from simclr_jax.training import mesh as mesh_lib


@dataclasses.dataclass(frozen=True)
class FakeDevice:
  """What `make_mesh` looks at; a TPU torus lists processes alternately."""

  process_index: int
  id: int


def test_each_process_has_consecutive_places(monkeypatch):
  monkeypatch.setattr(
    mesh_lib, 'Mesh', lambda devices, names, axis_types: devices
  )
  torus = [FakeDevice(p, i) for i, p in enumerate([0, 0, 2, 2, 1, 1, 3, 3, 0])]
  placed = mesh_lib.make_mesh(torus)
  assert [(d.process_index, d.id) for d in placed] == sorted(
    (d.process_index, d.id) for d in torus
  )


@pytest.mark.parametrize('order', [range(8), [5, 2, 7, 0, 1, 6, 3, 4]])
def test_rows_keep_their_order(order):
  devices = [jax.devices()[i] for i in order]
  mesh = mesh_lib.make_mesh(devices)
  rows = np.arange(16, dtype=np.float32)[:, None]
  batch = mesh_lib.put_batch({'views': rows}, mesh)
  np.testing.assert_array_equal(jax.device_get(batch['views']), rows)
  shards = sorted(batch['views'].addressable_shards, key=lambda s: s.device.id)
  assert [s.index[0].start or 0 for s in shards] == list(range(0, 16, 2))


def test_feed_is_one_batch_ahead_and_loses_none():
  mesh = mesh_lib.make_mesh()
  taken = []

  def batches():
    for i in range(3):
      taken.append(i)
      yield {
        'views': np.full((8, 2), i, np.float32),
        'label': np.full(8, i, np.int32),
        'index': np.arange(8) + i,
      }

  feed = mesh_lib.feed(batches(), mesh)
  first, index = next(feed)
  assert taken == [0, 1]
  assert np.asarray(first['views'])[0, 0] == 0 and index[0] == 0
  assert [int(np.asarray(b['label'])[0]) for b, _ in feed] == [1, 2]
  assert set(first) == {'views', 'label'}
