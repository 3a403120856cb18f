"""Random access to TFRecord files through an index of (offset, length).

A record is: length (uint64), masked CRC-32C of those 8 bytes (uint32), the
data, masked CRC-32C of the data (uint32), all little-endian
(tensorflow/core/lib/io/record_writer.h). The index is built by walking from
header to header, without reading the data, and kept on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import os
import pathlib
import struct

from absl import logging
import numpy as np

from simclr_jax import retries
from simclr_jax.data import cache
from simclr_jax.data.lazy_tf import tf
from simclr_jax.data.progress import Progress

_HEADER_BYTES = 12
_FOOTER_BYTES = 4
_MASK_DELTA = 0xA282EAD8

# (offset, number of bytes) -> bytes, fewer at the end of the file.
ReadFn = Callable[[int, int], bytes]


@dataclasses.dataclass(frozen=True)
class Shard:
  """Where the records of one file lie.

  Attributes:
    path: Local or remote ('gs://...').
    size: Bytes.
    offsets: int64 [n], first byte of each record's data.
    lengths: int64 [n], bytes of each record's data.
  """

  path: str
  size: int
  offsets: np.ndarray
  lengths: np.ndarray


def load_or_build(
  paths: Sequence[str], *, cache_folder: pathlib.Path
) -> list[Shard]:
  """Index of each file, from the cache if names and stamps still agree.

  Args:
    paths: TFRecord files.
    cache_folder: Where indices are kept, one file for each set of paths.

  Raises:
    ValueError: If a file is missing, truncated or damaged; names the file.
  """
  stamps = [stamp(path) for path in paths]
  sizes = [size for size, *_ in stamps]
  key = hashlib.sha256()
  for path, stamped in zip(paths, stamps, strict=True):
    name = path if '://' in path else os.path.abspath(path)
    key.update(f'{name}\0{stamped}\0'.encode())
  kept = cache_folder / f'tfrecord_index_{key.hexdigest()[:32]}.npz'
  if (arrays := cache.load(kept)) is not None:
    stops = np.cumsum(arrays['counts'])[:-1]
    columns = (np.split(arrays[c], stops) for c in ('offsets', 'lengths'))
    return [Shard(*row) for row in zip(paths, sizes, *columns, strict=True)]
  shards = _build_all(paths, sizes)
  cache.save(
    kept,
    {
      'counts': np.array([len(s.offsets) for s in shards], np.int64),
      'offsets': np.concatenate([s.offsets for s in shards]),
      'lengths': np.concatenate([s.lengths for s in shards]),
    },
  )
  return shards


def _build_all(paths: Sequence[str], sizes: Sequence[int]) -> list[Shard]:
  """Walks files in parallel, with a line of progress now and then."""
  logging.info('Indexing %d TFRecord files (once)', len(paths))
  progress = Progress('Indexed', len(paths), unit='files')
  shards = []
  with concurrent.futures.ThreadPoolExecutor(16) as pool:
    for shard in pool.map(build, paths, sizes):
      shards.append(shard)
      progress.add(1)
  return shards


def build(path: str, size: int) -> Shard:
  """Index of one file of `size` bytes.

  Raises:
    ValueError: If a header's checksum is wrong or the file ends within a
      record.
  """
  offsets, lengths, checksums = [], [], []
  at = 0
  with _open(path) as read:
    while at < size:
      header = read(at, _HEADER_BYTES)
      if len(header) < _HEADER_BYTES:
        break
      length, checksum = struct.unpack('<QI', header)
      offsets.append(at + _HEADER_BYTES)
      lengths.append(length)
      checksums.append(checksum)
      at += _HEADER_BYTES + length + _FOOTER_BYTES
  # A damaged length leads astray: what is first wrong is what to report.
  wanted = np.array(lengths, np.uint64)
  wrong = _masked_crc32c(wanted) != np.array(checksums, np.uint32)
  if wrong.any():
    record = int(np.argmax(wrong))
    raise ValueError(
      f'{path} is damaged: the header of record {record} at byte '
      f'{offsets[record] - _HEADER_BYTES} has a wrong checksum; prepare or '
      'copy the file again'
    )
  if at != size:
    raise ValueError(
      f'{path} is truncated: record {max(len(offsets) - 1, 0)} needs bytes up '
      f'to {max(at, _HEADER_BYTES)}, the file has {size}; prepare or copy it '
      'again'
    )
  return Shard(
    path=path,
    size=size,
    offsets=np.array(offsets, np.int64),
    lengths=np.array(lengths, np.int64),
  )


def stamp(path: str) -> tuple[int, ...]:
  """As `cache.stamp`: size first; of a remote file size and time alone.

  Raises:
    ValueError: If there is no such file.
  """
  try:
    if '://' in path:
      status = tf.io.gfile.stat(path)
      return int(status.length), int(status.mtime_nsec)
    return cache.stamp(os.stat(path))
  except (FileNotFoundError, tf.errors.NotFoundError):
    raise ValueError(
      f'{path} is missing: the data set is not prepared, or only in part'
    ) from None


def read_record(shard: Shard, record: int) -> bytes:
  """Data of one record; from any thread.

  The file is opened for each read: 10 us on a local disk, and neither a lock
  nor a limit on open files is met (ImageNet has 1024 shards).

  Raises:
    ValueError: If the file has become shorter since it was indexed.
  """
  length = int(shard.lengths[record])
  with _open(shard.path) as read:
    data = read(int(shard.offsets[record]), length)
  if len(data) != length:
    raise ValueError(
      f'{shard.path} is truncated: record {record} has {len(data)} of {length} '
      'bytes; it changed after it was indexed'
    )
  return data


@contextlib.contextmanager
def _open(path: str) -> Iterator[ReadFn]:
  """Gives a function that reads byte ranges of a local or remote file."""
  if '://' not in path:
    descriptor = os.open(path, os.O_RDONLY)
    try:
      yield lambda offset, count: os.pread(descriptor, count, offset)
    except OSError as error:
      raise retries.naming(error, path) from None
    finally:
      os.close(descriptor)
    return
  with tf.io.gfile.GFile(path, 'rb') as file:

    def read(offset: int, count: int) -> bytes:
      file.seek(offset)
      return file.read(count)

    yield read


def _crc32c_table() -> np.ndarray:
  """Table of CRC-32C (Castagnoli, reflected polynomial 0x82F63B78)."""
  table = np.arange(256, dtype=np.uint32)
  for _ in range(8):
    table = (table >> np.uint32(1)) ^ np.where(
      table & np.uint32(1), np.uint32(0x82F63B78), np.uint32(0)
    )
  return table.astype(np.uint32)


def _masked_crc32c(values: np.ndarray) -> np.ndarray:
  """TFRecord's masked checksum of uint64 [n], each as 8 little-endian bytes."""
  table = _crc32c_table()
  crc = np.full(len(values), 0xFFFFFFFF, np.uint32)
  for byte in values.astype('<u8').view(np.uint8).reshape(-1, 8).T:
    crc = table[(crc ^ byte) & np.uint32(0xFF)] ^ (crc >> np.uint32(8))
  crc = ~crc
  rotated = (crc >> np.uint32(15)) | (crc << np.uint32(17))
  return rotated + np.uint32(_MASK_DELTA)
