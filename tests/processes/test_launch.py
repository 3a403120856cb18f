"""What flags and environment say about the processes of a run."""

from __future__ import annotations

import pytest

from simclr_jax import processes
from simclr_jax.processes import launch

STEP = {
  'SLURM_JOB_ID': '7',
  'SLURM_STEP_NODELIST': 'node[1-2]',
  'SLURM_STEP_NUM_TASKS': '2',
  'SLURM_NTASKS': '2',
  'SLURM_PROCID': '1',
  'SLURM_LOCALID': '0',
}
GKE = {'TPU_WORKER_HOSTNAMES': 'a,b,c,d', 'TPU_WORKER_ID': '2'}
ONE_HOST = {'TPU_WORKER_HOSTNAMES': 'localhost', 'TPU_WORKER_ID': '0'}
MPI = {
  'OMPI_COMM_WORLD_SIZE': '2',
  'OMPI_COMM_WORLD_RANK': '0',
  'OMPI_MCA_orte_hnp_uri': '1.0;tcp://10.0.0.1:1',
}
INDEXED_JOB = {
  'KUBERNETES_SERVICE_HOST': '10.0.0.1',
  'JOB_COMPLETION_INDEX': '1',
}
FLAGS = {'coordinator': 'h:1', 'num_processes': 3, 'process_id': 2}


def without(environ, *names):
  return {k: v for k, v in environ.items() if k not in names}


@pytest.mark.parametrize(
  ('environ', 'flags', 'want'),
  [
    ({}, {}, launch.Launch()),
    ({}, FLAGS, launch.Launch('flags', 'h:1', 3, 2)),
    # An address of IPv6.
    (
      {},
      {**FLAGS, 'coordinator': '[::1]:80'},
      launch.Launch('flags', '[::1]:80', 3, 2),
    ),
    ({}, {'coordinator': 'h:1', 'num_processes': 1, 'process_id': 0}, None),
    # Flags win over the environment.
    (STEP, FLAGS, launch.Launch('flags', 'h:1', 3, 2)),
    (STEP, {}, launch.Launch('SLURM', num_processes=2, process_id=1)),
    # Of a step within a larger job.
    (
      {**STEP, 'SLURM_NTASKS': '8'},
      {},
      launch.Launch('SLURM', num_processes=2, process_id=1),
    ),
    # All GPUs of a node for its only task.
    (
      {**STEP, 'SLURM_STEP_TASKS_PER_NODE': '1(x2)', 'SLURM_NODEID': '1'},
      {},
      launch.Launch('SLURM', None, 2, 1, all_devices=True),
    ),
    (
      {**STEP, 'SLURM_STEP_TASKS_PER_NODE': '2,1', 'SLURM_NODEID': '0'},
      {},
      launch.Launch('SLURM', None, 2, 1),
    ),
    (
      {**STEP, 'CUDA_VISIBLE_DEVICES': '0,1'},
      {},
      launch.Launch('SLURM', None, 2, 1),
    ),
    (
      {**STEP, 'CUDA_VISIBLE_DEVICES': '3'},
      {},
      launch.Launch('SLURM', None, 2, 1, all_devices=True),
    ),
    # One task, and a shell on a login node.
    ({**STEP, 'SLURM_STEP_NUM_TASKS': '1', 'SLURM_NTASKS': '1'}, {}, None),
    ({'SLURM_JOB_ID': '7'}, {}, None),
    (STEP, {'mode': 'off'}, None),
    (GKE, {}, launch.Launch('a TPU slice in GKE')),
    (ONE_HOST, {}, None),
    # As GKE and XPK start a slice of one machine.
    ({**ONE_HOST, **INDEXED_JOB, 'JOB_COMPLETION_INDEX': '0'}, {}, None),
    (ONE_HOST, {'mode': 'on'}, None),
    (
      {
        'TPU_WORKER_HOSTNAMES': 'a',
        'TPU_WORKER_ID': '0',
        'MEGASCALE_NUM_SLICES': '2',
        'MEGASCALE_SLICE_ID': '1',
      },
      {},
      launch.Launch('a TPU slice in GKE'),
    ),
    ({}, {'on_tpu_vm': True}, launch.Launch('Cloud TPU')),
    # JAX sets it where it has found no chip.
    ({'TPU_SKIP_MDS_QUERY': '1'}, {'on_tpu_vm': True}, None),
    (MPI, {}, launch.Launch('Open MPI')),
    ({**MPI, 'OMPI_COMM_WORLD_SIZE': '1'}, {}, None),
    # A program that SLURM starts by PMI.
    ({**STEP, 'PMI_SIZE': '2'}, {}, launch.Launch('SLURM', None, 2, 1)),
    (INDEXED_JOB, {'mode': 'on'}, launch.Launch('Kubernetes')),
    (INDEXED_JOB, {'mode': 'off'}, None),
    ({'KUBERNETES_SERVICE_HOST': '10.0.0.1'}, {}, None),
  ],
)
def test_found(environ, flags, want):
  found = processes.find_launch(environ, **flags)
  assert found == (want or launch.Launch())
  assert found.is_single == (found.by == '')


@pytest.mark.parametrize(
  ('environ', 'flags', 'message'),
  [
    ({}, {'mode': 'yes'}, 'one of auto, on, off'),
    ({}, {'coordinator': 'h:1'}, '--num_processes, --process_id missing'),
    ({}, {'num_processes': 2, 'process_id': 0}, '--coordinator missing'),
    ({}, {**FLAGS, 'mode': 'off'}, '--distributed=off contradicts --coord'),
    ({}, {**FLAGS, 'coordinator': 'host'}, 'HOST:PORT is wanted'),
    ({}, {**FLAGS, 'coordinator': ':80'}, 'HOST:PORT is wanted'),
    ({}, {**FLAGS, 'coordinator': 'h:99999'}, 'HOST:PORT is wanted'),
    ({}, {**FLAGS, 'num_processes': 0}, 'at least 1'),
    ({}, {**FLAGS, 'process_id': 3}, 'num_processes - 1 = 2'),
    ({}, {**FLAGS, 'process_id': -1}, 'counted from 0'),
    ({}, {'mode': 'on'}, 'neither flags nor environment'),
    # The batch script itself, or a shell of salloc.
    (
      without(STEP, 'SLURM_STEP_NODELIST', 'SLURM_STEP_NUM_TASKS'),
      {},
      'not started by srun',
    ),
    (without(STEP, 'SLURM_PROCID'), {}, 'SLURM_PROCID is missing'),
    (without(STEP, 'SLURM_LOCALID'), {}, 'SLURM_LOCALID is missing'),
    ({**STEP, 'SLURM_PROCID': '5'}, {}, 'no index of 2 tasks'),
    ({**STEP, 'SLURM_STEP_NUM_TASKS': 'two'}, {}, "'two' is no number"),
    (without(GKE, 'TPU_WORKER_ID'), {}, 'not which this is'),
    ({**GKE, 'MEGASCALE_NUM_SLICES': '2'}, {}, 'MEGASCALE_SLICE_ID'),
    ({'MEGASCALE_NUM_SLICES': '2'}, {}, 'has no TPU'),
    (without(MPI, 'OMPI_MCA_orte_hnp_uri'), {}, '--num_processes=\\$OMPI_COMM'),
    ({'PMI_SIZE': '4', 'PMI_RANK': '1'}, {}, '--process_id=\\$PMI_RANK'),
    (INDEXED_JOB, {}, 'JOB_COMPLETION_INDEX'),
  ],
)
def test_refused(environ, flags, message):
  with pytest.raises(ValueError, match=message) as caught:
    processes.find_launch(environ, **flags)
  if not flags:
    assert '--distributed=off' in str(caught.value)


def test_a_single_process_costs_nothing():
  assert processes.join(launch.Launch(), end_fn=pytest.fail).is_single
  assert processes.gather({'a': 1}) == [{'a': 1}]
  assert processes.from_first(3) == 3
  processes.check_same({'a': 1}, consequence='')
  with pytest.raises(KeyError), processes.together():
    raise KeyError
