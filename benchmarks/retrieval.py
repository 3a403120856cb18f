r"""Retrieval on the labelled data of a run, beside random initialisation.

  python -m benchmarks.retrieval --workdir=runs/NAME \
    --hardware='2 shared CPU cores (x86-64)' --out=docs/results/NAME

Embeds training and test split with the pretrained and the freshly initialised
network, searches for test pictures among the training pictures, and writes
OUT/result.json and OUT/README.md: recall@k and mean average precision of raw
and normalised h and z, PCA and whitening, and how much of the exact answer the
approximate indexes find. No times: shared machines make them meaningless.
"""

from __future__ import annotations

import json
import pathlib
import tempfile
from typing import Any

from absl import app, flags
import jax

from benchmarks import retrieval_page
from simclr_jax import console
from simclr_jax.retrieval import (
  embedding,
  indexes,
  inputs,
  judging,
  searching,
  spaces,
)
from simclr_jax.retrieval.embedding_set import EmbeddingSet
from simclr_jax.training import checkpoint
from simclr_jax.training import mesh as mesh_lib
from simclr_jax.training import passport as passport_lib

_WORKDIR = flags.DEFINE_string('workdir', None, 'A run.', required=True)
_OUT = flags.DEFINE_string('out', None, 'Folder of the result.', required=True)
_HARDWARE = flags.DEFINE_string(
  'hardware', None, 'Of the machine, for people.', required=True
)
_PRETRAINED = flags.DEFINE_string(
  'pretrained', '', 'The command line that pretrained, for people.'
)
_QUERIES = flags.DEFINE_string('queries', '', 'Default: the test split.')
_BANK = flags.DEFINE_string('bank', '', 'Default: the training split.')
_TRANSFORMS = flags.DEFINE_list(
  'transforms', ['pca:32', 'whitening:32'], 'Measured beside none.'
)
_MOST_QUERIES = 2000
_KS = (1, 5, 10, 100)
# What is tried of each kind, from hasty to thorough.
_EFFORTS = {
  'ivf': [indexes.Options(num_probes=n) for n in (1, 8, 64)],
  'hnsw': [indexes.Options(ef_search=n) for n in (16, 64, 256)],
}


def measure(folder: pathlib.Path) -> dict[str, Any]:
  """All numbers; embeddings go below `folder`."""
  loaded = checkpoint.load_encoder(_WORKDIR.value)
  config = passport_lib.config_from_passport(loaded.passport)
  result: dict[str, Any] = {
    'benchmark': 'retrieval',
    'pretrained': _PRETRAINED.value,
    'command': 'python -m benchmarks.retrieval --workdir=... '
    f"--bank='{_BANK.value}' --queries='{_QUERIES.value}' "
    f'--transforms={",".join(_TRANSFORMS.value)}',
    'hardware': _HARDWARE.value,
    'jax': jax.__version__,
    'step': loaded.step,
    'data': config.data.name or config.data.source,
    'image_size': config.data.image_size,
    'rows': {},
  }
  for kind in spaces.KINDS:
    bank, queries = (
      _embed(loaded, folder / f'{kind}-{name}', kind=kind, split=split)
      for name, split in (
        ('bank', _BANK.value or config.data.train_split),
        ('queries', _QUERIES.value or config.data.test_split),
      )
    )
    result |= {'num_bank': len(bank), 'dims': dict(bank.identity.dims)}
    rows = judging.judge(
      bank,
      queries,
      ks=_KS,
      max_queries=_MOST_QUERIES,
      transform_names=_TRANSFORMS.value,
    )
    print(kind, judging.table(rows), sep='\n', flush=True)
    result['rows'][kind] = judging.rows_to_json(rows)
    if kind == 'checkpoint':
      result['indexes'] = _judge_indexes(bank, queries)
  return result


def _embed(
  loaded: checkpoint.LoadedEncoder,
  out: pathlib.Path,
  *,
  kind: str,
  split: str,
) -> EmbeddingSet:
  config = passport_lib.config_from_passport(loaded.passport)
  done = embedding.embed(
    loaded,
    inputs.find_input('run', config, split=split),
    out=out,
    options=embedding.Options(outputs=('h', 'z')),
    kind=kind,
  )
  return EmbeddingSet(done.folder)


def _judge_indexes(
  bank: EmbeddingSet, queries: EmbeddingSet
) -> list[dict[str, Any]]:
  found = []
  view = searching.open_view(bank)
  mesh = mesh_lib.make_mesh()
  for kind, efforts in _EFFORTS.items():
    for options in efforts:
      index = indexes.open_index(
        bank, view, kind=kind, mesh=mesh, options=options
      )
      judged = judging.judge_index(
        bank, queries, view, index, max_queries=_MOST_QUERIES
      )
      effort = (
        f'lists read: {options.num_probes}'
        if kind == 'ivf'
        else f'candidates: {options.ef_search}'
      )
      found.append({'kind': kind, 'effort': effort, **judged})
      print(found[-1], flush=True)
  return found


def main(argv: list[str]) -> None:
  """Measures and writes."""
  del argv
  console.start()
  out = pathlib.Path(str(_OUT.value))
  out.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory() as folder:
    result = measure(pathlib.Path(folder))
  text = json.dumps(result, indent=2)
  (out / 'result.json').write_text(text + '\n')
  (out / 'README.md').write_text(
    retrieval_page.make_page(out.name, json.loads(text))
  )


if __name__ == '__main__':
  app.run(main)
