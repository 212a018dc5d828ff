"""Builds a FeatureSet: join, shuffle, pad, write what no older set has."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from warehouse.commits import Descriptor, writer_options
from warehouse.datasets.feature_join import FeatureJoin, shapes_of, width_of, windows
from warehouse.datasets.feature_set import FeatureSet
from warehouse.datasets.layout import KEY, REMOVED_SETS, shared, shuffled
from warehouse.errors import FoleyError
from warehouse.files import Json, file_lock, identity_hash, new_folder, share_file, write_file
from warehouse.rows.damage import set_aside
from warehouse.rows.live import Listings, present, present_input, run_checked, sources
from warehouse.rows.read import Selection, locate
from warehouse.schema import is_array

if TYPE_CHECKING:
    from warehouse.datasets.versions import Dataset
    from warehouse.home import Home

pc: Any = pyarrow.compute  # its functions are made at import, so type checkers do not see them

_WINDOW = 1024
_WINDOW_BYTES = 256 << 20
_SHARD_BYTES = 1 << 30
_GROUP = 64
_GROUP_BYTES = 64 << 20

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class FeatureRequest:
    """Which features to join: columns of the stages in `fingerprints`, for clips of a dataset.

    None stands for all splits, and for no subset. `seed` decides in which order clips are written.
    """

    dataset: Dataset
    fingerprints: Mapping[str, str]
    columns: Sequence[str]
    split: str | None = "train"
    subset: str | None = None
    seed: int = 0


def build(home: Home, request: FeatureRequest, progress: Progress | None = None) -> FeatureSet:
    """Write the feature set of a dataset's split, or open it when it exists.

    Its id is a hash of the dataset version, the split, the columns, the fingerprints of the stages
    that they come from, the clips that have them all, and the seed. Arrays whose shape differs from
    clip to clip are padded with zeros to the largest. Members without a passed row in one of the
    stages are left out and counted in `meta["missing"]`. Rows that older sets hold are shared with
    them: see layout.py. Raises FoleyError for an unknown column and when no clip is left.
    """
    columns = _columns_by_stage(home, request)
    stages = [descriptor for descriptor, _ in columns if descriptor.stage != "clips"]
    used = {descriptor.stage: descriptor.fingerprint for descriptor in stages}
    dataset, split = request.dataset, request.split
    wanted = dataset.clip_ids(split, request.subset)
    meta: dict[str, object] = {
        "dataset": dataset.version,
        "split": split,
        "subset": request.subset,
        "seed": request.seed,
        "columns": list(request.columns),
        "fingerprints": used,
    }

    def work(listings: Listings) -> Path:
        passed = Selection(clip_ids=wanted)
        places = [locate(home, listings, descriptor, passed) for descriptor, _ in columns]
        places[0] = _with_keys(home, listings, columns, places[0])
        schemas = [(descriptor.all_columns, names) for descriptor, names in columns]
        join = FeatureJoin(schemas, _shuffled_together(places, request.seed), request.columns)
        clips = join.places[0]["clip_id"].to_pylist()
        if not clips:
            which = f"{dataset.version} ({split or 'all splits'})"
            if request.subset and not wanted:
                raise FoleyError(f"no clip of {which} is in the subset {request.subset!r}")
            raise FoleyError(f"no clip of {which} passed {', '.join(used)}")
        id_ = f"{dataset.name}-{split or 'all'}-{identity_hash([meta, clips])[:12]}"
        target = home.folder("features") / id_
        if not _opens(home, target):
            note = {"id": id_, **meta, "clips": len(clips), "missing": len(wanted) - len(clips)}
            with new_folder(home.tmp, target) as folder:
                note |= _write(home, folder, join, note, progress)
                text = json.dumps(note, indent=1).encode()
                write_file(folder, lambda handle: handle.write(text), folder / "_features.json")
        return target

    return FeatureSet.open(run_checked(home, sources(*stages), work), home)


def _opens(home: Home, target: Path) -> bool:
    """Whether a set is there; one that is damaged is set aside, to be written anew."""
    if not target.exists():
        return False
    try:
        FeatureSet.open(target)
    except FoleyError:
        set_aside(home, target)
        return False
    return True


def _columns_by_stage(home: Home, request: FeatureRequest) -> list[tuple[Descriptor, list[str]]]:
    """The stages that give the columns, each with their names; `clips` comes first."""
    clips = home.descriptor("clips", "source")
    descriptors = [clips, *(home.descriptor(*item) for item in request.fingerprints.items())]
    names: dict[str, list[str]] = {"clips": ["clip_id"]}
    for column in request.columns:
        owners = [d.stage for d in descriptors if column in d.columns.names]
        if not owners and column != "clip_id":
            stages = ", ".join(request.fingerprints)
            raise FoleyError(f"no planned stage among {stages} has a column {column!r}")
        if column != "clip_id":
            names.setdefault(owners[0], []).append(column)
    stages = {descriptor.stage: descriptor for descriptor in descriptors}
    return [(stages[stage], columns) for stage, columns in names.items()]


def _with_keys(
    home: Home,
    listings: Listings,
    columns: Sequence[tuple[Descriptor, Sequence[str]]],
    places: pa.Table,
) -> pa.Table:
    """The places of clips with a hash of all that their values were made from."""
    reads = {name for descriptor, _ in columns for name in descriptor.reads}
    reads |= {name for d, names in columns for name in names if d.stage == "clips"} - {"clip_id"}
    with home.cursor() as con:
        con.register("present", present(home, listings["clips"], reads))
        con.register("places", places)
        keyed = f"""
            select l.*, {present_input(sorted(reads))} as {KEY}
            from places l join present p on p.clip_id = l.clip_id order by l.clip_id"""
        return con.sql(keyed).to_arrow_table()


def _shuffled_together(places: Sequence[pa.Table], seed: int) -> list[pa.Table]:
    """The places of the clips that all stages have, in the same random order."""
    common = set.intersection(*(set(table["clip_id"].to_pylist()) for table in places))
    ids, order = pa.array(sorted(common), pa.string()), pa.array(shuffled(len(common), seed))
    return [table.filter(pc.is_in(table["clip_id"], ids)).take(order) for table in places]


def _write(
    home: Home,
    folder: Path,
    join: FeatureJoin,
    note: Mapping[str, object],
    progress: Progress | None,
) -> Json:
    """Fill the folder of a set; returns what its note says of shards, shapes and row groups."""
    alike = {name: note[name] for name in ("columns", "fingerprints")}
    with file_lock(home.lock_path(REMOVED_SETS)):
        links, missing = shared(home, alike, join.keys, _SHARD_BYTES // 2)
        shards = [link.noted(f"{number:05d}.parquet") for number, link in enumerate(links)]
        for link, shard in zip(links, shards, strict=True):
            share_file(link.path, folder / shard["file"])
    rest = replace(join, places=[table.filter(pa.array(missing)) for table in join.places])
    shards += _write_shards(folder, rest, note, len(links), progress)
    sizes = {
        name: max(size, *(link.sizes[name] for link in links), 0)
        for name, size in rest.sizes.items()
    }
    shapes = shapes_of(join.fields, sizes)
    row_bytes = sum(width_of(join.fields[name], shape) for name, shape in shapes.items())
    return {"shapes": shapes, "group": _group(row_bytes), "shards": shards}


def _group(row_bytes: int) -> int:
    """Rows of a row group: its arrays come in any order, so it is to be read in one piece."""
    return max(1, min(_GROUP, _GROUP_BYTES // max(1, row_bytes)))


def _write_shards(
    folder: Path,
    join: FeatureJoin,
    note: Mapping[str, object],
    number: int,
    progress: Progress | None,
) -> list[Json]:
    """Write all rows as shards of about 1 GiB, numbered from `number`.

    Returns their names, rows and bytes.
    """
    schema = join.schema(note)
    row_bytes = max(1, sum(f.type.byte_width for f in schema if is_array(f)))
    group = _group(row_bytes)
    window = max(group, min(_WINDOW, _WINDOW_BYTES // row_bytes) // group * group)
    per_shard = max(window, _SHARD_BYTES // row_bytes // window * window)
    # One page a row group, so that a value's place follows from the footer.
    page: Json = {"data_page_size": (1 << 31) - 1, "write_batch_size": group}
    options = writer_options(schema) | page
    shards: list[Json] = []
    for begin, end in windows(join.count, per_shard):
        path = folder / f"{number + len(shards):05d}.parquet"
        with pq.ParquetWriter(path, schema, **options) as writer:
            for first, last in windows(end - begin, window):
                rows = join.table(begin + first, begin + last, schema)
                writer.write_table(rows, row_group_size=group)
                if progress:
                    progress(begin + last, join.count)
        with open(path, "rb") as handle:
            os.fsync(handle.fileno())
        shards.append({"file": path.name, "rows": end - begin, "bytes": path.stat().st_size})
    return shards
