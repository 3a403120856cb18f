"""The JobSet against the published schemas; what kubectl and xpk are asked."""

from __future__ import annotations

import json
import pathlib
import shlex

import pytest
import yaml

from launch import render
from tests.launch import stand_ins

NAME = ['--name=run-1']
SLICE = [*NAME, '--image=region-docker.pkg.dev/p/r/i:1', '--topology=4x4']
NASTY = """--config=a: b #'c" $(HOME) $HOME`id` {x} &y *"""
FLAGS = ['--', NASTY, '--workdir=gs://b/ü', '--config.loss.temperature=0.1']
SCHEMA = pathlib.Path(__file__).with_name('data') / 'jobset_schema.json'
SELECTOR = '--selector=jobset.sigs.k8s.io/jobset-name=run-1'


@pytest.fixture
def cluster(tmp_path):
  return stand_ins.StandIns(tmp_path, ['kubectl', 'xpk'])


def rendered(cluster, *options):
  result = cluster.run('gke.sh', 'render', *SLICE, *options, *FLAGS)
  assert result.returncode == 0, result.stderr
  return yaml.safe_load(result.stdout)


def pod(manifest):
  (job,) = manifest['spec']['replicatedJobs']
  return job['template']['spec']['template']['spec']


def problems(manifest):
  jsonschema = pytest.importorskip('jsonschema')
  validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
  return [error.json_path for error in validator.iter_errors(manifest)]


@pytest.mark.parametrize(
  'options',
  [
    [],
    ['--spot', '--service_account=trainer', '--namespace=ml', '--slices=2'],
    ['--accelerator=tpu-v5p-slice', '--topology=2x2x4'],
  ],
)
def test_the_jobset_is_valid(cluster, options):
  manifest = rendered(cluster, *options)
  assert problems(manifest) == []


def test_the_schema_sees_mistakes(cluster):
  """The validation above is not empty."""
  faults = [
    lambda m: m['spec'].update(failurePolicyy={}),
    lambda m: m['spec']['failurePolicy'].update(maxRestarts='many'),
    lambda m: m['spec']['replicatedJobs'][0].pop('name'),
    lambda m: pod(m)['containers'][0].pop('name'),
    lambda m: pod(m)['containers'][0].update(imagee='x'),
    lambda m: pod(m)['nodeSelector'].update(a=4),
    lambda m: m.update(kind='Jobset'),
  ]
  for fault in faults:
    manifest = rendered(cluster)
    fault(manifest)
    assert problems(manifest), fault


def test_flags_of_the_run_arrive_as_they_are(cluster):
  (container,) = pod(rendered(cluster))['containers']
  # Kubernetes itself would read $(HOME), and turns $$ into $.
  arguments = [x.replace('$$', '$') for x in container['args']]
  assert arguments == ['--distributed=auto', *FLAGS[1:]]
  assert '$$(HOME)' in container['args'][1]


def test_the_slice_is_what_was_asked_for(cluster):
  manifest = rendered(
    cluster, '--spot', '--topology=8x16', '--slices=2', '--namespace=ml',
    '--service_account=trainer', '--max_restarts=7', '--grace_seconds=60',
  )  # fmt: skip
  (job,) = manifest['spec']['replicatedJobs']
  assert manifest['metadata']['namespace'] == 'ml'
  assert manifest['spec']['failurePolicy']['maxRestarts'] == 7
  assert job['replicas'] == 2
  spec = job['template']['spec']
  assert spec['parallelism'] == spec['completions'] == 32
  assert pod(manifest)['nodeSelector'] == {
    'cloud.google.com/gke-tpu-accelerator': 'tpu-v5-lite-podslice',
    'cloud.google.com/gke-tpu-topology': '8x16',
    'cloud.google.com/gke-spot': 'true',
  }
  assert pod(manifest)['serviceAccountName'] == 'trainer'
  assert pod(manifest)['terminationGracePeriodSeconds'] == 60


def test_a_single_machine_looks_for_no_other(cluster):
  manifest = rendered(cluster, '--topology=2x4', '--chips_per_node=8')
  assert pod(manifest)['containers'][0]['args'][0] == '--distributed=off'


def test_what_was_not_asked_for_is_left_out(cluster):
  spec = pod(rendered(cluster))
  assert 'serviceAccountName' not in spec
  assert 'cloud.google.com/gke-spot' not in spec['nodeSelector']


def test_only_ends_that_would_repeat_end_the_jobset(cluster):
  """By the meaning of exit codes; the rules meet by name of the reason."""
  spec = rendered(cluster)['spec']
  (rule,) = spec['failurePolicy']['rules']
  assert rule['action'] == 'FailJobSet'
  assert rule['onJobFailureReasons'] == ['PodFailurePolicy']
  job = spec['replicatedJobs'][0]['template']['spec']
  assert job['backoffLimit'] == 0
  (rule,) = job['podFailurePolicy']['rules']
  assert rule['action'] == 'FailJob'
  assert rule['onExitCodes']['values'] == [1, 2, 3]
  (container,) = job['template']['spec']['containers']
  assert rule['onExitCodes']['containerName'] == container['name']


@pytest.mark.parametrize(
  ('topology', 'accelerator', 'chips', 'nodes'),
  [
    ('4x4', 'tpu-v5-lite-podslice', 4, 4),
    ('2x4', 'tpu-v5-lite-podslice', 8, 1),
    ('16x16', 'tpu-v6e-slice', 4, 64),
    ('4x4x4', 'tpu-v4-podslice', 4, 16),
  ],
)
def test_number_of_machines(topology, accelerator, chips, nodes):
  assert nodes == render.count_nodes(
    topology, accelerator=accelerator, chips_per_node=chips
  )


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (['--topology=4x4x4'], 'has 2 dimensions'),
    (['--topology=4,4'], 'numbers of chips'),
    (['--topology=1x1'], 'does not divide the 1 chips'),
    (['--accelerator=v5e'], 'one of tpu-v4-podslice'),
    (['--chips_per_node=0'], 'at least 1'),
    (['--slices=two'], 'not a whole number'),
    (['--name=Run_1'], 'small letters'),
    (['--name=' + 41 * 'a'], 'up to 40'),
    (['--namespace=a b'], 'small letters'),
    (['--image=a b'], 'without spaces'),
    (['--image='], '--image is missing'),
    (['--spot=maybe'], 'neither true nor false'),
  ],
)
def test_mistakes_are_named(cluster, options, message):
  result = cluster.run('gke.sh', 'apply', *SLICE, *options, *FLAGS)
  assert result.returncode == 2
  assert message in result.stderr
  assert cluster.calls() == []


def test_a_template_that_asks_for_what_is_not_there(monkeypatch, tmp_path):
  monkeypatch.setattr(render, 'TEMPLATE', tmp_path / 't.yaml')
  for text in ('a: ${other}', 'a: x${name}'):
    (tmp_path / 't.yaml').write_text(text)
    with pytest.raises(ValueError, match='none of'):
      render.render({'name': 1})


def test_kubectl_gets(cluster):
  for command in (['status'], ['logs', '--follow', '--process=3'], ['delete']):
    assert (
      cluster.run('gke.sh', command[0], *NAME, *command[1:]).returncode == 0
    )
  assert cluster.calls() == [
    [
      'kubectl', 'get', 'jobset', 'run-1', '--namespace=default',
      '--ignore-not-found',
    ],
    [
      'kubectl', 'get', 'pods', '--namespace=default', '--output=wide',
      SELECTOR,
    ],
    [
      'kubectl', 'logs', '--namespace=default', '--tail=100', '--prefix',
      SELECTOR + ',batch.kubernetes.io/job-completion-index=3', '--follow',
    ],
    [
      'kubectl', 'delete', 'jobset', 'run-1', '--namespace=default',
      '--ignore-not-found',
    ],
  ]  # fmt: skip


@pytest.mark.parametrize('command', ['apply', 'status', 'logs', 'delete'])
def test_dry_run_prints_what_a_run_does(cluster, command):
  arguments = [command, *SLICE, *FLAGS]
  dry = cluster.run('gke.sh', *arguments, LAUNCH_DRY_RUN='true')
  assert dry.returncode == 0, dry.stderr
  assert cluster.calls() == []
  cluster.run_lines(dry.stdout)
  printed = cluster.calls()
  cluster.forget()
  assert cluster.run('gke.sh', *arguments).returncode == 0
  assert cluster.calls() == printed != []
  if command == 'apply':
    (path,) = [x[11:] for x in printed[0] if x.startswith('--filename=')]
    assert problems(yaml.safe_load(pathlib.Path(path).read_text())) == []


XPK = [
  '--name=run-1', '--cluster=c d', '--zone=us-west4-a', '--project=p',
]  # fmt: skip
WORKLOAD = [*XPK, '--type=v5litepod-16', '--image=i']


def test_xpk_gets(cluster):
  result = cluster.run(
    'xpk.sh', 'create', *WORKLOAD, '--capacity=spot', '--slices=2', *FLAGS
  )
  assert result.returncode == 0, result.stderr
  assert cluster.run('xpk.sh', 'status', *XPK).returncode == 0
  assert cluster.run('xpk.sh', 'delete', *XPK).returncode == 0
  place = ['--cluster=c d', '--zone=us-west4-a', '--project=p']
  created, listed, deleted = cluster.calls()
  assert created[:-1] == [
    'xpk', 'workload', 'create', '--workload=run-1', *place,
    '--tpu-type=v5litepod-16', '--num-slices=2', '--docker-image=i',
    '--priority=medium', '--max-restarts=100', '--restart-on-exit-codes=69,75',
    '--termination-grace-period-seconds=120', '--spot',
  ]  # fmt: skip
  assert listed == [
    'xpk', 'workload', 'list', *place, '--filter-by-job=^run-1$'
  ]  # fmt: skip
  assert deleted == [
    'xpk', 'workload', 'delete', '--workload=run-1', *place, '--force'
  ]  # fmt: skip


def test_the_shell_of_xpk_reads_the_words_given(cluster, tmp_path):
  cluster.run('xpk.sh', 'create', *WORKLOAD, *FLAGS)
  line = cluster.calls()[0][-1].removeprefix('--command=')
  shown = cluster.run_lines(f'exec() {{ printf "%s\\0" "$@"; }}; ({line})')
  assert shown.stdout.split('\0')[:-1] == [
    'python', '-m', 'simclr_jax.main', '--distributed=auto', *FLAGS[1:]
  ]  # fmt: skip


@pytest.mark.parametrize('command', ['create', 'status', 'delete'])
def test_dry_run_of_xpk_prints_what_a_run_does(cluster, command):
  arguments = [command, *WORKLOAD, *FLAGS]
  dry = cluster.run('xpk.sh', *arguments, LAUNCH_DRY_RUN='true')
  assert cluster.calls() == []
  cluster.run('xpk.sh', *arguments)
  assert [shlex.split(x) for x in dry.stdout.splitlines()][0][:3] == (
    cluster.calls()[0][:3]
  )
  expected = cluster.calls()
  cluster.forget()
  cluster.run_lines(dry.stdout)
  assert cluster.calls() == expected


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['create', *XPK, *FLAGS], '--type is missing'),
    (['create', *WORKLOAD], 'flags of the run are missing'),
    (['create', *WORKLOAD, '--capacity=free', *FLAGS], 'on-demand, spot, flex'),
    (['status', *XPK[1:]], '--name is missing'),
    (['delete', *XPK, '--name=A'], 'small letters'),
    (['list', *XPK], "unknown command 'list'"),
  ],
)
def test_mistakes_for_xpk_are_named(cluster, arguments, message):
  result = cluster.run('xpk.sh', *arguments)
  assert result.returncode == 2
  assert message in result.stderr
  assert cluster.calls() == []
