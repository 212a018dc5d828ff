"""Dataset versions: immutable folders with members, the reason of every drop, and the policy.

HOME/datasets/<name>-<number>-<hash>/members.parquet
HOME/datasets/<name>-<number>-<hash>/dataset.json
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from warehouse.errors import FoleyError
from warehouse.files import file_lock, new_folder, read_json, write_file, write_json
from warehouse.schema import field as column

if TYPE_CHECKING:
    from warehouse.home import Home

pc: Any = pyarrow.compute  # its functions are made at import, so type checkers do not see them

MEMBERS = pa.schema(
    [
        column("clip_id", pa.string(), "id of the clip"),
        column("source_video", pa.string(), "video that the clip was cut from"),
        column(
            "sha256",
            pa.string(),
            "hash of the file's content when it was selected, null when dropped",
        ),
        column("kept", pa.bool_(), "whether the clip is in the dataset"),
        column(
            "reason",
            pa.string(),
            "why it was dropped: the first stage or gate that it did not pass",
        ),
        column(
            "split",
            pa.string(),
            "train, val or test, the same for all clips of a source video; null when dropped",
        ),
        column("sft", pa.bool_(), "in the high-quality subset for fine-tuning"),
        column(
            "ablation", pa.bool_(), "in the fixed-seed share of the training split for ablations"
        ),
    ]
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]*")
_VERSION = re.compile(rf"{_NAME.pattern}-[0-9]{{4,}}-[0-9a-f]{{8}}")
_SUBSETS = ("sft", "ablation")
CURATED, UNCURATED = "curated", "uncurated"


@dataclass(frozen=True)
class Dataset:
    """One immutable version of a dataset.

    `counts` has kept and dropped clips, a count a split and a subset; `funnel` the clips left after
    every stage and gate; `previous` is the version before, `diff` what changed since. `role` is
    CURATED, or UNCURATED for a set that an ablation compares with.
    """

    version: str
    name: str
    number: int
    policy: dict[str, Any]
    fingerprints: dict[str, str]
    counts: dict[str, int]
    funnel: list[dict[str, Any]]
    previous: str | None
    diff: dict[str, int]
    created_at: str
    digest: str
    path: Path = field(compare=False)
    role: str = CURATED

    def members(
        self, split: str | None = None, subset: str | None = None, kept: bool | None = True
    ) -> pa.Table:
        """Members sorted by clip_id; `kept` None gives the dropped too.

        Raises FoleyError for an unknown subset.
        """
        if subset is not None and subset not in _SUBSETS:
            raise FoleyError(f"no subset {subset!r}: there are {', '.join(_SUBSETS)}")
        table = pq.read_table(self.path / "members.parquet")
        if kept is not None:
            table = table.filter(pc.equal(table["kept"], kept))
        if split is not None:
            table = table.filter(pc.equal(table["split"], split))
        return table.filter(table[subset]) if subset else table

    def clip_ids(self, split: str | None = None, subset: str | None = None) -> list[str]:
        """Ids of the clips in the dataset, sorted."""
        return self.members(split, subset)["clip_id"].to_pylist()


@dataclass(frozen=True)
class Selected:
    """What a new version is to be: its name, what chose its members, and the clips left by step."""

    name: str
    policy: Mapping[str, Any]
    fingerprints: Mapping[str, str]
    funnel: list[dict[str, Any]]
    role: str = CURATED


def write_dataset(home: Home, members: pa.Table, selected: Selected) -> Dataset:
    """Write a new version of a dataset, or give the newest one back when it is the same.

    `members` has the columns of MEMBERS, one row a clip, sorted by clip_id. Raises FoleyError for
    an unusable name.
    """
    name = selected.name
    if not _NAME.fullmatch(name):
        raise FoleyError(f"{name!r} cannot name a dataset: use letters, digits, '_' and '.'")
    members = members.select(MEMBERS.names).cast(MEMBERS)
    digest = _digest(members, selected.policy, selected.fingerprints)
    with file_lock(home.lock_path(f"dataset-{name}")):
        last = next((d for d in reversed(list_datasets(home)) if d.name == name), None)
        if last is not None and last.digest == digest:
            return last
        number = last.number + 1 if last else 1
        version = f"{name}-{number:04d}-{digest[:8]}"
        dataset = Dataset(
            version=version,
            name=name,
            number=number,
            policy=dict(selected.policy),
            fingerprints=dict(selected.fingerprints),
            counts=_counts(members),
            funnel=selected.funnel,
            previous=last.version if last else None,
            diff=_diff(last, members),
            created_at=datetime.now(UTC).isoformat(),
            digest=digest,
            path=home.home / "datasets" / version,
            role=selected.role,
        )
        record = asdict(dataset)
        del record["path"]
        with new_folder(home.tmp, dataset.path) as folder:
            file = folder / "members.parquet"
            write_file(folder, lambda h: pq.write_table(members, h, compression="zstd"), file)
            write_json(folder, folder / "dataset.json", record)
    return dataset


def _digest(members: pa.Table, policy: Mapping[str, Any], fingerprints: Mapping[str, str]) -> str:
    """Hash of what a version holds: members, policy and the facts' fingerprints."""
    digest = hashlib.sha256(
        json.dumps([policy, fingerprints], sort_keys=True, default=str).encode()
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, MEMBERS) as writer:
        writer.write_table(members.combine_chunks())
    digest.update(sink.getvalue())
    return digest.hexdigest()


def _counts(members: pa.Table) -> dict[str, int]:
    chosen = members.filter(members["kept"])
    counts = {"clips": members.num_rows, "kept": chosen.num_rows}
    counts["dropped"] = members.num_rows - chosen.num_rows
    for split in ("train", "val", "test"):
        counts[split] = pc.sum(pc.equal(chosen["split"], split)).as_py() or 0
    for subset in _SUBSETS:
        counts[subset] = pc.sum(chosen[subset]).as_py() or 0
    return counts


def _diff(last: Dataset | None, members: pa.Table) -> dict[str, int]:
    """How many clips came in, went out and moved to another split since the version before."""
    now = members.filter(members["kept"]).select(["clip_id", "split"])
    if last is None:
        return {"added": now.num_rows, "removed": 0, "moved": 0}
    then = last.members().select(["clip_id", "split"]).rename_columns(["clip_id", "before"])
    both = now.join(then, "clip_id", join_type="inner")
    return {
        "added": now.num_rows - both.num_rows,
        "removed": then.num_rows - both.num_rows,
        "moved": pc.sum(pc.not_equal(both["split"], both["before"])).as_py() or 0,
    }


def list_datasets(home: Home) -> list[Dataset]:
    """Every dataset version, by name and number."""
    paths = home.folder("datasets").glob("*/dataset.json")
    datasets = [Dataset(**_with_role(read_json(path)), path=path.parent) for path in paths]
    return sorted(datasets, key=lambda dataset: (dataset.name, dataset.number))


def _with_role(record: dict[str, Any]) -> dict[str, Any]:
    """A record as it is written now: older ones show their role by the ending of their name."""
    older = UNCURATED if record["name"].endswith(f".{UNCURATED}") else CURATED
    return {"role": older, **record}


def page_of(home: Path, version: str) -> Path:
    """Where the page of a dataset version is, once `foley report curation` or a run wrote it."""
    return home / "reports" / f"curation-{version}.html"


def written_pages(home: Path) -> dict[str, Path]:
    """Pages of dataset versions, by version; files that a person named otherwise are none."""
    paths = sorted((home / "reports").glob("curation-*.html"))
    pages = {path.stem.removeprefix("curation-"): path for path in paths}
    return {version: path for version, path in pages.items() if _VERSION.fullmatch(version)}


def find_dataset(home: Home, name_or_version: str) -> Dataset:
    """A version, or the newest version of a name. Raises FoleyError when there is none."""
    every = list_datasets(home)
    datasets = [d for d in every if name_or_version in (d.version, d.name)]
    if not datasets:
        versions = ", ".join(d.version for d in every) or "none yet: run select"
        raise FoleyError(f"no dataset {name_or_version!r} in {home.home}; there are: {versions}")
    return datasets[-1]


def choose_dataset(home: Home, name: str | None = None) -> Dataset:
    """A dataset by name or version; without one, the curated version that was written last.

    Raises FoleyError when there is none.
    """
    if name is not None:
        return find_dataset(home, name)
    curated = [dataset for dataset in list_datasets(home) if dataset.role == CURATED]
    if not curated:
        raise FoleyError(f"there is no dataset in {home.home} yet: run foley curate FOLDER first")
    return max(curated, key=lambda dataset: dataset.created_at)
