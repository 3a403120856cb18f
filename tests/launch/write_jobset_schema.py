"""Writes data/jobset_schema.json, by which the rendered JobSet is checked.

  pip install kubeflow-trainer-api==2.3.0 kubernetes-validate==1.37.0
  python tests/launch/write_jobset_schema.py

JobSet's own part comes from the models that the Kubeflow project generates from
JobSet's OpenAPI document, the job template from Kubernetes' OpenAPI document of
the version below, as strict JSON schemas. Both are under Apache-2.0.
Descriptions are left out.
"""

from __future__ import annotations

import importlib.metadata
import json
import pathlib
import re

KUBERNETES = 'v1.37.0'
TARGET = pathlib.Path(__file__).with_name('data') / 'jobset_schema.json'
_JOB_TEMPLATE = 'io.k8s.api.batch.v1.JobTemplateSpec'


def jobset_definitions() -> dict:
  """JobSet's own schemas, without those of Kubernetes, nothing else allowed."""
  from kubeflow_trainer_api import models

  schema = models.JobsetV1alpha2JobSetSpec.model_json_schema(by_alias=True)
  definitions = schema.pop('$defs')
  definitions['JobsetV1alpha2JobSetSpec'] = schema
  own = {k: v for k, v in definitions.items() if k.startswith('Jobset')}
  for definition in own.values():
    definition['additionalProperties'] = False
  text = json.dumps(own).replace(
    '#/$defs/IoK8sApiBatchV1JobTemplateSpec', f'#/$defs/{_JOB_TEMPLATE}'
  )
  return json.loads(text)


def kubernetes_definitions(name: str) -> dict:
  """Kubernetes' schemas that `name` needs."""
  import kubernetes_validate

  folder = pathlib.Path(kubernetes_validate.__file__).parent
  path = folder / 'kubernetes-json-schema' / f'{KUBERNETES}-local-strict'
  every = json.loads((path / '_definitions.json').read_text())['$defs']
  needed: dict[str, dict] = {}
  waiting = [name]
  while waiting:
    name = waiting.pop()
    if name in needed:
      continue
    text = json.dumps(every[name]).replace('/api/_definitions.json#', '#')
    needed[name] = json.loads(text)
    waiting += re.findall(r'"#/\$defs/([^"]+)"', text)
  return needed


def without_descriptions(node: object) -> object:
  """Also without titles; a property may have either name."""
  if isinstance(node, list):
    return [without_descriptions(item) for item in node]
  if not isinstance(node, dict):
    return node
  return {
    key: without_descriptions(value)
    for key, value in node.items()
    if key not in ('description', 'title') or not isinstance(value, str)
  }


def main() -> None:
  """Writes the schema."""
  versions = ', '.join(
    f'{name} {importlib.metadata.version(name)} (Apache-2.0)'
    for name in ('kubeflow-trainer-api', 'kubernetes-validate')
  )
  schema = {
    '$schema': 'https://json-schema.org/draft/2020-12/schema',
    '$comment': f'From {versions}, Kubernetes {KUBERNETES}; written by '
    'tests/launch/write_jobset_schema.py.',
    'type': 'object',
    'additionalProperties': False,
    'required': ['apiVersion', 'kind', 'metadata', 'spec'],
    'properties': {
      'apiVersion': {'const': 'jobset.x-k8s.io/v1alpha2'},
      'kind': {'const': 'JobSet'},
      'metadata': {
        '$ref': '#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta'
      },
      'spec': {'$ref': '#/$defs/JobsetV1alpha2JobSetSpec'},
    },
    '$defs': {
      **jobset_definitions(),
      **kubernetes_definitions(_JOB_TEMPLATE),
    },
  }
  text = json.dumps(without_descriptions(schema), sort_keys=True)
  TARGET.write_text(text + '\n')


if __name__ == '__main__':
  main()
