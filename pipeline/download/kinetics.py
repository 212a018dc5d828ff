"""Kinetics-700-2020 as its public mirror lays it out: lists of archives, and annotations.

Layout and counts were read from the mirror and its users' reports
(`https://s3.amazonaws.com/kinetics/700_2020/`).
"""

import csv
import io
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urljoin

from pipeline.download.transfer import Fetcher, TransferError, address
from pipeline.download.units import Choice, UnitResult, archive_folder
from warehouse.errors import FoleyError
from warehouse.files import Json

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
#: Clips that two published counts give; the paper says about 700,000 in all.
PUBLISHED: Mapping[str, tuple[int, int]] = {
    "train": (534_000, 536_000),
    "val": (34_000, 34_000),
    "test": (64_000, 64_000),
}


@dataclass(frozen=True)
class Kinetics:
    """What is taken: `classes` are labels, all when empty; `template` makes a prompt of a label."""

    base_url: str
    splits: tuple[Split, ...] = SPLITS
    classes: tuple[str, ...] = ()
    template: str = "{label}"
    archives: int | None = None  # at most so many of each split


@dataclass(frozen=True)
class Annotation:
    """One row of the annotations; `label` is None where the split has none."""

    file: str
    label: str | None
    split: str


def clip_name(row: Mapping[str, str]) -> str:
    """How the clip of a row is named; raises KeyError or ValueError for a row of something else."""
    start, end = (int(float(row[name])) for name in ("time_start", "time_end"))
    return f"{row['youtube_id']}_{start:06d}_{end:06d}"


def annotated_clips(fetcher: Fetcher, chosen: Kinetics, split: Split) -> list[Annotation]:
    """The rows of a split's CSV; raises FoleyError where a column is missing or a row is wrong."""
    url = urljoin(chosen.base_url, f"annotations/{split}.csv")
    rows: list[Annotation] = []
    try:
        for row in csv.DictReader(io.StringIO(fetcher.text(url))):
            label = (row.get("label") or "").strip() or None
            rows.append(Annotation(f"{clip_name(row)}.mp4", label, split))
    except (KeyError, ValueError, TypeError) as error:
        raise FoleyError(
            f"{url}: not Kinetics annotations, {type(error).__name__} {error}"
        ) from error
    labels = {row.label for row in rows}
    unknown = [label for label in chosen.classes if label not in labels]
    if unknown and labels != {None}:
        raise FoleyError(f"{url}: no class is called {unknown[0]!r}")
    return rows


def archives(fetcher: Fetcher, chosen: Kinetics, split: Split) -> list[str]:
    """Addresses of a split's archives; which classes lie in which of them is not published."""
    listing = urljoin(chosen.base_url, f"{split}/k700_2020_{split}_path.txt")
    lines = [line.strip() for line in fetcher.text(listing).splitlines()]
    urls = [_safe(listing, line) for line in lines if line]
    if not urls:
        raise FoleyError(f"{listing}: lists no archive")
    return urls[: chosen.archives]


def choice(chosen: Kinetics, annotated: Sequence[Annotation]) -> Choice:
    """The clips of the chosen classes."""
    if not chosen.classes:
        return Choice()
    files = frozenset(row.file for row in annotated if row.label in chosen.classes)
    return Choice(files, len(files) / max(1, len(annotated)))


def _safe(listing: str, url: str) -> str:
    try:
        address(url)
    except TransferError:
        raise FoleyError(f"{listing}: {url[:100]!r} is no address of an archive") from None
    return quote(url, safe=":/%?&=")


@dataclass(frozen=True)
class Comparison:
    """Clips of a download as rows of a sidecar, and how they compare with what is published."""

    rows: list[Json]
    without_video: list[str]
    without_row: list[str]
    counts: dict[str, dict[str, int]]


def compare(
    chosen: Kinetics, annotated: Sequence[Annotation], done: Collection[UnitResult], root: Path
) -> Comparison:
    """Join clips with their annotations; one that has none keeps the label of its folder."""
    by_file = {(row.split, row.file): row for row in annotated}
    rows: list[Json] = []
    without_row: list[str] = []
    seen: set[tuple[str, str]] = set()
    for unit in done:
        folder = archive_folder(root, unit.url)
        split = folder.parent.name
        for clip in unit.manifest.get("clips", ()):
            row = by_file.get((split, clip["file"]))
            label = row.label if row is not None and row.label else _class_of(clip["label"], split)
            unwanted = chosen.classes and label not in chosen.classes
            if unwanted or (split, clip["file"]) in seen:
                continue
            seen.add((split, clip["file"]))
            path = (folder / clip["file"]).relative_to(root)
            if row is None:
                without_row.append(str(path))
            facts = {"file": str(path), "label": label, "split": split, "url": unit.url}
            prompt = chosen.template.format(label=label) if label else ""
            rows.append(facts | {"youtube_id": clip["file"][:11], "prompt": prompt})
    wanted = [row for row in annotated if not chosen.classes or row.label in chosen.classes]
    without_video = [
        f"{row.split}/{row.file}" for row in wanted if (row.split, row.file) not in seen
    ]
    here, annotations = Counter(row["split"] for row in rows), Counter(row.split for row in wanted)
    counts = {
        split: {
            "clips": here[split],
            "annotated": annotations[split],
            "published_least": PUBLISHED[split][0],
            "published_most": PUBLISHED[split][1],
            "short_of_published": max(0, PUBLISHED[split][0] - here[split]),
        }
        for split in chosen.splits
    }
    return Comparison(rows, without_video, without_row, counts)


def _class_of(folder: str | None, split: str) -> str | None:
    """The label that a clip's folder gives, if any."""
    no_label = split == "test" or folder in (split, ".", "replacement")
    return None if no_label else folder or None
