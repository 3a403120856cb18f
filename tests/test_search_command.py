"""embed, search and duplicates as the shell runs them, on real pictures."""

import io
import json
import re
import shutil

import numpy as np
from PIL import Image
import pytest
from sklearn import datasets

from simclr_jax.retrieval import pictures, searching
from simclr_jax.retrieval.embedding_set import EmbeddingSet
from tests import command_server, small_run


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Crops of two photographs by class, copies of some, and a broken file."""
  root = tmp_path_factory.mktemp('pictures')
  for name in ('china', 'flower'):
    (root / name).mkdir()
    picture = Image.fromarray(datasets.load_sample_image(f'{name}.jpg'))
    for i in range(8):
      x, y = 60 * i, 25 * i
      crop = picture.crop((x, y, x + 200, y + 180))
      crop.save(root / name / f'{i}.png')
  shutil.copy(root / 'china/0.png', root / 'flower/copy.png')
  # The same picture, other bytes.
  Image.open(root / 'china/5.png').save(root / 'flower/saved.jpg', quality=97)
  (root / 'china/broken.png').write_bytes(b'\x89PNG\r\n\x1a\n')
  return root


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  with command_server.Server({}) as server:
    place = tmp_path_factory.mktemp('place')

    def call(module, *arguments, code=0):
      done = server.run(module, arguments, cwd=place, tensorflow=False)
      assert done.code == code, done.err
      assert 'Traceback' not in done.err
      return done

    yield call


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  path = tmp_path_factory.mktemp('run')
  small_run.save_small_run(path)
  return path


@pytest.fixture(scope='module')
def embedded(run, folder, workdir, tmp_path_factory):
  out = tmp_path_factory.mktemp('embedded') / 'e'
  done = run(
    'embed',
    f'--checkpoint={workdir}',
    f'--input={folder}',
    f'--out={out}',
    '--outputs=h,z',
    '--labels_from=folders',
    '--loader=opencv',
  )
  assert '18 embeddings of h, z' in done.out
  assert '1 pictures could not be read' in done.out
  return out


def test_a_picture_finds_itself_on_a_page(run, embedded, folder, tmp_path):
  page = tmp_path / 'found.html'
  done = run(
    'search',
    f'--embeddings={embedded}',
    f'--query={folder}/flower/3.png,{folder}/china/5.png',
    '--k=3',
    f'--out={page}',
    '--loader=opencv',
  )
  lines = done.out.splitlines()
  assert len(lines) == 8
  for at, name in ((1, 'flower/3.png'), (5, 'china/5.png')):
    similarity, _, path = lines[at].split()
    assert path == name and float(similarity) == pytest.approx(1, abs=1e-4)
  text = page.read_text()
  assert text.count('<figure') == 8
  # Nothing is fetched, and every picture is there.
  assert set(re.findall(r'(?:src|href)="(\w+):', text)) == {'data'}


def test_rows_on_a_contact_sheet(run, embedded, tmp_path):
  sheet = tmp_path / 'found.png'
  done = run(
    'search',
    f'--embeddings={embedded}',
    '--rows=0,11',
    '--k=4',
    '--transform=pca:3',
    f'--out={sheet}',
  )
  # Itself is not among what is found.
  assert done.out.splitlines()[0] == 'china/0.png'
  assert 'china/0.png' not in '\n'.join(done.out.splitlines()[1:5])
  with Image.open(io.BytesIO(sheet.read_bytes())) as image:
    pixels = np.asarray(image.convert('RGB'))
  assert pixels.shape[1] > 5 * 128 and pixels.std() > 20
  for frame in ((37, 99, 235), (217, 115, 13)):
    assert (pixels == frame).all(-1).any()


def test_thumbnails_are_made_of_what_is_drawn_alone(embedded):
  embeddings = EmbeddingSet(embedded)
  shown = pictures.SetPictures(embeddings)
  found = searching.queries_from_rows(
    [0, 5, 11], embeddings, output='h', shown=shown, num_shown=2
  )
  assert len(found.names) == 3 and len(found.images) == 2
  answers = [[searching.Hit(1, 1, 'x', 0, 0.5)]] * 2
  lines = searching.to_lines(embeddings, shown, queries=found, answers=answers)
  assert [len(line.tiles) for line in lines] == [2, 2]


def test_more_queries_than_a_sheet_has_lines(run, embedded, tmp_path):
  sheet = tmp_path / 'found.png'
  rows = ','.join(['0'] * 42)
  done = run(
    'search',
    f'--embeddings={embedded}',
    f'--rows={rows}',
    '--k=1',
    f'--out={sheet}',
  )
  assert 'without the last 2 queries' in done.err and sheet.exists()
  assert len(done.out.splitlines()) == 84


def test_evaluation_and_an_approximate_index(run, embedded, tmp_path):
  out = tmp_path / 'new' / 'result.json'
  done = run(
    'search',
    f'--embeddings={embedded}',
    '--evaluate',
    '--index=hnsw',
    f'--out={out}',
  )
  # Which libraries FAISS tried is nobody's concern.
  assert 'Could not load' not in done.err and 'faiss' not in done.err
  report = json.loads(out.read_text())
  assert [(row['output'], row['compared']) for row in report['rows']] == [
    ('h', 'raw'),
    ('h', 'normalised'),
    ('z', 'raw'),
    ('z', 'normalised'),
  ]
  assert report['index']['recall_of_true_10'] > 0.9
  for row in report['rows']:
    assert f'{row["ranking"]["map"]:.1%}' in done.out


def test_copies(run, embedded, tmp_path):
  out, sheet = tmp_path / 'found.json', tmp_path / 'found.png'
  run(
    'duplicates',
    f'--embeddings={embedded}',
    f'--out={out}',
    f'--sheet={sheet}',
    '--transform=pca:6',
    '--threshold=0.9985',
  )
  report = json.loads(out.read_text())
  by_first = {group['paths'][0]: group for group in report['groups']}
  assert by_first['china/0.png']['paths'][-1] == 'flower/copy.png'
  copies = by_first['china/0.png']
  assert copies['identical'] == [[copies['ids'][0], copies['ids'][-1]]]
  (saved,) = (g for g in report['groups'] if 'flower/saved.jpg' in g['paths'])
  assert 'china/5.png' in saved['paths'] and saved['identical'] == []
  assert report['num_identical'] == 1
  assert sheet.stat().st_size > 10_000


def test_vectors_of_another_checkpoint_are_refused(
  run, embedded, folder, tmp_path
):
  other = tmp_path / 'other'
  small_run.save_small_run(other, steps=(4,))
  done = run(
    'search',
    f'--embeddings={embedded}',
    f'--query={folder}/flower/3.png',
    f'--checkpoint={other / "checkpoints" / "4"}',
    '--loader=opencv',
    code=2,
  )
  assert done.err.strip().splitlines()[-1].startswith('error: ')
  assert 'is not the encoder that made' in done.err
