"""How a feature set lies in shards: its own, and those it shares with sets that were before it.

A shard is never changed, so a set holds hard links to the shards of older ones and writes the rows
that none of them has. Which rows of a shared shard are not of the set is noted as bits. The order
of a set's rows is a function of its clips, wherever these lie: that of a set written at once.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from warehouse.errors import FoleyError
from warehouse.files import Json, read_json

if TYPE_CHECKING:
    from warehouse.home import Home

#: Columns of a shard beside those asked for: which row it is, how long an array is that varies, and
#: the CRC-32 of an array as it is stored.
KEY, SIZE, CRC = OWN = ("_key", "_size_", "_crc_")
#: Lock held while older sets are looked at for shards, and while sets are removed.
REMOVED_SETS = "removed-features"
_BLOCK = 64
_WINDOW = 1024


def shuffled(count: int, seed: int) -> np.ndarray:
    """A random order [count] that still reads commits in pieces: blocks mixed over windows."""
    rng = np.random.default_rng(seed)
    order = np.arange(count)
    blocks = [order[b * _BLOCK : (b + 1) * _BLOCK] for b in rng.permutation(-(-count // _BLOCK))]
    order = np.concatenate([order[:0], *blocks])
    for begin in range(0, count, _WINDOW):
        rng.shuffle(order[begin : begin + _WINDOW])
    return order


def bits(flags: np.ndarray) -> str:
    """Flags as text."""
    return base64.b64encode(zlib.compress(np.packbits(flags).tobytes())).decode()


def flags(shard: Json) -> np.ndarray:
    """Which rows of a noted shard are of the set: bool [rows]."""
    if "used" not in shard:
        return np.ones(shard["rows"], bool)
    packed = np.frombuffer(zlib.decompress(base64.b64decode(shard["used"])), np.uint8)
    return np.unpackbits(packed, count=shard["rows"]).astype(bool)


@dataclass(frozen=True)
class SharedShard:
    """A shard of an older set, and which of its rows [rows] a new set takes."""

    path: Path
    note: Json
    used: np.ndarray
    sizes: Mapping[str, int]

    @property
    def taken(self) -> int:
        """Number of rows that are taken."""
        return int(self.used.sum())

    def noted(self, file: str) -> Json:
        """What the new set notes of it."""
        note = {"file": file, "rows": self.note["rows"], "bytes": self.note["bytes"]}
        note["linked"] = True
        return note if self.used.all() else note | {"used": bits(self.used)}


def shared(
    home: Home, alike: Mapping[str, object], keys: np.ndarray, small: int
) -> tuple[list[SharedShard], np.ndarray]:
    """Shards that hold wanted rows, and which rows none of them has: bool [count].

    Args:
        home: where the older sets are.
        alike: what the note of a set says whose rows are the same.
        keys: of the wanted rows, each once: uint64 [count].
        small: bytes of a shard that is written anew with the missing rows where these are no fewer
            than its own, so that shards stay few.

    """
    order = np.argsort(keys)
    missing = np.ones(len(keys), bool)
    taken: list[tuple[SharedShard, np.ndarray]] = []
    for path, note in _shards(home, alike):
        try:
            names = [n for n in pq.read_schema(path).names if n == KEY or n.startswith(SIZE)]
            table = pq.read_table(path, columns=names, page_checksum_verification=True)
        except (OSError, ValueError, pa.ArrowException):  # damaged: the rows are written anew
            continue
        found = np.asarray(table[KEY])
        place = np.minimum(np.searchsorted(keys, found, sorter=order), max(0, len(keys) - 1))
        which = order[place] if len(keys) else place
        used = (keys[which] == found) & missing[which] if len(keys) else np.zeros(len(found), bool)
        if used.any():
            missing[which[used]] = False
            sizes = {n.removeprefix(SIZE): int(np.asarray(table[n])[used].max()) for n in names[1:]}
            taken.append((SharedShard(path, note, used, sizes), which[used]))
    taken.sort(key=lambda item: -item[0].taken)
    kept: list[SharedShard] = []
    for shard, rows in reversed(taken):
        if shard.note["bytes"] <= small and shard.taken <= missing.sum():
            missing[rows] = True
        else:
            kept.append(shard)
    return kept[::-1], missing


def _shards(home: Home, alike: Mapping[str, object]) -> Iterator[tuple[Path, Json]]:
    """Sound shards of the sets that are alike, each once, the largest first."""
    found: dict[int, tuple[Path, Json]] = {}
    for file in sorted((home.home / "features").glob("*/_features.json")):
        try:
            note = read_json(file)
        except FoleyError:
            continue
        if "shapes" not in note or any(note[name] != value for name, value in alike.items()):
            continue
        for shard in note["shards"]:
            path = file.parent / shard["file"]
            if path.is_file() and path.stat().st_size == shard["bytes"]:
                found.setdefault(path.stat().st_ino, (path, shard))
    yield from sorted(found.values(), key=lambda item: (-item[1]["rows"], str(item[0])))


def order_of(clip_ids: Sequence[str], shards: Sequence[Json], seed: int) -> np.ndarray:
    """Places of a set's rows among all rows of its shards, in the order of a set written at once.

    Args:
        clip_ids: of all rows of the shards, one shard after another.
        shards: as they are noted.
        seed: of the set.

    """
    used = np.flatnonzero(np.concatenate([flags(shard) for shard in shards]))
    by_id = sorted(used.tolist(), key=lambda place: clip_ids[place])
    return np.array(by_id, np.int64)[shuffled(len(by_id), seed)]
