"""Rows of several stages side by side, as shards of features hold them."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from isal import isal_zlib

from warehouse.datasets.layout import CRC, KEY, SIZE
from warehouse.errors import FoleyError
from warehouse.rows.read import gather
from warehouse.schema import array_spec, field, is_array

pc: Any = pyarrow.compute  # its functions are made at import, so type checkers do not see them

_BLOCK = 64


@dataclass(frozen=True)
class FeatureJoin:
    """Columns of several stages side by side.

    `stages` are the schema of each stage and the names of its columns, `places` where its rows of
    the clips lie, in writing order, and `columns` those that are written.
    """

    stages: Sequence[tuple[pa.Schema, Sequence[str]]]
    places: Sequence[pa.Table]
    columns: Sequence[str]

    @property
    def count(self) -> int:
        """Number of clips."""
        return self.places[0].num_rows

    @property
    def keys(self) -> np.ndarray:
        """What each row was made from: uint64 [count]."""
        return np.asarray(self.places[0][KEY])

    def read(self, begin: int, end: int, only: str | None = None) -> dict[str, pa.ChunkedArray]:
        """Rows begin..end of the columns, or of one of them, by name."""
        values: dict[str, pa.ChunkedArray] = {}
        for (schema, own), places in zip(self.stages, self.places, strict=True):
            names = [name for name in own if only in (None, name)]
            if names:
                rows = gather(places.slice(begin, end - begin), schema, names)
                values |= {name: rows[name] for name in names}
        return values

    @cached_property
    def fields(self) -> dict[str, pa.Field]:
        """The columns as the stages declare them, by name."""
        return {name: schema.field(name) for schema, own in self.stages for name in own}

    @cached_property
    def sizes(self) -> dict[str, int]:
        """The largest size of the dimension that varies, of every array column that has one."""
        varying = [name for name, unit in self._units.items() if unit]
        return {name: self._longest(name) // self._units[name] for name in varying}

    @cached_property
    def _units(self) -> dict[str, int]:
        """Bytes of one step of the dimension that varies, by array column; 0 where none does."""
        specs = {name: array_spec(f) for name, f in self.fields.items() if is_array(f)}
        return {
            name: np.dtype(dtype).itemsize * _product(n for n in shape if n != -1) * (-1 in shape)
            for name, (dtype, shape) in specs.items()
        }

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every array column, as large as these rows need."""
        return shapes_of(self.fields, self.sizes)

    def _longest(self, name: str) -> int:
        """Bytes of the longest value of an array column."""
        longest = 0
        for begin, end in windows(self.count, _BLOCK):
            values = self.read(begin, end, only=name)[name]
            longest = max(longest, pc.max(pc.binary_length(values)).as_py() or 0)
        return longest

    def schema(self, note: Mapping[str, object]) -> pa.Schema:
        """Columns as they are written: clip_id, arrays as padded fixed-size binary at the end."""
        written: list[pa.Field] = []
        for name in dict.fromkeys(["clip_id", *self.columns]):
            column = self.fields[name]
            if is_array(column):
                _, declared = array_spec(column)
                free = declared.index(-1) if -1 in declared else 0
                shape = json.dumps(list(self.shapes[name])).encode()
                metadata = {**(column.metadata or {}), b"shape": shape, b"free": b"%d" % free}
                width = width_of(column, self.shapes[name])
                column = pa.field(name, pa.binary(width), nullable=False, metadata=metadata)
            written.append(column)
        written.append(field(KEY, pa.uint64(), "hash of what the row was made from"))
        size = "how much of the dimension that varies is the clip's own"
        written += [field(SIZE + name, pa.int32(), f"{name}: {size}") for name in self.sizes]
        written += [field(CRC + name, pa.uint32(), f"CRC-32 of {name}") for name in self.shapes]
        written.sort(key=is_array)  # the small columns side by side, to be read in one piece
        return pa.schema(written, metadata={b"foley": json.dumps(dict(note)).encode()})

    def table(self, begin: int, end: int, schema: pa.Schema) -> pa.Table:
        """Rows begin..end of all columns, padded."""
        values: dict[str, Any] = self.read(begin, end)
        values[KEY] = self.places[0][KEY].slice(begin, end - begin)
        for name in self.sizes:
            lengths = pc.binary_length(values[name])
            values[SIZE + name] = pc.divide(lengths, self._units[name]).cast(pa.int32())
        for name, shape in self.shapes.items():
            values[name] = _padded(values[name], schema.field(name), shape)
            crcs = [isal_zlib.crc32(value.as_buffer()) for value in values[name]]
            values[CRC + name] = pa.array(crcs, pa.uint32())
        return pa.table([values[name] for name in schema.names], schema=schema)


def shapes_of(
    fields: Mapping[str, pa.Field], sizes: Mapping[str, int]
) -> dict[str, tuple[int, ...]]:
    """Shape of every array column as declared, -1 replaced by its size."""
    specs = {name: array_spec(field)[1] for name, field in fields.items() if is_array(field)}
    return {
        name: tuple(sizes[name] if n == -1 else n for n in shape) for name, shape in specs.items()
    }


def width_of(column: pa.Field, shape: Sequence[int]) -> int:
    """Bytes of an array of this shape."""
    return np.dtype(array_spec(column)[0]).itemsize * _product(shape)


def _product(sizes: Iterable[int]) -> int:
    return int(np.prod(list(sizes), dtype=np.int64))


def windows(count: int, size: int) -> Iterator[tuple[int, int]]:
    """Begin and end of parts of `size` of a count."""
    return ((begin, min(count, begin + size)) for begin in range(0, count, size))


def _padded(values: pa.ChunkedArray, column: pa.Field, shape: tuple[int, ...]) -> pa.Array:
    """Values as fixed-size binary, zero-padded at the end of the dimension that varies."""
    dtype, _ = array_spec(column)
    free = int((column.metadata or {}).get(b"free", b"0"))
    unit_shape = [-1 if i == free else n for i, n in enumerate(shape)]
    out = np.zeros((len(values), *shape), dtype)
    for i, value in enumerate(values):
        raw = value.as_buffer()
        if raw is None:
            advice = "correct the stage that writes it"
            raise FoleyError(f"column {column.name} is empty for a clip that passed: {advice}")
        array = np.frombuffer(raw, dtype).reshape(unit_shape)
        out[(i, *(slice(0, n) for n in array.shape))] = array
    return pa.Array.from_buffers(column.type, len(values), [None, pa.py_buffer(out.tobytes())])
