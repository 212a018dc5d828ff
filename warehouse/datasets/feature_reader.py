"""Reads rows of feature shards by number, straight into the arrays of a batch.

Array columns are fixed-size binary, uncompressed, one page a row group. So a value's place in the
file follows from the footer, and a row comes with one copy, no decoding and bounded memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from isal import isal_zlib

from warehouse.datasets.layout import CRC
from warehouse.errors import FoleyError, clear_os_errors
from warehouse.schema import array_spec

Arrays = dict[str, np.ndarray]
_PART = 512  # clips that are asked for ahead in one go
_PART_BYTES = 256 << 20
_AHEAD = 2
_OPEN_FILES = 64
_ADVICE = 128 << 10


class DamagedShardError(FoleyError):
    """A shard twice read otherwise than it was written, the second time from the disk."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(
            f"feature shard {path} {what}: run the same command again, which writes it anew where "
            "it builds features, or run foley verify --repair"
        )
        self.path, self._what = path, what

    def __reduce__(self) -> tuple[object, ...]:  # it comes out of processes that read ahead
        return type(self), (self.path, self._what)


@dataclass(frozen=True)
class ArrayColumn:
    """Dtype and shape of one clip's value in an array column."""

    dtype: str
    shape: tuple[int, ...]

    @cached_property
    def nbytes(self) -> int:
        """Bytes of one value."""
        return int(np.dtype(self.dtype).itemsize * np.prod(self.shape, dtype=np.int64))


class Index:
    """Where every row lies: its row group, and the group's file and byte offsets by column."""

    def __init__(self, files: Sequence[Path], arrays: Sequence[str]) -> None:
        """Read the footers of `files`; `arrays` are the columns that hold arrays."""
        places: list[tuple[int, int]] = []  # file, rows
        offsets: dict[str, list[int]] = {name: [] for name in arrays}
        #: Dtype and shape of every array column, in every file.
        self.stored: dict[str, list[ArrayColumn]] = {name: [] for name in arrays}
        for number, file in enumerate(files):
            metadata = pq.read_metadata(file)
            schema = metadata.schema.to_arrow_schema()
            for name in arrays:
                self.stored[name].append(ArrayColumn(*array_spec(schema.field(name))))
            names = [metadata.schema.column(i).name for i in range(metadata.num_columns)]
            for g in range(metadata.num_row_groups):
                group = metadata.row_group(g)
                places.append((number, group.num_rows))
                for name in arrays:
                    chunk, column = group.column(names.index(name)), self.stored[name][number]
                    offsets[name].append(_values_at(chunk, group.num_rows, column, file))
        self.file, sizes = np.array(places, np.int64).reshape(-1, 2).T
        self.offsets = {name: np.array(places, np.int64) for name, places in offsets.items()}
        self.starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self.group = np.repeat(np.arange(len(sizes)), sizes)
        self.rows, self.group_rows = len(self.group), max(1, int(sizes.max(initial=0)))

    def where(self, name: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """File and byte offset of an array column's values in these rows."""
        groups = self.group[rows]
        files = self.file[groups]
        widths = np.array([column.nbytes for column in self.stored[name]], np.int64)
        return files, self.offsets[name][groups] + (rows - self.starts[groups]) * widths[files]


def _values_at(chunk: Any, rows: int, column: ArrayColumn, file: Path) -> int:
    """Byte offset of a column chunk's first value: its only page ends with the values."""
    end = chunk.data_page_offset + chunk.total_compressed_size
    start = end - rows * column.nbytes
    if chunk.compression != "UNCOMPRESSED" or not 0 < start - chunk.data_page_offset < 512:
        advice = "build the features again"
        raise FoleyError(f"feature shard {file} is not laid out as this reader expects: {advice}")
    return start


class _OpenFile:
    """A shard that is open for as long as anybody holds this."""

    def __init__(self, path: Path) -> None:
        with clear_os_errors(f"read {path}"):
            self.handle = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            os.close(self.handle)


class OpenShards:
    """The files of a feature set, of which the last few stay open while they are read.

    All readers of the set share them, because the micro-batches of a step are as many readers and
    the system allows a process about a thousand open files. Threads may use it at once.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files
        self.open = lru_cache(_OPEN_FILES)(lambda number: _OpenFile(files[number]))

    def __reduce__(self) -> tuple[type[OpenShards], tuple[Sequence[Path]]]:
        return OpenShards, (self.files,)  # a process that gets a copy opens files of its own


class Reader:
    """Reads rows by their place among all rows of the shards."""

    def __init__(
        self, shards: OpenShards, index: Index, arrays: Mapping[str, ArrayColumn], small: pa.Table
    ) -> None:
        """Of `arrays` the values are read in these shapes; `small` holds the other columns.

        Those that start with CRC are compared with, and not read.
        """
        self._shards, self._index, self._arrays = shards, index, arrays
        crcs = [name for name in small.column_names if name.startswith(CRC)]
        self._crcs = {name: small[name].to_numpy() for name in crcs}
        self._small = small.drop_columns(crcs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._shards.open.cache_clear()  # other readers that are under way open theirs again

    def follow(self, batches: Sequence[np.ndarray]) -> Iterator[Arrays]:
        """The values of one batch of rows after another."""
        most = max((len(rows) for rows in batches), default=1)
        row_bytes = max(1, sum(column.nbytes for column in self._arrays.values()))
        size = max(1, min(_PART, _PART_BYTES // row_bytes) // most)
        parts = [batches[begin : begin + size] for begin in range(0, len(batches), size)]
        for part in parts[:_AHEAD]:
            self.advise(np.sort(np.concatenate(part)))
        for number, part in enumerate(parts):
            later = parts[number + _AHEAD : number + _AHEAD + 1]
            soon = np.sort(np.concatenate(later[0])) if later else np.empty(0, np.int64)
            # What is read ahead is asked for in equal shares between the batches.
            for rows, share in zip(part, np.array_split(soon, len(part)), strict=True):
                self.advise(share)
                yield self.read(rows)

    def advise(self, rows: np.ndarray) -> None:
        """Tell the system which rows are wanted soon; they are sorted."""
        groups = self._index.group[rows]
        breaks = np.flatnonzero((np.diff(rows) != 1) | (np.diff(groups) != 0)) + 1
        runs = np.split(rows, breaks) if len(rows) else []  # of neighbours in a row group
        firsts = np.array([run[0] for run in runs], np.int64)
        for name, stored in self._index.stored.items():
            if name not in self._arrays:
                continue
            files, starts = self._index.where(name, firsts)
            for run, file, start in zip(runs, files.tolist(), starts.tolist(), strict=True):
                shard = self._shards.open(file)  # held, so that no other reader closes it
                # Linux reads no more than its read-ahead size of one advice: ask in parts.
                for part in range(start, start + len(run) * stored[file].nbytes, _ADVICE):
                    os.posix_fadvise(shard.handle, part, _ADVICE, os.POSIX_FADV_WILLNEED)

    def read(self, rows: np.ndarray) -> Arrays:
        """The batch of these rows, in this order."""
        small = self._small.take(pa.array(rows))
        batch: Arrays = {name: small[name].to_numpy() for name in small.column_names}
        return batch | {name: self._values(name, rows) for name in self._arrays}

    def _values(self, name: str, rows: np.ndarray) -> np.ndarray:
        """The arrays of a column [B, *shape]: those of a narrower shard padded with zeros."""
        column, stored = self._arrays[name], self._index.stored[name]
        out = np.empty((len(rows), *column.shape), column.dtype)
        files, starts = self._index.where(name, rows)
        crcs = self._crcs[CRC + name][rows]
        places = zip(out, files.tolist(), starts.tolist(), crcs.tolist(), strict=True)
        for array, file, start, crc in places:
            if stored[file].shape == column.shape:
                self._read_into(array, file, start, crc)
                continue
            value = np.empty(stored[file].shape, column.dtype)
            self._read_into(value, file, start, crc)
            both = tuple(slice(min(sizes)) for sizes in zip(value.shape, array.shape, strict=True))
            array[...] = 0
            array[both] = value[both]
        return out

    def _read_into(self, array: np.ndarray, file: int, start: int, crc: float) -> None:
        data, shard = array.reshape(-1).view(np.uint8).data, self._shards.open(file)
        for _ in range(2):
            if os.preadv(shard.handle, [data], start) != array.nbytes:
                raise DamagedShardError(self._shards.files[file], "ends too early")
            if crc < 0 or isal_zlib.crc32(data) == crc:
                return
            os.posix_fadvise(shard.handle, 0, 0, os.POSIX_FADV_DONTNEED)
        raise DamagedShardError(self._shards.files[file], "is damaged")
