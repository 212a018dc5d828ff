"""Columns that every commit has, and how arrays are kept in Parquet."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    import numpy as np

#: Failed attempts after which a clip is set aside, unless a plan says otherwise.
MAX_ATTEMPTS = 3


def field(name: str, type_: pa.DataType, comment: str) -> pa.Field:
    """A scalar column with the text of its COMMENT in the catalog."""
    return pa.field(name, type_, metadata={"comment": comment})


def array_field(name: str, dtype: str, shape: tuple[int, ...], comment: str) -> pa.Field:
    """A column of arrays: raw little-endian bytes, row-major, with dtype and shape in the metadata.

    At most one dimension may be -1: it differs from clip to clip and follows from the bytes.
    """
    if sum(n == -1 for n in shape) > 1:
        raise ValueError(f"column {name}: at most one dimension of {shape} may be -1")
    metadata = {"dtype": dtype, "shape": json.dumps(list(shape)), "comment": comment}
    return pa.field(name, pa.large_binary(), metadata=metadata)


def is_array(column: pa.Field) -> bool:
    """Whether a column holds arrays; these are not copied into the catalog."""
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return any(kind(column.type) for kind in kinds)


def array_spec(column: pa.Field) -> tuple[str, tuple[int, ...]]:
    """(dtype, shape) of an array column; shape may hold one -1."""
    metadata = column.metadata or {}
    if b"dtype" not in metadata or b"shape" not in metadata:
        raise ValueError(
            f"column {column.name} has no dtype and shape: declare it with array_field"
        )
    return metadata[b"dtype"].decode(), tuple(json.loads(metadata[b"shape"]))


def to_bytes(array: np.ndarray) -> bytes:
    """Bytes of an array as an array column stores them."""
    import numpy as np

    return np.ascontiguousarray(array).tobytes()


def from_bytes(column: pa.Field, value: bytes) -> np.ndarray:
    """The array of one value of an array column, read-only, in its declared dtype and shape."""
    import numpy as np

    dtype, shape = array_spec(column)
    return np.frombuffer(value, dtype=dtype).reshape(shape)


def comment_of(column: pa.Field) -> str:
    """Text of a column's COMMENT, empty when it has none."""
    return (column.metadata or {}).get(b"comment", b"").decode()


SPINE = pa.schema(
    [
        field("clip_id", pa.string(), "id of the clip"),
        field(
            "input", pa.uint64(), "hash of the clip's id and of the columns that the stage reads"
        ),
        field("generation", pa.int32(), "0 for the first row of a clip and input, 1 for the next"),
        field("status", pa.string(), "passed, rejected, failed or released (from quarantine)"),
        field("reason", pa.string(), "why the stage rejected the clip"),
        field("error", pa.string(), "class of the error of a failed clip"),
        field("message", pa.string(), "message of the error of a failed clip"),
        field("attempt", pa.int32(), "which attempt since the clip's last release from quarantine"),
        field("seconds", pa.float32(), "the clip's share of the batch's wall time, seconds"),
        field("committed_at", pa.timestamp("us", tz="UTC"), "when the batch was committed"),
        field("commit", pa.string(), "commit that wrote the row"),
    ]
)

CLIPS = pa.schema(
    [
        field("path", pa.string(), "absolute path of the media file"),
        field("source", pa.string(), "where the clip comes from"),
        field("source_video", pa.string(), "video it was cut from; splits never divide a video"),
        field("url", pa.string(), "address the clip was fetched from"),
        field("label", pa.string(), "class given by the source"),
        field("prompt", pa.string(), "text prompt"),
        field("split", pa.string(), "split given by the source, if any: train, val or test"),
        field("sha256", pa.string(), "hash of the file's content"),
        field("bytes", pa.int64(), "size of the file"),
        field("mtime_ns", pa.int64(), "modification time of the file, nanoseconds"),
        field("truth", pa.string(), "impact times and material of a procedural clip, JSON"),
    ]
)
