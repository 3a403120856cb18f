"""How many processes a command was started as, from flags or environment.

Pure functions of a mapping: no import of JAX, no network, no file.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses

MODES = ('auto', 'on', 'off')
_FLAGS = '--coordinator=HOST:PORT --num_processes=N --process_id=K'
_OFF = '--distributed=off makes this process a run of its own'

# Several processes in one job, by what started them: (name, variable with
# their number, variable with the index of this one).
_MPI = (
  ('Open MPI', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_RANK'),
  ('MPI (PMI)', 'PMI_SIZE', 'PMI_RANK'),
)
# What JAX's own detection of SLURM reads.
_SLURM_NEEDS = (
  'SLURM_JOB_ID',
  'SLURM_STEP_NODELIST',
  'SLURM_NTASKS',
  'SLURM_PROCID',
  'SLURM_LOCALID',
)


@dataclasses.dataclass(frozen=True)
class Launch:
  """What starts the multi-process runtime.

  Attributes:
    by: What said so, for people; '' for a single process.
    coordinator: HOST:PORT; None: JAX's own detection finds it.
    num_processes, process_id: None: JAX's own detection finds them.
    all_devices: Use all devices of the host although JAX's detection would
      pick one for each process.
  """

  by: str = ''
  coordinator: str | None = None
  num_processes: int | None = None
  process_id: int | None = None
  all_devices: bool = False

  @property
  def is_single(self) -> bool:
    """Whether there is nothing to start."""
    return not self.by


def find_launch(
  environ: Mapping[str, str],
  *,
  mode: str = 'auto',
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  on_tpu_vm: bool = False,
) -> Launch:
  """How this process was started.

  Args:
    environ: Environment variables.
    mode: 'auto': several processes where flags or environment say so; 'on':
      an error where nothing does; 'off': one, whatever the environment says.
    coordinator: Flag; with the next two, or none of them.
    num_processes: Flag.
    process_id: Flag.
    on_tpu_vm: Whether this host has a TPU. Its metadata server tells JAX of
      the other hosts, so that no variable is needed there.

  Raises:
    ValueError: If the flags contradict each other, or the environment tells of
      several processes but not enough to join them: each would train a copy of
      its own.
  """
  if mode not in MODES:
    raise ValueError(f'--distributed={mode}: one of {", ".join(MODES)}')
  given = {
    '--coordinator': coordinator,
    '--num_processes': num_processes,
    '--process_id': process_id,
  }
  if any(value is not None for value in given.values()):
    return _from_flags(given, mode)
  if mode == 'off':
    return Launch()
  found = _from_environment(environ, mode, on_tpu_vm)
  if found is None and mode == 'on':
    raise ValueError(
      '--distributed=on, but neither flags nor environment (SLURM, Open MPI, '
      f'Cloud TPU, GKE) tell which processes there are; give {_FLAGS}'
    )
  return found or Launch()


def _from_flags(given: Mapping[str, object], mode: str) -> Launch:
  missing = [name for name, value in given.items() if value is None]
  if mode == 'off':
    names = ', '.join(name for name in given if name not in missing)
    raise ValueError(f'--distributed=off contradicts {names}')
  if missing:
    raise ValueError(
      f'{", ".join(missing)} missing: {_FLAGS} are given together, the same '
      'in every process but for the last'
    )
  coordinator, count, index = given.values()
  assert isinstance(count, int) and isinstance(index, int)
  host, _, port = str(coordinator).rpartition(':')
  if not host or not port.isdigit() or not 0 < int(port) < 65536:
    raise ValueError(
      f'--coordinator={coordinator}: HOST:PORT is wanted, of process 0, such '
      'as 10.0.0.2:8476'
    )
  if count < 1:
    raise ValueError(f'--num_processes={count}: at least 1')
  if not 0 <= index < count:
    raise ValueError(
      f'--process_id={index}: processes are counted from 0 to '
      f'--num_processes - 1 = {count - 1}'
    )
  if count == 1:
    return Launch()
  return Launch('flags', str(coordinator), count, index)


def _from_environment(
  environ: Mapping[str, str], mode: str, on_tpu_vm: bool
) -> Launch | None:
  """In the order in which JAX looks, so that both find the same."""
  if (size := _number(environ, 'OMPI_COMM_WORLD_SIZE')) and size > 1:
    if 'OMPI_MCA_orte_hnp_uri' in environ:
      return Launch('Open MPI')
  for name, count, index in _MPI:
    # SLURM starts MPI programs too, and is understood.
    if (size := _number(environ, count)) and size > 1 and not _slurm(environ):
      raise ValueError(
        f'{name} started {size} processes ({count}), but JAX cannot tell '
        f'where the first one is: give --coordinator=HOST:PORT '
        f'--num_processes=${count} --process_id=${index}; {_OFF}'
      )
  if (found := _slurm_launch(environ)) is not None:
    return found
  if (found := _tpu_launch(environ, on_tpu_vm)) is not None:
    return found
  if 'KUBERNETES_SERVICE_HOST' in environ and (
    'JOB_COMPLETION_INDEX' in environ
  ):
    if mode == 'on':
      return Launch('Kubernetes')
    raise ValueError(
      'this is a pod of an indexed Kubernetes Job (JOB_COMPLETION_INDEX is '
      'set), which may be one of several processes of a run. Say so: '
      '--coordinator=HOST:PORT --num_processes=N '
      '--process_id=$JOB_COMPLETION_INDEX, or --distributed=on where JAX may '
      f'ask Kubernetes (pip install "jax[k8s]"); {_OFF}'
    )
  return None


def _number(environ: Mapping[str, str], name: str) -> int | None:
  text = environ.get(name, '')
  if not text:
    return None
  if not text.isdigit():
    raise ValueError(f'environment: {name}={text!r} is no number; {_OFF}')
  return int(text)


def _slurm(environ: Mapping[str, str]) -> bool:
  return 'SLURM_JOB_ID' in environ


def _slurm_launch(environ: Mapping[str, str]) -> Launch | None:
  """Of a SLURM step; None outside of SLURM and for a single task."""
  if not _slurm(environ):
    return None
  in_step = 'SLURM_STEP_NODELIST' in environ
  step_tasks = _number(environ, 'SLURM_STEP_NUM_TASKS') if in_step else None
  tasks = step_tasks or _number(environ, 'SLURM_NTASKS') or 1
  if tasks == 1:
    return None
  if not in_step:
    raise ValueError(
      f'SLURM gave this job {tasks} tasks, but this process was not started '
      f'by srun, so the others do not run: start the command with srun; {_OFF}'
    )
  needed = [name for name in _SLURM_NEEDS if not environ.get(name)]
  if needed:
    raise ValueError(
      f'SLURM started {tasks} tasks, but {", ".join(needed)} is missing in the '
      'environment (srun --export?): the processes cannot find each other; '
      f'export it, or give {_FLAGS}; {_OFF}'
    )
  index = _number(environ, 'SLURM_PROCID')
  if index is None or index >= tasks:
    raise ValueError(
      f'SLURM_PROCID={index} is no index of {tasks} tasks: the environment is '
      f'that of another step; start the command with srun; {_OFF}'
    )
  return Launch(
    'SLURM',
    num_processes=tasks,
    process_id=index,
    all_devices=_has_node_alone(environ) or _sees_one_gpu(environ),
  )


def _has_node_alone(environ: Mapping[str, str]) -> bool:
  """Whether this is the only task of its node; JAX would take one GPU of it."""
  per_node = _tasks_per_node(
    environ.get('SLURM_STEP_TASKS_PER_NODE')
    or environ.get('SLURM_TASKS_PER_NODE')
    or ''
  )
  node = _number(environ, 'SLURM_NODEID') or 0
  return node < len(per_node) and per_node[node] == 1


def _tasks_per_node(text: str) -> list[int]:
  """'2(x3),1' -> [2, 2, 2, 1]; [] where it cannot be read."""
  counts: list[int] = []
  for part in text.split(','):
    number, _, repeat = part.strip().rstrip(')').partition('(x')
    if not number.isdigit() or not (repeat or '1').isdigit():
      return []
    counts += [int(number)] * int(repeat or 1)
  return counts


def _sees_one_gpu(environ: Mapping[str, str]) -> bool:
  """Whether SLURM itself gave this task a GPU of its own (--gpus-per-task)."""
  visible = environ.get('CUDA_VISIBLE_DEVICES', '')
  return bool(visible) and ',' not in visible


def _tpu_launch(environ: Mapping[str, str], on_tpu_vm: bool) -> Launch | None:
  """Of a TPU slice: GKE sets variables, a Cloud TPU VM has its metadata.

  Returns:
    None where neither says anything; a single process where the slice is one
    host.
  """
  workers = [
    name
    for name in (
      environ.get('TPU_PROCESS_ADDRESSES')
      or environ.get('TPU_WORKER_HOSTNAMES')
      or ''
    ).split(',')
    if name.strip()
  ]
  slices = _number(environ, 'MEGASCALE_NUM_SLICES') or 1
  if workers:
    if len(workers) * slices == 1:
      # Also in a pod of an indexed Job, of which there is then one.
      return Launch()
    if _number(environ, 'TPU_WORKER_ID') is None:
      raise ValueError(
        f'the environment names {len(workers)} TPU hosts '
        f'(TPU_WORKER_HOSTNAMES), but not which this is (TPU_WORKER_ID); {_OFF}'
      )
    if slices > 1 and _number(environ, 'MEGASCALE_SLICE_ID') is None:
      raise ValueError(
        f'the environment tells of {slices} TPU slices '
        '(MEGASCALE_NUM_SLICES), but not which this is (MEGASCALE_SLICE_ID); '
        f'{_OFF}'
      )
    return Launch('a TPU slice in GKE')
  if on_tpu_vm and 'TPU_SKIP_MDS_QUERY' not in environ:
    # Also of a single host: only the metadata server knows.
    return Launch('Cloud TPU')
  if slices > 1:
    raise ValueError(
      f'the environment tells of {slices} TPU slices (MEGASCALE_NUM_SLICES), '
      f'but this host has no TPU; {_OFF}'
    )
  return None
