"""Evaluation sets and systems: which videos, which true sounds, which file is a system's sound."""

import csv
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.curation.sources import MEDIA_SUFFIXES, folder_source
from pipeline.download.kinetics import clip_name
from pipeline.media import printable
from warehouse.errors import FoleyError
from warehouse.files import Json

#: Of sounds, and of videos that hold one.
SOUND_SUFFIXES = MEDIA_SUFFIXES | {".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac"}


@dataclass(frozen=True)
class Item:
    """One video of a set; `reference` is the file with its true sound, often the video itself."""

    name: str
    video: Path
    reference: Path
    prompt: str = ""
    label: str = ""
    truth: Json | None = None


@dataclass(frozen=True)
class EvaluationSet:
    """Videos with true sound; `missing` are those that its list names and its folder lacks."""

    name: str
    items: tuple[Item, ...]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class System:
    """A system's sounds by video, videos that have none, and files named as no video is."""

    name: str
    sounds: Mapping[str, Path]
    missing: tuple[str, ...]
    unknown: tuple[str, ...]


def evaluation_set(
    folder: Path, name: str | None = None, reference: Path | None = None, limit: int | None = None
) -> EvaluationSet:
    """Read a folder as an evaluation set.

    Args:
        folder: one of three layouts.
            `vggsound.csv` (id, start, label, split, without a header): the rows of its split
            `test`, files `ID_START.mp4` anywhere below.
            `annotations/val.csv` or `val.csv` with Kinetics' header: files `ID_START_END.mp4`.
            Anything else: every video, with prompts and labels from a sidecar as `foley curate`
            reads it, or from `metadata/NAME.json` (MovieGenBench).
        name: name of the set; by default the folder's.
        reference: folder of true sounds, named as the videos are; by default the videos' own sound.
        limit: only the first so many videos by name.

    Raises:
        FoleyError: no video is found, or two have the same name.
    """
    texts = _listed(folder)
    videos = _files_by_name(folder, MEDIA_SUFFIXES, "the evaluation videos")
    if texts is None:
        items = _described(folder, videos)
    else:
        items = [
            Item(n, videos[n], videos[n], t, t) for n, t in sorted(texts.items()) if n in videos
        ]
    if not items:
        raise FoleyError(
            f"{printable(folder)}: no videos in it that its list names: nothing to evaluate on"
        )
    if reference is not None:
        sounds = _files_by_name(reference, SOUND_SUFFIXES, "the true sounds")
        # a sound that is not there gets a path that does not exist, so that its absence is a row
        items = [replace(i, reference=sounds.get(i.name, Path(f"{i.name}.wav"))) for i in items]
    missing = tuple(sorted(set(texts or ()) - set(videos)))
    return EvaluationSet(name or folder.absolute().name, tuple(items[:limit]), missing)


def system(name: str, folder: Path, items: Sequence[Item]) -> System:
    """Match a folder of sounds, or of videos with sound, to the videos by name.

    A sound alone comes before a video of its name, and NAME.SEED is the sound of NAME.

    Raises FoleyError when the folder does not exist or none of its files is named as a video is.
    """
    names = {item.name for item in items}
    files = _files_by_name(folder, SOUND_SUFFIXES, f"the sounds of system {name}", names)
    if not names & set(files):
        raise FoleyError(
            f"{printable(folder)}: no file is named as a video is (such as {min(names)}.wav): "
            "wrong folder?"
        )
    sounds = {item: path for item, path in files.items() if item in names}
    missing, unknown = sorted(names - set(files)), sorted(set(files) - names)
    return System(name, sounds, tuple(missing), tuple(unknown))


def _files_by_name(
    folder: Path, suffixes: frozenset[str], what: str, names: Collection[str] = ()
) -> dict[str, Path]:
    """Files of some kinds anywhere below a folder, by their name without its ending.

    Where `names` has a file's name without the seed at its end (as `foley generate` writes it),
    but not the name itself, it is that.
    """
    if not folder.is_dir():
        where = printable(folder)
        raise FoleyError(f"{where}: no such folder, give the folder that holds {what}")
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*"), key=lambda path: (_is_video(path), path)):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        bare = re.sub(r"\.\d+$", "", path.stem)
        name = bare if path.stem not in names and bare in names else path.stem
        before = files.setdefault(name, path)
        if before is path or (names and _is_video(path) and not _is_video(before)):
            continue
        raise FoleyError(
            f"{printable(path)}: a second file named {name}: which of them counts? Remove one"
        )
    return files


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in MEDIA_SUFFIXES


def _listed(folder: Path) -> dict[str, str] | None:
    """Label (which is the prompt too) by file name, from a list that names every clip."""
    vggsound = folder / "vggsound.csv"
    if vggsound.is_file():
        rows = csv.reader(vggsound.read_text("utf-8").splitlines())
        return {f"{r[0]}_{int(r[1]):06d}": r[2] for r in rows if len(r) >= 4 and r[3] == "test"}
    for path in (folder / "annotations" / "val.csv", folder / "val.csv"):
        if not path.is_file():
            continue
        rows = csv.DictReader(path.read_text("utf-8").splitlines())
        try:
            return {clip_name(row): row["label"] for row in rows}
        except (KeyError, ValueError):
            raise FoleyError(
                f"{printable(path)}: needs columns label, youtube_id, time_start, time_end"
            ) from None
    return None


def _described(folder: Path, videos: Mapping[str, Path]) -> list[Item]:
    """Every video, with what a sidecar or a JSON file of its own tells about it."""
    rows = {Path(row["path"]): row for row in folder_source(folder).clips.to_pylist()}
    items: list[Item] = []
    for name, path in sorted(videos.items()):
        row = rows.get(path.absolute(), {})
        file = folder / "metadata" / f"{name}.json"
        metadata: Json = json.loads(file.read_text("utf-8")) if file.is_file() else {}
        prompt = metadata.get("audio_prompt") or metadata.get("prompt") or row.get("prompt") or ""
        truth = json.loads(row["truth"]) if row.get("truth") else None
        items.append(Item(name, path, path, prompt, row.get("label") or "", truth))
    return items
