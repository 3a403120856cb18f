"""Whose fault an error of the runtime is, where nobody has said so in time."""

from __future__ import annotations

import jax
import pytest

from simclr_jax.processes import session as session_lib


@pytest.fixture
def session(monkeypatch):
  """Of one among several, which watch each other."""
  monkeypatch.setattr(session_lib, 'GOODBYE_SECONDS', 0.01)
  found = session_lib.Session()
  found.is_single = False
  found._line = object()
  return found


@pytest.mark.parametrize(
  ('error', 'lost'),
  [
    (jax.errors.JaxRuntimeError('Gloo: Connection closed by peer'), True),
    (jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: out of memory'), False),
    (ValueError('connection of the data set is unknown'), False),
  ],
)
def test_a_lost_process_by_the_words_of_the_runtime(session, error, lost):
  assert session.blames_others(error) is lost
  session._line = None
  assert session.blames_others(error) is lost
  session.is_single = True
  assert not session.blames_others(error)
