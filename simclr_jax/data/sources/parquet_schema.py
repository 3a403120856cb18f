"""Which columns of a Parquet file hold image, label and name, and the classes.

Hugging Face writes its feature types into the schema's metadata, as JSON under
the key 'huggingface': {'info': {'features': {'label': {'_type': 'ClassLabel',
'names': [...]}, 'image': {'_type': 'Image'}}}}. What `simclr_jax.prepare`
writes beside it under 'simclr_jax' says that the pictures have been checked,
how many there are, and that `id` names them.
"""

from __future__ import annotations

import difflib
import importlib
import json
from typing import Any, NamedTuple
import unicodedata

from simclr_jax import config as config_lib
from simclr_jax import retries
from simclr_jax.data.source import MAX_CLASSES

METADATA_KEY = b'simclr_jax'
PICTURES_KEY = b'simclr_jax_pictures'  # Of a file: their digest.
HUGGING_FACE_KEY = b'huggingface'
ID_COLUMN = 'id'
_DEFAULTS = config_lib.DataConfig()
_GIT_LFS = b'version https://git-lfs'


class Columns(NamedTuple):
  """What is read of a file.

  Attributes:
    image: Column of the images.
    nested: Whether it is struct<bytes, path>, else plain bytes.
    label: Column of the labels; '' for none.
    id: Column of names that are unique in the whole data set; '' for none.
    class_names: One per class, or empty where the schema has none.
    num_classes: As the file promises; 0 where it does not.
    num_examples: Rows of the whole split, as promised; 0 where not.
    checked: Every picture was decoded when it was written, and is read as it
      is: the source that it came from had made it plain where it had to be. The
      digest in the file's metadata says which pictures those were.
  """

  image: str
  nested: bool
  label: str
  id: str
  class_names: tuple[str, ...]
  num_classes: int
  num_examples: int
  checked: bool


def pyarrow(name: str = 'pyarrow') -> Any:
  """The module, imported on first use: only Parquet files cost its time.

  Raises:
    ValueError: If it is not installed.
  """
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise ValueError(
      f'Parquet files need pyarrow, which cannot be imported ({error}): '
      'pip install pyarrow'
    ) from error


def open_file(path: str) -> Any:
  """pyarrow.parquet.ParquetFile, which checks what checksums there are.

  Raises:
    ValueError: If it is no whole Parquet file.
  """
  parquet = pyarrow('pyarrow.parquet')
  try:
    # Without read-ahead of whole row groups: one may be larger than memory.
    return parquet.ParquetFile(
      path, page_checksum_verification=True, pre_buffer=False
    )
  except (OSError, pyarrow().ArrowException) as error:
    check_content(error, path)
    raise ValueError(f'{path} {_why_unreadable(path, error)}') from error


def check_content(error: Exception, path: str) -> None:
  """Raises an error of pyarrow anew if the system refused to read."""
  if isinstance(error, OSError) and retries.may_pass(error):
    raise retries.naming(error, path)


def _why_unreadable(path: str, error: Exception) -> str:
  try:
    with open(path, 'rb') as file:
      if file.read(len(_GIT_LFS)) == _GIT_LFS:
        return 'is a pointer of Git LFS, not the file: run `git lfs pull`'
  except OSError:
    return f'cannot be opened: {error}'
  return f'is damaged, cut off or no Parquet file: {error}'


def find_columns(
  file: Any, path: str, *, data: config_lib.DataConfig
) -> Columns:
  """Columns of an open file.

  Raises:
    ValueError: If the image or label column is missing or of a type that is
      none.
  """
  schema, in_file = file.schema_arrow, file.metadata.metadata or {}
  features = _features(schema, path)
  ours = _metadata(schema, METADATA_KEY, path)
  image, nested = _find_image(schema, path, data=data)
  label = _find_label(schema, features, path, data=data)
  names = _class_names(features.get(label, {}), path)
  return Columns(
    image=image,
    nested=nested,
    label=label,
    id=ID_COLUMN if ours and ID_COLUMN in schema.names else '',
    class_names=names,
    num_classes=len(names)
    or (_count(ours, 'num_classes', path, most=MAX_CLASSES) if label else 0),
    num_examples=_count(ours, 'num_examples', path),
    # A program that writes the file anew drops its digest.
    checked=bool(ours.get('checked')) and PICTURES_KEY in in_file,
  )


def _metadata(schema: Any, key: bytes, path: str) -> dict[str, Any]:
  text = (schema.metadata or {}).get(key)
  if text is None:
    return {}
  try:
    value = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise ValueError(
      f'{path}: the metadata {key.decode()!r} of the schema is no JSON: {error}'
    ) from error
  return value if isinstance(value, dict) else {}


def _features(schema: Any, path: str) -> dict[str, dict[str, Any]]:
  """Hugging Face's feature of each column that is a class label."""
  features: Any = _metadata(schema, HUGGING_FACE_KEY, path)
  for key in ('info', 'features'):
    features = features.get(key) or {}
    if not isinstance(features, dict):
      raise ValueError(
        f"{path}: {key!r} in the metadata 'huggingface' of the schema is no "
        f'JSON object: {str(features)[:99]}'
      )
  return {
    name: feature
    for name, feature in features.items()
    if isinstance(feature, dict) and feature.get('_type') == 'ClassLabel'
  }


def _class_names(feature: dict[str, Any], path: str) -> tuple[str, ...]:
  names = feature.get('names') or []
  if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
    raise ValueError(
      f"{path}: the class names in the metadata 'huggingface' of the schema "
      f'are no list of texts: {str(names)[:99]}'
    )
  # In one of the forms that look alike, as folder_classes.py has them.
  return tuple(unicodedata.normalize('NFC', name) for name in names)


def _count(
  ours: dict[str, Any], key: str, path: str, *, most: int = 2**62
) -> int:
  value = ours.get(key, 0)
  if not isinstance(value, int) or not 0 <= value <= most:
    raise ValueError(
      f"{path}: {key!r} in the metadata 'simclr_jax' of the schema is "
      f'{str(value)[:99]}; must be 0 to {most}'
    )
  return value


def _find_image(
  schema: Any, path: str, *, data: config_lib.DataConfig
) -> tuple[str, bool]:
  name = data.image_key
  if name not in schema.names:
    # Data sets of the Hub call it the one or the other.
    if name == _DEFAULTS.image_key and 'img' in schema.names:
      name = 'img'
    else:
      _fail_missing(schema, path, field='image_key', key=name)
  kind = schema.field(name).type
  types = pyarrow().types
  if types.is_struct(kind):
    fields = {kind.field(i).name: kind.field(i).type for i in range(len(kind))}
    if 'bytes' in fields and _is_bytes(fields['bytes']):
      return name, True
  elif _is_bytes(kind):
    return name, False
  raise ValueError(
    f'{path}: config.data.image_key = {name!r} is {kind}; images must be '
    'encoded pictures (JPEG, PNG, ...) as struct<bytes: binary, path: string> '
    'or binary'
  )


def _is_bytes(kind: Any) -> bool:
  types = pyarrow().types
  return types.is_binary(kind) or types.is_large_binary(kind)


def _find_label(
  schema: Any,
  features: dict[str, dict[str, Any]],
  path: str,
  *,
  data: config_lib.DataConfig,
) -> str:
  name = data.label_key
  if not name:
    return ''
  if name not in schema.names:
    others = [n for n in schema.names if n in features or 'label' in n.lower()]
    # The default may be absent where nothing else looks like a label.
    if name != _DEFAULTS.label_key or others:
      _fail_missing(schema, path, field='label_key', key=name)
    return ''
  kind = schema.field(name).type
  if not pyarrow().types.is_integer(kind):
    raise ValueError(
      f'{path}: config.data.label_key = {name!r} is {kind}; labels must be '
      "integers from 0 (-1 for none); name another column, or '' for none"
    )
  return name


def _fail_missing(schema: Any, path: str, *, field: str, key: str) -> None:
  close = difflib.get_close_matches(key, schema.names, n=1)
  hint = f' (did you mean {close[0]!r}?)' if close else ''
  none = ", or '' for none" if field == 'label_key' else ''
  raise ValueError(
    f'{path}: config.data.{field} = {key!r} is not a column{hint}; its '
    f'columns: {", ".join(schema.names)}{none}'
  )
