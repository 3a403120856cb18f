"""What --help shows, and that exit codes are those of the documentation."""

from __future__ import annotations

import ast
import pathlib
import re

from absl import flags

from docs_site import hooks
from simclr_jax import command_help, console
from simclr_jax.finetuning import config as finetuning_config
from tests import command_server

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_help_behind_two_dashes_is_an_argument():
  command_help.answer(['command', '--', '--help'])


def test_every_flag_of_every_command_is_there(command_listing):
  main = {f['name']: f for f in command_listing['pretrain']['flags']}
  assert main['config']['required'] and main['workdir']['required']
  assert main['distributed']['choices'] == ['auto', 'on', 'off']
  assert main['distributed']['help'].startswith("'auto': join")
  assert main['init_timeout']['default'] == '300.0'
  groups = {name: flag['group'] for name, flag in main.items()}
  assert groups['workdir'] == command_help.OWN_GROUP
  assert groups['coordinator'].startswith('Several processes')
  knn = {f['name'] for f in command_listing['knn']['flags']}
  assert {'knn.ks', 'data.path', 'eval.batch_size', 'step'} <= knn
  for name, found in command_listing.items():
    kinds = {flag['kind'] for flag in found['flags']}
    assert kinds <= {'string', 'int', 'float', 'bool', 'list', 'enum', 'config'}
    assert found['flags'] and all(f['help'] for f in found['flags']), name
    # Not those of the libraries.
    assert not {'logtostderr', 'pdb', 'alsologtostderr'} & {
      flag['name'] for flag in found['flags']
    }


def test_help_is_short_and_says_exit_codes(command_listing):
  for name, found in command_listing.items():
    known = [command_help.Flag(**flag) for flag in found['flags']]
    text = command_help.text(found['doc'], known)
    assert 'exit code' in ' '.join(text.lower().split()), name
    assert max(map(len, text.splitlines())) <= 88, name
    assert text.count('\n') < 120, name
    shown = [flag for flag in known if '.' not in flag.name]
    for flag in shown:
      assert re.search(rf'--(\[no\])?{flag.name}\b', text), (name, flag.name)


def test_required_flags_come_before_those_of_several_processes(command_listing):
  for name, found in command_listing.items():
    groups = [flag['group'] for flag in found['flags']]
    assert not [g for g in groups if len(g) > 50], name
    required = [i for i, f in enumerate(found['flags']) if f['required']]
    others = [i for i, g in enumerate(groups) if g.startswith('Several')]
    assert not others or max(required) < min(others), name


def test_the_guide_to_pods_names_who_runs_on_several_hosts(command_listing):
  text = (ROOT / 'docs/guides/tpu_pods.md').read_text()
  (named,) = re.findall(r'Elsewhere ([^.]*?) are told', text)
  assert set(re.findall(r'`(\w+)`', named)) == {
    found['module']
    for found in command_listing.values()
    if any(flag['name'] == 'coordinator' for flag in found['flags'])
  }


def test_every_field_is_named_and_where_it_is_explained(command_listing):
  schemas = {
    'finetune': finetuning_config.FinetuneConfig,
    'label_efficiency': finetuning_config.FinetuneConfig,
    'distill': finetuning_config.DistillConfig,
  }
  pages = hooks.generated_pages()
  for name in ('pretrain', 'plan', *schemas):
    found = command_listing[name]
    known = [command_help.Flag(**flag) for flag in found['flags']]
    text = ' '.join(command_help.text(found['doc'], known).split())
    schema = schemas.get(name)
    fields = command_help.config_fields(*([schema] if schema else []))
    (sections,) = re.findall(r'sections: ([\w, ]+)\.', text)
    (single,) = re.findall(r'Fields in no section: ([\w, ]+)\.', text)
    named = [*sections.split(', '), *single.split(', ')]
    assert named.count('seed') == 1
    assert sorted(named) == sorted({f.partition('.')[0] for f in fields}), name
    assert set(sections.split(', ')) == {
      f.partition('.')[0] for f in fields if '.' in f
    }
    ((page, file),) = re.findall(
      r'Explained in docs/(\S+) \(make docs\) and (\S+\.py)\.', text
    )
    assert (ROOT / file).is_file()
    assert ('finetuning' in file) == bool(schema)
    for field in fields:
      assert f'`{field}`' in pages[f'{page}.md'], (name, field)


def test_examples_can_be_pasted(command_listing):
  """A line that goes on ends in a backslash, in --help and in configs."""
  docs = {
    name: command_help.unjoined(found['doc'])
    for name, found in command_listing.items()
  }
  for path in (ROOT / 'configs').rglob('*.py'):
    doc = ast.get_docstring(ast.parse(path.read_text()), clean=False) or ''
    docs[path.name] = command_help.unjoined(doc)
  for name, doc in docs.items():
    lines = doc.splitlines()
    for line, following in zip(lines, lines[1:], strict=False):
      if line.startswith('  ') and following.startswith('    --'):
        assert line.endswith(' \\'), (name, line)
      if line.endswith('\\'):
        assert following.startswith('    '), (name, line)


def test_an_empty_choice_is_not_shown():
  flag = command_help.Flag('output', choices=('', 'h', 'z'), help='Vectors.')
  assert '\n  --output=h|z\n' in command_help.text('Does.', [flag])


def test_help_as_the_shell_sees_it(tmp_path):
  with command_server.Server({}) as server:
    for flag in ('--help', '-h', '--helpshort'):
      done = server.run('knn', [flag], cwd=tmp_path)
      assert done.code == 0 and not done.err
      assert done.out.startswith('kNN: how well')
    full = server.run('knn', ['--helpfull'], cwd=tmp_path)
  assert full.code == 0 and '--[no]pdb' in full.out
  assert len(full.out) > 2 * len(done.out)


def test_choices_of_absl_flags():
  values = flags.FlagValues()
  flags.DEFINE_enum('a', 'x', ['x', 'y'], 'Which.', flag_values=values)
  flags.DEFINE_list('b', ['p', 'q'], 'Some.', flag_values=values)
  assert command_help._from_absl(values['a'], 'G') == command_help.Flag(
    'a', 'G', 'enum', 'x', ('x', 'y'), False, 'Which.'
  )
  assert command_help._from_absl(values['b'], 'G') == command_help.Flag(
    'b', 'G', 'list', 'p,q', (), False, 'Some.'
  )


def _declared_exit_codes() -> dict[str, int]:
  """EXIT_* constants of the whole package."""
  found = {}
  for path in (ROOT / 'simclr_jax').rglob('*.py'):
    for node in ast.parse(path.read_text()).body:
      if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
        for target in node.targets:
          name = target.id if isinstance(target, ast.Name) else ''
          if name.startswith('EXIT_'):
            found[name] = node.value.value
  return found


def test_exit_codes_are_documented():
  text = (ROOT / 'docs/commands.md').read_text()
  rows = re.findall(r'^\| (\d+) \| `(EXIT_\w+)` \|', text, re.MULTILINE)
  documented = {name: int(code) for code, name in rows}
  assert documented == _declared_exit_codes()
  for name in ('FAILED', 'WRONG_INPUT', 'PEER_LOST', 'STOPPED'):
    assert documented[f'EXIT_{name}'] == getattr(console, f'EXIT_{name}')


def test_launchers_page_has_the_same_exit_codes():
  text = (ROOT / 'docs/running.md').read_text()
  codes = {int(c) for c in re.findall(r'^\| (\d+) \|', text, re.MULTILINE)}
  assert codes == {0, *_declared_exit_codes().values()}
