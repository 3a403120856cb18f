r"""Searches embeddings by picture, and measures how well that works.

  python -m simclr_jax.search --embeddings=DIR --query=a.jpg,b.jpg \
    --out=found.html
  python -m simclr_jax.search --embeddings=DIR --rows=17,4711 --out=found.png
  python -m simclr_jax.search --embeddings=DIR --index=hnsw --query=FOLDER
  python -m simclr_jax.search --embeddings=DIR --evaluate --queries=DIR2

DIR is what simclr_jax.embed wrote. Queries go through the encoder that made it,
found by what it says and compared by fingerprint: vectors of another checkpoint
are refused, and so is an index of other embeddings. Similarity is the cosine of
h; --metric=dot lets long vectors win. The sheet (.png or .html) frames blue
what has the query's class, orange what has another, where there are labels.

--index=exact compares every row and needs nothing; ivf and hnsw need FAISS (pip
install '.[search]' in the clone), are built on first use and kept in DIR/index.
--transform=pca:64 or whitening:64 is fitted on the embeddings, kept in
DIR/transforms and applied to queries too.

--evaluate needs labels: recall@k, precision@k and mAP of raw and normalised h
and z; with --queries, of another set's pictures, else each picture among the
others. With an approximate index also how many of the true neighbours it finds.

Exit codes: 0 done, 1 could not be written, 2 wrong input.
"""

from __future__ import annotations

import os
import pathlib
import sys

from absl import flags
import jax

from simclr_jax import (
  command_flags,
  console,
  flag_errors,
  out_file,
  section_flags,
  writes,
)
from simclr_jax.data import names as names_lib
from simclr_jax.data import pipeline
from simclr_jax.retrieval import (
  atomic,
  indexes,
  judging,
  pictures,
  searching,
  sheets,
  views,
)
from simclr_jax.retrieval.embedding_set import EmbeddingSet
from simclr_jax.training import checkpoint
from simclr_jax.training import mesh as mesh_lib

_EMBEDDINGS = command_flags.DEFINE_path(
  'embeddings', None, 'Folder that simclr_jax.embed wrote.'
)
_QUERY = command_flags.DEFINE_list(
  'query', [], 'Pictures to search with; a folder stands for its pictures.'
)
_ROWS = command_flags.DEFINE_list(
  'rows', [], 'Ids of pictures of the set to search with.'
)
_K = command_flags.DEFINE_integer('k', 8, 'Pictures to find for each query.')
_OUTPUT = command_flags.DEFINE_enum(
  'output', '', ['', 'h', 'z'], 'Vectors to compare; default: h where it is.'
)
_METRIC = command_flags.DEFINE_enum(
  'metric', 'cosine', list(views.METRICS), 'How they are compared.'
)
_TRANSFORM = command_flags.DEFINE_string(
  'transform', '', 'pca:WIDTH or whitening:WIDTH, fitted on the embeddings.'
)
_INDEX = command_flags.DEFINE_string(
  'index', 'exact', f'One of {", ".join(indexes.KINDS)}.'
)
_NUM_PROBES = command_flags.DEFINE_integer(
  'num_probes',
  0,
  'Lists that ivf reads; 0: a sixteenth of them.',
  lower_bound=0,
)
_EF_SEARCH = command_flags.DEFINE_integer(
  'ef_search', 128, 'Candidates of hnsw.', lower_bound=1
)
_REBUILD = command_flags.DEFINE_bool('rebuild', False, 'Build the index anew.')
_OUT = command_flags.DEFINE_address(
  'out', None, 'Contact sheet (.png, .html); with --evaluate a .json.'
)
_PICTURES = command_flags.DEFINE_path(
  'pictures', '', 'Where the folder that was embedded lies now.'
)
_CHECKPOINT = command_flags.DEFINE_address(
  'checkpoint', None, 'Where the checkpoint lies now; default: where it was.'
)
_LOADER = command_flags.DEFINE_enum(
  'loader', None, list(pipeline.LOADERS), 'Who decodes the queries.'
)
_EVALUATE = command_flags.DEFINE_bool('evaluate', False, 'Judge by the labels.')
_QUERIES = command_flags.DEFINE_path(
  'queries', '', 'For --evaluate: embeddings of other pictures.'
)
_KS = command_flags.DEFINE_list(
  'ks', ['1', '5', '10'], 'Cut-offs of --evaluate.'
)
_MAX_QUERIES = command_flags.DEFINE_integer(
  'max_queries', 2000, 'For --evaluate: queries that are drawn, by fixed seed.'
)
section_flags.define('data')
flags.adopt_module_key_flags(console)

# Flags that say something only of some kinds of index, of a search, and of a
# judgement: given without that, they would be left unread.
_OF_INDEX = {
  'num_probes': ('ivf',),
  'ef_search': ('hnsw',),
  'rebuild': ('ivf', 'hnsw'),
}
_SEARCHES = ('query', 'rows', 'k', 'pictures', 'checkpoint', 'loader')
_JUDGES = ('queries', 'ks', 'max_queries')


def main(argv: list[str]) -> int:
  """Exit code of the command."""
  try:
    console.start()
    if len(argv) > 1:
      raise ValueError(f'unknown arguments {" ".join(argv[1:])}')
    _check_flags()
    embeddings = EmbeddingSet(pathlib.Path(str(_EMBEDDINGS.value)))
    with writes.to(embeddings.folder):  # Where an index or a transform is kept.
      if _EVALUATE.value:
        _evaluate(embeddings)
      else:
        _search(embeddings)
  except OSError as error:
    return console.fail(error, code=console.EXIT_FAILED)
  except (ValueError, checkpoint.DamagedCheckpoint) as error:
    return console.fail(error, code=console.EXIT_WRONG_INPUT)
  return 0


def _check_flags() -> None:
  """Raises ValueError if they contradict each other."""
  given = [name for name in flags.FLAGS if flags.FLAGS[name].present]
  index = _INDEX.value
  for name in given:
    if name in _OF_INDEX and index in indexes.KINDS:
      if index not in _OF_INDEX[name]:
        kinds = ' or '.join(_OF_INDEX[name])
        raise ValueError(f'--{name} is for --index={kinds}, not {index}')
    if _EVALUATE.value and name in _SEARCHES:
      raise ValueError(f'--evaluate takes no --query, no --rows, no --{name}')
    if not _EVALUATE.value and name in _JUDGES:
      raise ValueError(
        f'--{name} is for --evaluate; pictures to search with go to --query'
      )
    if name in ('query', 'rows') and not flags.FLAGS[name].value:
      raise ValueError(f'--{name}= is empty')
    if name in ('checkpoint', 'loader') and not _QUERY.value:
      raise ValueError(f'--{name} is for --query; nothing else is encoded')
    if name in ('metric', 'output') and _EVALUATE.value and index == 'exact':
      raise ValueError(
        f'--evaluate judges every output and metric; --{name} would choose '
        'that of an approximate --index'
      )
  if _K.value < 1:
    raise ValueError(f'--k={_K.value}: at least 1 is wanted')
  if _EVALUATE.value:
    if _OUT.value and not _OUT.value.endswith('.json'):
      raise ValueError(f'--out={_OUT.value}: --evaluate writes a .json')
    if _OUT.value:
      out_file.check(_OUT.value, local=True)
    return
  if _QUERY.value and _ROWS.value:
    raise ValueError('--query and --rows exclude each other')
  if _OUT.value:
    if not (_QUERY.value or _ROWS.value):
      raise ValueError(
        '--out needs something to search with: --query or --rows'
      )
    sheets.check_path(_OUT.value)
  elif _PICTURES.value:
    raise ValueError('--pictures is for --out: nothing else shows pictures')


def _open(embeddings: EmbeddingSet) -> tuple[views.View, indexes.Index]:
  view = searching.open_view(
    embeddings,
    output=_OUTPUT.value,
    metric=_METRIC.value,
    transform=_TRANSFORM.value,
  )
  index = indexes.open_index(
    embeddings,
    view,
    kind=_INDEX.value,
    mesh=mesh_lib.make_mesh(jax.local_devices()),
    options=indexes.Options(_NUM_PROBES.value, _EF_SEARCH.value),
    rebuild=_REBUILD.value,
  )
  return view, index


def _search(embeddings: EmbeddingSet) -> None:
  view, index = _open(embeddings)
  if not (_QUERY.value or _ROWS.value):
    print(
      f'{_INDEX.value} index of {len(embeddings):,} embeddings ({view.name})'
    )
    return
  shown, most = None, 0
  if _OUT.value:
    # No more is drawn, and thumbnails of a whole set would fill the memory.
    most = sheets.MAX_LINES[os.path.splitext(_OUT.value)[1].lower()]
    shown = pictures.SetPictures(
      embeddings,
      folder=_PICTURES.value,
      moved=section_flags.given(('data',)).get('data', {}),
    )
  if _QUERY.value:
    queries = searching.queries_from_files(
      pictures.find_files(_QUERY.value),
      embeddings,
      output=view.output,
      checkpoint_path=_CHECKPOINT.value or '',
      loader=_LOADER.value or '',
      num_shown=most,
    )
  else:
    queries = searching.queries_from_rows(
      _integers('rows', _ROWS.value),
      embeddings,
      output=view.output,
      shown=shown,
      num_shown=most,
    )
  others = len(embeddings) - (not _QUERY.value)
  if _K.value > others:
    what = 'embeddings' if _QUERY.value else 'others'
    print(f'--k={_K.value}: the {others:,} {what} are shown', file=sys.stderr)
  answers = searching.answer(
    embeddings, view, index, queries=queries, k=_K.value
  )
  for name, hits in zip(queries.names, answers, strict=True):
    print(names_lib.printable(name))
    for hit in hits:
      print(
        f'  {hit.similarity:.4f}  {hit.id}  {names_lib.printable(hit.path)}'
      )
  if shown is not None:
    lines = searching.to_lines(
      embeddings, shown, queries=queries, answers=answers[:most]
    )
    _write_sheet(embeddings, view, lines, left_out=len(answers) - len(lines))
    shown.warn()


def _write_sheet(
  embeddings: EmbeddingSet,
  view: views.View,
  lines: list[sheets.Line],
  *,
  left_out: int,
) -> None:
  name = embeddings.name
  framed = embeddings.identity.num_classes and _ROWS.value
  path = str(_OUT.value)
  sheets.write(
    path,
    f'Nearest of {len(embeddings):,} pictures',
    f'First the query, then the pictures of {name} with the largest '
    f'{"cosine" if view.metric == "cosine" else "inner product"} of '
    f'{view.output}, under each its value.'
    + (' Blue: the same class; orange: another.' if framed else ''),
    lines=lines,
  )
  more = f' (without the last {left_out} queries)' if left_out else ''
  print(f'-> {path}{more}', file=sys.stderr)


def _evaluate(embeddings: EmbeddingSet) -> None:
  queries = embeddings
  if _QUERIES.value:
    queries = EmbeddingSet(pathlib.Path(_QUERIES.value))
  ks = tuple(_integers('ks', _KS.value))
  if not ks or min(ks) < 1:
    raise ValueError(f'--ks={",".join(_KS.value)}: numbers from 1 are wanted')
  rows = judging.judge(
    embeddings,
    queries,
    ks=ks,
    max_queries=_MAX_QUERIES.value,
    transform_names=[_TRANSFORM.value] if _TRANSFORM.value else [],
  )
  report = judging.to_json(embeddings, queries, rows=rows)
  print(judging.table(rows), flush=True)
  if _INDEX.value != 'exact':
    view, index = _open(embeddings)
    found = judging.judge_index(
      embeddings, queries, view, index, max_queries=_MAX_QUERIES.value
    )
    report['index'] = {'kind': _INDEX.value, 'view': view.name, **found}
    print(
      f'{_INDEX.value} ({view.name}) finds '
      + ', '.join(
        f'{value:.1%} of the true {name.rsplit("_", 1)[1]}'
        for name, value in found.items()
        if name.startswith('recall')
      )
    )
  if _OUT.value:
    path = pathlib.Path(_OUT.value)
    atomic.write_json(path, report)
    print(f'-> {path}', file=sys.stderr)


def _integers(name: str, values: list[str]) -> list[int]:
  wrong = [v for v in values if not v.strip().isdecimal() or len(v) > 18]
  if wrong:
    raise ValueError(f'--{name}: {wrong[0][:99]!r} is no whole number')
  return [int(value) for value in values]


if __name__ == '__main__':
  flag_errors.run(main, required=['embeddings'])
