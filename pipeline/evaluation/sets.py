"""Evaluation sets and systems.

Which videos, which reference sounds, and which file is a system's sound of which.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.curation.sources import MEDIA_SUFFIXES, folder_source
from pipeline.media import printable
from warehouse.errors import FoleyError

SOUND_SUFFIXES = frozenset({".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac"})


@dataclass(frozen=True)
class Item:
    """One video of a set.

    `reference` is the file with its true sound, the video itself unless there is another.
    """

    name: str
    video: Path
    reference: Path
    prompt: str = ""
    label: str = ""
    truth: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class EvaluationSet:
    """Videos with reference sound.

    `missing` are those that the set's list names and its folder lacks.
    """

    name: str
    items: tuple[Item, ...]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class System:
    """A system's sounds by the name of their video.

    `missing` videos have none, `unknown` files are of no video.
    """

    name: str
    sounds: Mapping[str, Path]
    missing: tuple[str, ...]
    unknown: tuple[str, ...]


def evaluation_set(
    folder: Path, name: str | None = None, reference: Path | None = None, limit: int | None = None
) -> EvaluationSet:
    """The set in a folder, by what lies in it.

    - `vggsound.csv` (id, start, label, split without a header): its test rows, files `ID_START.mp4` anywhere below;
    - `annotations/val.csv` or `val.csv` with Kinetics' header: files `ID_START_END.mp4` anywhere below;
    - else every video, with prompts and labels from a sidecar as `foley curate` takes it; MovieGenBench is such a
      folder, with its prompts in `metadata/NAME.json` or in the sidecar.
    `reference` is a folder of true sounds named as the videos are; without it the videos' own sound
    is the reference. `limit` keeps the first so many by name. Raises FoleyError where nothing is
    found or names come twice.
    """
    if not folder.is_dir():
        raise FoleyError(
            f"{printable(folder)}: no such folder, give the folder that holds the evaluation videos"
        )
    listed = _listed(folder)
    videos = _by_stem(folder, MEDIA_SUFFIXES)
    if listed is None:
        items = _described(folder, videos)
    else:
        items = [Item(n, videos[n], videos[n], *listed[n]) for n in sorted(listed) if n in videos]
    if not items:
        raise FoleyError(
            f"{printable(folder)}: no videos in it that its list names: nothing to evaluate on"
        )
    if reference is not None:
        items = [
            _with_reference(item, _by_stem(reference, SOUND_SUFFIXES | MEDIA_SUFFIXES))
            for item in items
        ]
    missing = tuple(sorted(set(listed or ()) - set(videos)))
    return EvaluationSet(name or folder.absolute().name, tuple(items[:limit]), missing)


def system(name: str, folder: Path, items: Sequence[Item]) -> System:
    """Match a folder of sounds (or of videos with sound) to the videos by name.

    Nothing is left out in silence.
    """
    if not folder.is_dir():
        raise FoleyError(
            f"{printable(folder)}: no such folder, give the folder with the sounds of system {name}"
        )
    found = _by_stem(folder, SOUND_SUFFIXES | MEDIA_SUFFIXES)
    names = {item.name for item in items}
    if not names & set(found):
        example = next(iter(sorted(names)))
        raise FoleyError(
            f"{printable(folder)}: no file is named as a video is (such as {example}.wav): wrong folder?"
        )
    sounds = {item: path for item, path in found.items() if item in names}
    return System(
        name, sounds, tuple(sorted(names - set(found))), tuple(sorted(set(found) - names))
    )


def _by_stem(folder: Path, suffixes: frozenset[str]) -> dict[str, Path]:
    if not folder.is_dir():
        raise FoleyError(f"{printable(folder)}: no such folder")
    found: dict[str, Path] = {}
    for path in sorted(
        p for p in folder.rglob("*") if p.suffix.lower() in suffixes and not p.name.startswith(".")
    ):
        if path.stem in found:
            raise FoleyError(
                f"{printable(path)}: a second file named {path.stem}: which of them counts? Remove one"
            )
        found[path.stem] = path
    return found


def _with_reference(item: Item, sounds: Mapping[str, Path]) -> Item:
    # one without stays with a path that is not there, so that its absence is a row
    path = sounds.get(item.name, Path(f"{item.name}.wav"))
    return Item(item.name, item.video, path, item.prompt, item.label, item.truth)


def _listed(folder: Path) -> dict[str, tuple[str, str]] | None:
    """(prompt, label) by file name of the lists that name every clip.

    None where there is no such list.
    """
    vggsound = folder / "vggsound.csv"
    if vggsound.is_file():
        rows = list(csv.reader(vggsound.read_text("utf-8").splitlines()))
        return {
            f"{r[0]}_{int(r[1]):06d}": (r[2], r[2]) for r in rows if len(r) >= 4 and r[3] == "test"
        }
    for path in (folder / "annotations" / "val.csv", folder / "val.csv"):
        if path.is_file():
            rows = list(csv.DictReader(path.read_text("utf-8").splitlines()))
            return {_kinetics_name(path, row): (row["label"], row["label"]) for row in rows}
    return None


def _kinetics_name(path: Path, row: Mapping[str, str]) -> str:
    try:
        return f"{row['youtube_id']}_{int(float(row['time_start'])):06d}_{int(float(row['time_end'])):06d}"
    except (KeyError, ValueError):
        raise FoleyError(
            f"{printable(path)}: needs columns label, youtube_id, time_start, time_end"
        ) from None


def _described(folder: Path, videos: Mapping[str, Path]) -> list[Item]:
    """Every video, with what a sidecar or a JSON file of its own says of it."""
    rows = {Path(row["path"]): row for row in folder_source(folder).clips.to_pylist()}
    items: list[Item] = []
    for name, path in sorted(videos.items()):
        row = rows.get(path.absolute(), {})
        own = folder / "metadata" / f"{name}.json"
        said: dict[str, Any] = json.loads(own.read_text("utf-8")) if own.is_file() else {}
        prompt = said.get("audio_prompt") or said.get("prompt") or row.get("prompt") or ""
        truth = json.loads(row["truth"]) if row.get("truth") else None
        items.append(Item(name, path, path, prompt, row.get("label") or "", truth))
    return items
