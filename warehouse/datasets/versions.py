"""Dataset versions: immutable folders with members, the reason of every drop, and the policy.

HOME/datasets/<name>-<number>-<hash>/, and NEWEST.json: version by name, the last selected last.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute

from warehouse.datasets.members import (
    MEMBERS,
    SUBSETS,
    counts,
    diff,
    parts_of,
    read_members,
    write_parts,
)
from warehouse.errors import FoleyError
from warehouse.files import Json, file_lock, new_folder, read_json, write_json
from warehouse.rows.damage import set_aside

if TYPE_CHECKING:
    from warehouse.home import Home

pc: Any = pyarrow.compute  # its functions are made at import, so type checkers do not see them

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]*")
VERSION = re.compile(rf"{_NAME.pattern}-[0-9]{{4,}}-[0-9a-f]{{8}}")
#: Lock held while a version is written, and while versions are removed.
VERSIONS = "datasets"
NEWEST = "datasets/NEWEST.json"
CURATED, UNCURATED = "curated", "uncurated"


@dataclass(frozen=True)
class Dataset:
    """One immutable version of a dataset.

    `counts` has kept and dropped clips, a count a split and a subset; `funnel` the clips left after
    every stage and gate; `previous` is the version before, `diff` what changed since. `role` is
    CURATED, or UNCURATED for a set that an ablation compares with. `shards` are the files of its
    members: see members.py.
    """

    version: str
    name: str
    number: int
    policy: Json
    fingerprints: dict[str, str]
    counts: dict[str, int]
    funnel: list[Json]
    previous: str | None
    diff: dict[str, int]
    created_at: str
    digest: str
    path: Path = field(compare=False)
    role: str = CURATED
    shards: list[Json] = field(default_factory=lambda: [{"file": "members.parquet"}])

    def members(
        self, split: str | None = None, subset: str | None = None, kept: bool | None = True
    ) -> pa.Table:
        """Members sorted by clip_id; `kept` None gives the dropped too.

        Raises FoleyError for an unknown subset.
        """
        if subset is not None and subset not in SUBSETS:
            raise FoleyError(f"no subset {subset!r}: there are {', '.join(SUBSETS)}")
        table = read_members(self.files)
        if kept is not None:
            table = table.filter(pc.equal(table["kept"], kept))
        if split is not None:
            table = table.filter(pc.equal(table["split"], split))
        return table.filter(table[subset]) if subset else table

    @property
    def files(self) -> list[Path]:
        """Files of the members."""
        return [self.path / shard["file"] for shard in self.shards]

    @property
    def judged(self) -> int:
        """Clips that passed every stage, and were judged by the policy's gates."""
        return int(self.funnel[1 + len(self.fingerprints)]["left"])

    def clip_ids(self, split: str | None = None, subset: str | None = None) -> list[str]:
        """Ids of the clips in the dataset, sorted."""
        return self.members(split, subset)["clip_id"].to_pylist()


@dataclass(frozen=True)
class Selected:
    """What a new version is to be: its name, what chose its members, and the clips left by step."""

    name: str
    policy: Json
    fingerprints: Mapping[str, str]
    funnel: list[Json]
    role: str = CURATED


def write_dataset(home: Home, members: pa.Table, selected: Selected) -> Dataset:
    """Write a new version of a dataset, or give an older one back when it is the same.

    One that is the same and was damaged is written anew.

    `members` has the columns of MEMBERS, one row a clip, sorted by clip_id. What it gives back is
    from now on the newest of its name. Raises FoleyError for an unusable name.
    """
    name = selected.name
    if not _NAME.fullmatch(name):
        raise FoleyError(f"{name!r} cannot name a dataset: use letters, digits, '_' and '.'")
    members = members.select(MEMBERS.names).cast(MEMBERS)
    digest = _digest(members, selected.policy, selected.fingerprints)
    with file_lock(home.lock_path(VERSIONS)):
        every = [dataset for dataset in list_datasets(home) if dataset.name == name]
        same = next((dataset for dataset in every if dataset.digest == digest), None)
        if same is not None and _whole(same) is not None:
            _make_newest(home, same)
            return same
        last = _newest_of(home, [dataset for dataset in every if dataset is not same])
        before = _whole(last) if last else None
        if same is None:
            number = _number(home, every, name, digest)
            dataset = _new(home, selected, members, (number, digest, last and last.version))
            dataset = replace(dataset, diff=diff(before, members))
        else:  # it went bad, and its members are known again
            dataset = same
        if dataset.path.exists():
            set_aside(home, dataset.path)
        parts = parts_of(last.files if last and before else [], before, members)
        with new_folder(home.tmp, dataset.path) as folder:
            dataset = replace(dataset, shards=write_parts(folder, *parts))
            record = asdict(dataset)
            del record["path"]
            write_json(folder, folder / "dataset.json", record)
        _make_newest(home, dataset)
    return dataset


def _number(home: Home, every: Sequence[Dataset], name: str, digest: str) -> int:
    """Number of a new version: that of a damaged one with the same digest, or the next."""
    damaged = [path.name.rsplit("-", 2) for path in damaged_versions(home)]
    damaged = [(int(number), hash_) for of, number, hash_ in damaged if of == name]
    same = [number for number, hash_ in damaged if hash_ == digest[:8]]
    numbers = [dataset.number for dataset in every] + [number for number, _ in damaged]
    return (same or [max(numbers, default=0) + 1])[0]


def _new(
    home: Home, selected: Selected, members: pa.Table, place: tuple[int, str, str | None]
) -> Dataset:
    """A version to be written; its place is its number, its digest and the version before."""
    number, digest, previous = place
    version = f"{selected.name}-{number:04d}-{digest[:8]}"
    return Dataset(
        version=version,
        name=selected.name,
        number=number,
        policy=dict(selected.policy),
        fingerprints=dict(selected.fingerprints),
        counts=counts(members),
        funnel=selected.funnel,
        previous=previous,
        diff={},
        created_at=datetime.now(UTC).isoformat(),
        digest=digest,
        path=home.home / "datasets" / version,
        role=selected.role,
    )


def _whole(dataset: Dataset) -> pa.Table | None:
    """All members, unless some are damaged or missing."""
    with suppress(FoleyError, FileNotFoundError):
        return dataset.members(kept=None)
    return None


def _make_newest(home: Home, dataset: Dataset) -> None:
    """Note a version as the one that was selected last."""
    noted = _noted(home)
    if list(noted.items())[-1:] != [(dataset.name, dataset.version)]:
        noted.pop(dataset.name, None)
        write_json(home.tmp, home.home / NEWEST, noted | {dataset.name: dataset.version})


def _noted(home: Home) -> dict[str, str]:
    """The newest version by name, the name that was selected last at the end."""
    path, noted = home.home / NEWEST, dict[str, str]()
    if path.exists():
        with home.leaving_out(path):  # the highest number counts then
            noted = read_json(path)
    return noted


def _newest_of(home: Home, datasets: Sequence[Dataset]) -> Dataset | None:
    """Of versions in the order of their numbers the one that was selected last."""
    noted = _noted(home).values()
    return next((d for d in datasets if d.version in noted), datasets[-1] if datasets else None)


def _digest(
    members: pa.Table, policy: Mapping[str, object], fingerprints: Mapping[str, str]
) -> str:
    """Hash of what a version holds: members, policy and the facts' fingerprints."""
    digest = hashlib.sha256(
        json.dumps([policy, fingerprints], sort_keys=True, default=str).encode()
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, MEMBERS) as writer:
        writer.write_table(members.combine_chunks())
    digest.update(sink.getvalue())
    return digest.hexdigest()


def list_datasets(home: Home) -> list[Dataset]:
    """Every dataset version whose note is whole, by name and number."""
    datasets: list[Dataset] = []
    for path in home.folder("datasets").glob("*/dataset.json"):
        with home.leaving_out(path):
            datasets.append(read_dataset(path))
    return sorted(datasets, key=lambda dataset: (dataset.name, dataset.number))


def read_dataset(path: Path) -> Dataset:
    """The version that a dataset.json tells of. Raises FoleyError where it is damaged."""
    try:
        return Dataset(**_with_role(read_json(path)), path=path.parent)
    except (AttributeError, KeyError, TypeError) as exc:
        advice = "the same selection again writes it anew"
        raise FoleyError(f"{path} is damaged ({exc}): {advice}") from exc


def damaged_versions(home: Home) -> list[Path]:
    """Folders of versions whose note is damaged, by name."""
    whole = {dataset.path for dataset in list_datasets(home)}
    folders = sorted(home.folder("datasets").iterdir())
    return [path for path in folders if VERSION.fullmatch(path.name) and path not in whole]


def _with_role(record: Json) -> Json:
    """A record as it is written now: older ones show their role by the ending of their name."""
    older = UNCURATED if record["name"].endswith(f".{UNCURATED}") else CURATED
    return {"role": older, **record}


def page_of(home: Path, version: str) -> Path:
    """Where the page of a dataset version is, once `foley report curation` or a run wrote it."""
    return home / "reports" / f"curation-{version}.html"


def find_dataset(home: Home, name_or_version: str) -> Dataset:
    """A version, or the newest version of a name. Raises FoleyError when there is none."""
    every = list_datasets(home)
    exact = [d for d in every if d.version == name_or_version]
    found = _newest_of(home, exact or [d for d in every if d.name == name_or_version])
    if found is None:
        versions = ", ".join(d.version for d in every) or "none yet: run select"
        raise FoleyError(f"no dataset {name_or_version!r} in {home.home}; there are: {versions}")
    return found


def selected_last(home: Home) -> Dataset | None:
    """The curated version that was selected last, of any name; None where there is none."""
    curated = [dataset for dataset in list_datasets(home) if dataset.role == CURATED]
    versions = {dataset.version: dataset for dataset in curated}
    last = [version for version in _noted(home).values() if version in versions]
    if last:
        return versions[last[-1]]
    return max(curated, key=lambda dataset: dataset.created_at, default=None)
