"""What cannot be embedded, and sets that are damaged, foreign or misread."""

from __future__ import annotations

from collections.abc import Callable
import json
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simclr_jax.retrieval.embedding_set import EmbeddingSet
from tests.bad_inputs.images import png_bomb
from tests.bad_inputs.row import RUN, BuildFn, Row, picture, pictures
from tests.retrieval import fake_set

_N, _WIDTH = 24, 4
_H = np.random.default_rng(0).normal(size=(_N, _WIDTH)).astype(np.float32)
# Folder of the row -> its set was changed.
ChangeFn = Callable[[pathlib.Path], object]


def _embed(
  *arguments: str, given: str = '', out: str = 'e', checkpoint: str = ''
) -> BuildFn:
  """`embed` of four sound pictures; `given` is another --input."""

  def build(folder: pathlib.Path) -> list[str]:
    return [
      f'--checkpoint={checkpoint or folder.parent / RUN}',
      f'--input={given or pictures(folder)}',
      f'--out={out if ":" in out else folder / out}',
      '--loader=opencv',
      *(text.format(folder) for text in arguments),
    ]

  return build


def _embed_of(
  name: str, content: bytes | None = None, *arguments: str
) -> BuildFn:
  """`embed` of a folder that holds one file, or nothing."""

  def build(folder: pathlib.Path) -> list[str]:
    (folder / 'some').mkdir()
    if content is not None:
      (folder / 'some' / name).write_bytes(content)
    return _embed(*arguments, given=str(folder / 'some'))(folder)

  return build


def _embed_into(change: ChangeFn, *arguments: str) -> BuildFn:
  """`embed` into a folder that `change` has made, `folder`/e."""

  def build(folder: pathlib.Path) -> list[str]:
    (folder / 'e').mkdir()
    change(folder / 'e')
    return _embed(*arguments)(folder)

  return build


def _started(text: str) -> ChangeFn:
  return lambda out: (out / 'embedding_run.json').write_text(text)


def _of_others(out: pathlib.Path) -> None:
  made = fake_set.write(out, _H)
  identity = {'identity': made.identity.to_json()}
  (out / 'embedding_run.json').write_text(json.dumps(identity))


def _shut(path: pathlib.Path) -> None:
  path.chmod(0o500)


def _set(
  folder: pathlib.Path, name: str = 'e', **changes: object
) -> EmbeddingSet:
  """A sound set of 24 vectors in three files, of pictures that are there."""
  base = folder / 'pictures'
  if not base.exists():
    base.mkdir()
    for i in range(_N):
      (base / f'{i}.jpg').write_bytes(picture('JPEG', seed=i))
  about = {
    'input': {'name': 'pictures', 'base': str(base)},
    'encoder': {'checkpoint': str(folder.parent / RUN), 'step': 3},
  }
  options = {'shard_rows': 10, 'about': about, **changes}
  h = options.pop('h', _H)
  return fake_set.write(folder / name, h, **options)


def _on(
  *arguments: str, change: ChangeFn = lambda out: None, **changes: object
) -> BuildFn:
  """`search` or `duplicates` of a set that `change` has damaged."""

  def build(folder: pathlib.Path) -> list[str]:
    _set(folder, **changes)
    change(folder / 'e')
    texts = [text.format(folder) for text in arguments]
    return [f'--embeddings={folder / "e"}', *texts]

  return build


def _stated(**values: object) -> ChangeFn:
  """Other entries in embeddings.json."""

  def change(out: pathlib.Path) -> None:
    file = out / 'embeddings.json'
    file.write_text(json.dumps(json.loads(file.read_text()) | values))

  return change


def _identified(**values: object) -> ChangeFn:
  """Another identity in embeddings.json."""

  def change(out: pathlib.Path) -> None:
    identity = json.loads((out / 'embeddings.json').read_text())['identity']
    _stated(identity=identity | values)(out)

  return change


def _part(out: pathlib.Path, shard: int = 1) -> pathlib.Path:
  return out / f'part-{shard:05d}-of-00003.parquet'


def _cut(out: pathlib.Path) -> None:
  whole = _part(out).read_bytes()
  _part(out).write_bytes(whole[: len(whole) // 2])


def _rewritten(change: Callable[[pa.Table], pa.Table]) -> ChangeFn:
  """A file that another program has written anew, with all its metadata."""

  def write(out: pathlib.Path) -> None:
    path = _part(out)
    with pq.ParquetFile(path) as file:
      table, stated = file.read(), file.metadata.metadata
    table = change(table)
    kept = {k: v for k, v in stated.items() if k.startswith(b'simclr_jax')}
    pq.write_table(table.replace_schema_metadata(kept), path)

  return write


def _column(name: str, values: pa.Array) -> ChangeFn:
  def change(table: pa.Table) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)

  return _rewritten(change)


def _vectors(rows: np.ndarray) -> pa.Array:
  """As `embed` writes them."""
  number = pa.from_numpy_dtype(rows.dtype)
  kind = pa.list_(pa.field('element', number), rows.shape[1])
  return pa.FixedSizeListArray.from_arrays(
    pa.array(rows.reshape(-1)), type=kind
  )


def _with(value: float) -> np.ndarray:
  rows = _H[10:20].copy()
  rows[3, 2] = value
  return rows


def _mixed(out: pathlib.Path) -> None:
  other = _set(out.parent, 'other', space='another checkpoint')
  _part(out).write_bytes(_part(other.folder).read_bytes())


def _swapped(out: pathlib.Path) -> None:
  first, second = _part(out, 0).read_bytes(), _part(out, 1).read_bytes()
  _part(out, 0).write_bytes(second)
  _part(out, 1).write_bytes(first)


def _paths(path: str) -> ChangeFn:
  return _column('path', pa.array([path] * 10))


def _query(name: str, content: bytes) -> BuildFn:
  def build(folder: pathlib.Path) -> list[str]:
    (folder / name).write_bytes(content)
    return _on('--query={}/' + name)(folder)

  return build


def _against(*arguments: str, **changes: object) -> BuildFn:
  """`search --evaluate` with the pictures of another set."""

  def build(folder: pathlib.Path) -> list[str]:
    _set(folder, 'other', **{'labels': _LABELS, 'source': 'q', **changes})
    return _on('--evaluate', '--queries={}/other', *arguments, labels=_LABELS)(
      folder
    )

  return build


def _file(name: str, content: str = '') -> ChangeFn:
  """A file in the folder of the set."""

  def change(out: pathlib.Path) -> None:
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text(content)

  return change


def _moved_pictures(out: pathlib.Path) -> None:
  (out.parent / 'pictures').rename(out.parent / 'elsewhere')


_LABELS = np.arange(_N) % 3
_ID = '--rows=3'

_EMBED = {
  'no checkpoint': (_embed(checkpoint='nowhere'), 'no checkpoint in .*nowhere'),
  'empty checkpoint': (_embed('--checkpoint='), '--checkpoint= is empty'),
  'no step': (_embed('--step=99'), 'no checkpoint .*99|step 99'),
  'step is no number': (_embed('--step=newest'), '--step=newest: a number or'),
  'unknown argument': (_embed('pictures'), 'unknown arguments pictures'),
  'empty input': (_embed('--input='), '--input= is empty'),
  'no input': (_embed(given='/nowhere/x'), 'is no file or folder'),
  'no pictures': (_embed_of(''), 'holds neither pictures'),
  'only a text': (_embed_of('x.txt', b'text'), 'holds neither pictures'),
  'a broken picture': (_embed_of('x.jpg', b'\xff\xd8'), 'no picture that can'),
  'a picture bomb': (_embed_of('x.png', png_bomb()), 'no picture that can'),
  'damaged arrays': (
    _embed_of('x.npz', b'PK', '--split=train'),
    r'x\.npz (is|cannot be)',
  ),
  'no split': (_embed(given='digits'), '--split is empty'),
  'no such folder split': (_embed('--split=x'), 'is not a folder'),
  'nothing of a split': (_embed('--split=[:0%]'), r"split '\[:0%\]'|\[:0%\]"),
  'outputs': (_embed('--outputs=h,x'), 'some of h, z'),
  'an output twice': (_embed('--outputs=h,h'), 'each once'),
  'no outputs': (_embed('--outputs='), 'some of h, z'),
  'dtype': (_embed('--dtype=float64'), 'dtype=float64'),
  'no shard rows': (_embed('--shard_rows=0'), '--shard_rows=0: a number'),
  'no batch': (_embed('--batch_size=-1'), 'batch_size = -1|batch_size=-1'),
  'labels of no folders': (
    _embed('--labels_from=folders'),
    'lie directly in .*have no class',
  ),
  'folder labels of digits': (
    _embed('--labels_from=folders', '--split=train', given='digits'),
    '--labels_from=folders is for --input of the kind folder',
  ),
  'label column of a folder': (
    _embed('--label_key=class'),
    '--label_key=class is for --input of the kind tfds or parquet',
  ),
  'data_dir of a folder': (
    _embed('--data_dir=/data'),
    '--data_dir=/data is for --input of the kind tfds',
  ),
  'loader': (_embed('--loader=pil'), 'loader=pil'),
  'out is a file': (_embed(out='pictures/0.png'), 'is a file, not a folder'),
  'out in the pictures': (_embed(out='pictures/e'), 'would be among its files'),
  'out with other files': (
    _embed_into(lambda out: (out / 'thesis.tex').write_text('')),
    r"is not empty and holds no embeddings \(\['thesis.tex'\]\)",
  ),
  'remote out': (_embed(out='gs://b/e'), 'must be a local or mounted folder'),
  'empty out': (_embed('--out='), '--out= is empty'),
  'add to nothing': (_embed('--add'), 'holds no embeddings'),
  'add to a data set': (
    _embed('--add', '--split=train', given='digits'),
    '--add: digits has no pictures that come and go',
  ),
  'started is no JSON': (
    _embed_into(_started('{')),
    r'embedding_run\.json is damaged',
  ),
  'started by a newer version': (
    _embed_into(
      _started(
        json.dumps(
          {
            'identity': dict.fromkeys(
              'space source num_examples dims dtype normalized num_classes '
              'shard_rows'.split()
            )
            | {'format': 9}
          }
        )
      )
    ),
    'has format 9, this simclr_jax reads 1',
  ),
  'another checkpoint': (
    _embed_into(_of_others),
    'holds embeddings of something else(.|\n)*another checkpoint',
  ),
  'another dtype': (
    _embed_into(_of_others, '--dtype=float16'),
    'dtype: float32 -> float16',
  ),
}

# What both commands find in a set, whatever they are asked.
_SETS = {
  'no set': (_on('--embeddings={}/nowhere'), 'holds no embeddings'),
  'a set of nothing': (_on('--embeddings='), '--embeddings= is empty'),
  'a file as set': (
    _on('--embeddings={}/pictures/1.jpg'),
    'holds no embeddings',
  ),
  'an unfinished set': (
    _on(
      change=lambda out: (out / 'embeddings.json').rename(
        out / 'embedding_run.json'
      )
    ),
    'is not finished: the same simclr_jax.embed command continues',
  ),
  'a file cut off': (_on(change=_cut), 'is damaged, cut off or no Parquet'),
  'a file missing': (
    _on(change=lambda out: _part(out).unlink()),
    r'part-00001-of-00003\.parquet (is missing|cannot be opened)',
  ),
  'a column missing': (
    _on(change=_rewritten(lambda table: table.drop_columns(['path']))),
    'has other columns than its description says',
  ),
  'a column of another type': (
    _on(change=_column('h', _vectors(_H[10:20].astype(np.float64)))),
    'has other columns than its description says',
  ),
  'another width': (
    _on(change=_column('h', _vectors(_H[10:20, :3].copy()))),
    'has other columns than its description says',
  ),
  'not a number': (
    _on(change=_column('h', _vectors(_with(np.nan)))),
    "column 'h' holds numbers that are not finite",
  ),
  'infinite': (
    _on(change=_column('h', _vectors(_with(np.inf)))),
    "column 'h' holds numbers that are not finite",
  ),
  'missing names': (
    _on(change=_column('path', pa.array([None] * 10, pa.string()))),
    "column 'path' has missing values",
  ),
  'an id twice': (
    _on(change=_column('id', pa.array([10, *range(10, 19)]))),
    'its ids do not rise',
  ),
  'ids of other pictures': (
    _on(change=_column('id', pa.array(range(90, 100)))),
    'its ids are not those of its file',
  ),
  'labels that are no class': (
    _on(change=_column('label', pa.array([7] * 10)), labels=_LABELS),
    "column 'label' holds 7, but there are 3 classes",
  ),
  'files of two checkpoints': (_on(change=_mixed), 'a shard of other embed'),
  'two files swapped': (_on(change=_swapped), 'a shard of other embeddings'),
  'rewritten without metadata': (
    _on(
      change=lambda out: pq.write_table(
        pq.read_table(_part(out)).replace_schema_metadata(None), _part(out)
      )
    ),
    'is no shard of embeddings',
  ),
  'a description that is no JSON': (
    _on(change=_file('embeddings.json', '{')),
    r'embeddings\.json is damaged',
  ),
  'a description without identity': (
    _on(change=_stated(identity=3)),
    'is no description of embeddings',
  ),
  'a newer version': (_on(change=_identified(format=9)), 'has format 9, this'),
  'an absurd width': (
    _on(change=_identified(dims={'h': 2**39})),
    'a shard of other embeddings',
  ),
  'an unknown output': (
    _on(change=_identified(dims={'y': 4})),
    'the description of the embeddings is damaged',
  ),
  'no output': (
    _on(change=_identified(dims={})),
    'the description of the embeddings is damaged',
  ),
  'other counts': (
    _on(change=_stated(rows_of_shards=[10, 9, 4])),
    r'has other rows than embeddings\.json says',
  ),
  'one count': (
    _on(change=_stated(rows_of_shards=[24])),
    'rows_of_shards is damaged',
  ),
  'unknown argument': (_on('a.jpg'), 'unknown arguments a.jpg'),
  'unknown index': (_on('--index=hnws'), "did you mean 'hnsw'"),
  'unknown transform': (_on('--transform=pac:3'), "did you mean 'pca'"),
  'a transform without width': (_on('--transform=pca'), 'a width is wanted'),
  'a transform of no width': (_on('--transform=pca:0'), 'a width is wanted'),
  'a transform too wide': (_on('--transform=pca:9'), 'carry variance'),
  'a damaged transform': (
    _on(
      '--transform=pca:3',
      change=_file('transforms/h-cosine-pca3.npz', 'no array'),
    ),
    'is no transform',
  ),
  'an output that is not there': (
    _on('--output=z'),
    "holds h, not 'z'; embed again with --outputs=h,z",
  ),
  'no k': (_on('--k=0'), '--k=0'),
  'k is no number': (_on('--k=many'), '--k=many'),
}

_SEARCH = {
  'a name outside': (_on('--rows=24'), r'id 24 is not in .*: ids are 0 to 23'),
  'a negative row': (_on('--rows=-1'), "--rows: '-1' is no whole number"),
  'a row that is no number': (_on('--rows=x'), "--rows: 'x' is no whole"),
  'no rows': (_on('--rows='), '--rows= is empty'),
  'no query': (_on('--query='), '--query= is empty'),
  'a query missing': (_on('--query=/nowhere.jpg'), '/nowhere.jpg cannot be'),
  'a query between commas': (_on('--query=a.jpg,,'), 'between two commas'),
  'a query that is no picture': (_query('x.jpg', b'text'), 'x.jpg cannot be'),
  'a query cut off': (
    _query('x.png', picture()[:60]),
    'x.png cannot be read: ',
  ),
  'a bomb as query': (_query('x.png', png_bomb()), 'x.png cannot be read: .*'),
  'a device as query': (_on('--query=/dev/zero'), 'it is no file'),
  'a folder without pictures': (_on('--query={}/e'), 'has no pictures in it'),
  'pictures and rows': (
    _on('--query={}/pictures/1.jpg', _ID),
    '--query and --rows exclude each other',
  ),
  'the encoder is gone': (
    _on(
      '--query={}/pictures/1.jpg',
      change=_stated(encoder={'checkpoint': '/nowhere', 'step': 3}),
    ),
    'no checkpoint 3 in /nowhere(.|\n)*say where it is with --checkpoint',
  ),
  'the encoder is not stated': (
    _on('--query={}/pictures/1.jpg', change=_stated(encoder=3)),
    'does not say which checkpoint.*--checkpoint',
  ),
  'another encoder': (
    _on('--query={}/pictures/1.jpg'),
    'is not the encoder that made .*vectors of two encoders',
  ),
  'a checkpoint for rows': (_on('--checkpoint=x', _ID), 'is for --query'),
  'no metric': (_on('--metric=l2', _ID), '--metric=l2'),
  'probes of no ivf': (_on('--num_probes=3', _ID), 'is for --index=ivf'),
  'candidates of no hnsw': (
    _on('--ef_search=3', '--index=ivf', _ID),
    'is for --index=hnsw, not ivf',
  ),
  'rebuild nothing': (_on('--rebuild', _ID), 'is for --index=ivf or hnsw'),
  'negative probes': (_on('--index=ivf', '--num_probes=-1'), 'num_probes=-1'),
  'sheet of another kind': (_on('--out=a.gif', _ID), 'ends in .png or .html'),
  'sheet of nothing': (_on('--out={}/a.png'), 'needs something to search with'),
  'sheet is a folder': (
    _on('--out={}/e/a.png', _ID, change=lambda out: (out / 'a.png').mkdir()),
    'is a folder; name a file',
  ),
  'sheet below a file': (
    _on('--out={}/pictures/1.jpg/a.png', _ID),
    'is no folder; name another file',
  ),
  'remote sheet': (_on('--out=gs://b/a.png', _ID), 'local or mounted file'),
  'pictures for no sheet': (
    _on('--pictures=x', _ID),
    '--pictures is for --out',
  ),
  'pictures elsewhere': (
    _on('--out={}/a.png', _ID, change=_moved_pictures),
    'which is no folder; say with --pictures',
  ),
  'no labels': (_on('--evaluate'), 'has no labels to judge by'),
  'judge by pictures': (_on('--evaluate', _ID), 'takes no --query, no --rows'),
  'judge at k': (_on('--evaluate', '--k=3'), '--evaluate takes no .*--k'),
  'judge one metric': (
    _on('--evaluate', '--metric=dot'),
    '--evaluate judges every output and metric',
  ),
  'judge into a sheet': (_on('--evaluate', '--out=a.png'), 'writes a .json'),
  'judge into a folder': (
    _on(
      '--evaluate',
      '--out={}/e/a.json',
      change=lambda out: (out / 'a.json').mkdir(),
    ),
    'is a folder; name a file',
  ),
  'judge nothing': (
    _on('--evaluate', '--max_queries=0', labels=_LABELS),
    '--max_queries=0',
  ),
  'no cut-offs': (_on('--evaluate', '--ks=', labels=_LABELS), '--ks='),
  'cut-off of zero': (_on('--evaluate', '--ks=0', labels=_LABELS), '--ks=0'),
  'cut-off is no number': (
    _on('--evaluate', '--ks=all', labels=_LABELS),
    "--ks: 'all' is no whole number",
  ),
  'cut-offs of a search': (_on('--ks=3', _ID), '--ks is for --evaluate'),
  'queries of a search': (_on('--queries=x', _ID), '--queries is for --eval'),
  'queries that are no set': (
    _against('--queries=/nowhere'),
    '/nowhere holds no embeddings',
  ),
  'queries without labels': (_against(labels=None), 'has no labels to judge'),
  'queries of another encoder': (
    _against(space='other'),
    'were made by different checkpoints',
  ),
  'queries of another width': (
    _against(h=_H[:, :3].copy()),
    "differ in dims: {'h': 4}, {'h': 3}",
  ),
  'queries of other classes': (
    _against(labels=_LABELS % 2),
    'differ in num_classes: 3, 2',
  ),
  'queries are the set': (_against(source='a source'), 'the same pictures'),
}

_DUPLICATES = {
  'threshold above one': (_on('--threshold=2'), r'a cosine in \(-1, 1\]'),
  'threshold of minus one': (_on('--threshold=-1'), r'a cosine in \(-1, 1\]'),
  'threshold is no number': (_on('--threshold=nan'), r'a cosine in \(-1, 1\]'),
  'threshold is a word': (_on('--threshold=high'), '--threshold=high'),
  'out is no JSON': (_on('--out=x.txt'), 'a .json is wanted'),
  'out below a file': (
    _on('--out={}/pictures/1.jpg/x.json'),
    '--out=.* is no folder; name another file',
  ),
  'remote out': (_on('--out=gs://b/x.json'), 'local or mounted file'),
  'sheet of another kind': (_on('--sheet=a.gif'), '--sheet=a.gif: a file that'),
  'pictures for nothing': (
    _on('--bytes=false', '--pictures=x'),
    '--pictures is for --bytes and --sheet',
  ),
  'pictures elsewhere': (
    _on(change=_moved_pictures),
    'which is no folder; say with --pictures',
  ),
  'no folder of pictures': (_on('--pictures=/nowhere'), 'not in /nowhere'),
  'names outside': (
    _on('--threshold=-0.99', change=_paths('../../run/checkpoints/3/passport')),
    'cannot be read any more: .* is not in ',
  ),
  'a picture is gone': (
    _on(
      '--threshold=-0.99',
      change=lambda out: (out.parent / 'pictures' / '7.jpg').unlink(),
    ),
    '7.jpg cannot be read any more',
  ),
}


_OF_BOTH = (
  'no set',
  'an unfinished set',
  'a file cut off',
  'not a number',
  'files of two checkpoints',
  'a newer version',
  'unknown index',
  'a transform too wide',
  'no k',
)


def _rows(
  command: str, cases: dict[str, tuple[BuildFn, str]], *arguments: str
) -> list[Row]:
  """A row for each case, with further arguments in front."""
  return [
    Row(
      f'{command}: {name}',
      command,
      lambda folder, build=build: [*arguments, *build(folder)],
      says,
    )
    for name, (build, says) in cases.items()
  ]


ROWS = [
  *_rows('embed', _EMBED),
  Row(
    'embed: out where nobody may write',
    'embed',
    _embed_into(_shut, '--out={}/e/new'),
    'Permission denied',
    code=1,
    unprivileged=True,
  ),
  # The last of two equal flags counts. Row 13 is of the file that is damaged.
  *_rows('search', _SETS, '--rows=13'),
  *_rows('search', _SEARCH),
  Row(
    'search: nothing is wrong',
    'search',
    _on('--rows=3,23', '--k=100'),
    r'3\.jpg(.|\n)*the 23 others',
    code=0,
  ),
  Row(
    'search: names outside',
    'search',
    _on('--rows=1', '--k=9', '--out={}/a.png', change=_paths('../secret.png')),
    'pictures could not be read .*they are grey',
    code=0,
  ),
  Row(
    'search: a sheet where nobody may write',
    'search',
    _on('--out={}/e/a.png', _ID, change=_shut),
    'is not writable; name another file',
    unprivileged=True,
  ),
  Row(
    'search: a set where nobody may write',
    'search',
    _on('--transform=pca:2', _ID, change=_shut),
    'Permission denied',
    code=1,
    unprivileged=True,
  ),
  # The same reader: a few of each kind are enough.
  *_rows('duplicates', {name: _SETS[name] for name in _OF_BOTH}),
  *_rows('duplicates', _DUPLICATES),
  Row(
    'duplicates: nothing is wrong',
    'duplicates',
    _on('--k=100'),
    '24 pictures, 0 groups',
    code=0,
  ),
]
