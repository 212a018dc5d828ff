"""A folder of rendered clips, flawed ones and a few broken ones; `clips.jsonl` tells which.

A broken file shows itself when it is opened. A flawed one is a good file: either another clip's
sound lies under its picture (mis-dubbed), or its own sound is degraded. Only scores can find it.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import ClassVar, cast

import numpy as np

from model.types import Audio, Frames
from pipeline.procedural.audio import SAMPLE_RATE, render_audio
from pipeline.procedural.clip import ProceduralClip, rng_of, sample_clip
from pipeline.procedural.degrading import KINDS, Kind, degrade
from pipeline.procedural.frames import FPS, render_frames
from pipeline.procedural.overlaying import OVERLAYS, overlay
from pipeline.procedural.writing import write_media
from warehouse.files import Json, file_sha256

LEDGER = "clips.jsonl"
MISDUBBED = "misdubbed"
FLAWS: tuple[str, ...] = (MISDUBBED, *KINDS)
BAD_KINDS = ("silent", "no_audio", "no_video", "truncated", "not_a_video", "empty")
_RECIPE = 4  # raise when the same seed renders to other files
_SAVE_EVERY = 64  # clips between two savings of the ledger
_FLAWS_IN_TURN = (*KINDS, *[MISDUBBED] * 6)  # three mis-dubbed clips for two degraded ones
_MILDEST = 0.4  # severity, see `degrade`: our choice

Row = Json  # one line of the ledger
Progress = Callable[[int, int], None]  # (clips done, clips in all)


@dataclass(frozen=True)
class Rendered:
    """A clip that a corpus can write, the same every time; a worker process is sent it."""

    seed: int  # what its flaws are drawn from
    seconds: float  # its length
    prompt: str  # what is seen and heard
    label: str  # its class
    frames: Callable[[], Frames]  # its picture, uint8 [T, H, W, 3]
    audio: Callable[[], Audio]  # its sound, float32 [n] or [2, n]
    truth: Callable[[], Json]  # what happens in it, as JSON values
    another: "Callable[[], Rendered]"  # a clip that the prompt fits too, with hits at other times
    fps: float = FPS  # frames a second
    sample_rate: int = SAMPLE_RATE  # samples a second


def rendered(clip: ProceduralClip) -> Rendered:
    """A procedural clip, as a corpus writes it."""
    frames, audio = partial(render_frames, clip), partial(render_audio, clip)
    about = clip.seed, clip.seconds, clip.prompt, clip.material
    return Rendered(*about, frames, audio, clip.truth, partial(_another, clip))


def _another(clip: ProceduralClip) -> Rendered:
    """The next clip of this material and scene."""
    others = (sample_clip(seed, clip.seconds) for seed in count(clip.seed + 1))
    looks = (clip.material, clip.scene)
    return rendered(next(other for other in others if (other.material, other.scene) == looks))


@dataclass(frozen=True)
class CorpusClip:
    """One file of a corpus: the clip it shows, how it is broken, how it is flawed ("" for not)."""

    name: str
    clip: Rendered
    bad: str = ""
    flaw: str = ""
    split: str = ""
    pair: str = ""  # of counterfactual clips, which count as one video

    def row(self, sha256: str, size: int) -> Row:
        """The ledger line of the written file.

        Flawed clips are given to the training split: what is held out then holds true clips alone,
        so that figures on it tell how good a model is, and not how much a policy let through.
        """
        truth = self.clip.truth() | {"bad": self.bad or None, "flaw": self.flaw or None}
        if self.flaw == MISDUBBED:
            truth["sound_seed"] = self.clip.another().seed
        elif self.flaw:
            truth["severity"] = self._severity()
        if self.pair:
            truth["pair"] = self.pair
        return {
            "file": self.name,
            **({"source_video": self.pair} if self.pair else {}),
            "prompt": self.clip.prompt,
            "label": self.clip.label,
            **({"split": split} if (split := "train" if self.flaw else self.split) else {}),
            "truth": truth,
            "recipe": _RECIPE,
            "sha256": sha256,
            "bytes": size,
        }

    def write(self, path: Path) -> None:
        """Render the file."""
        if self.bad:
            _write_broken(path, self.clip, self.bad)
        else:
            _write(path, self.clip, self.sound())

    def sound(self) -> Audio:
        """The sound of the file -> [n] or [2, n] at the rate of the clip."""
        if self.flaw == MISDUBBED:
            return self.clip.another().audio()
        if not self.flaw:
            return self.clip.audio()
        given = self._severity(), self.clip.seed, self.clip.sample_rate
        if self.flaw in OVERLAYS:
            return overlay(self.clip.audio(), self.flaw, *given)
        return degrade(self.clip.audio(), cast("Kind", self.flaw), *given)

    def _severity(self) -> float:
        return round(float(rng_of(self.clip.seed, 3).uniform(_MILDEST, 1)), 3)


def _write(path: Path, clip: Rendered, sound: Audio | None) -> None:
    write_media(path, clip.frames(), sound, clip.fps, clip.sample_rate)


def _write_broken(path: Path, clip: Rendered, kind: str) -> None:
    match kind:
        case "silent":
            _write(path, clip, np.zeros(round(clip.seconds * clip.sample_rate), np.float32))
        case "no_audio":
            _write(path, clip, None)
        case "no_video":
            write_media(path, None, clip.audio(), clip.fps, clip.sample_rate)
        case "truncated":
            _write(path, clip, clip.audio())
            # the index is at the front: the file opens, and ends too early
            os.truncate(path, path.stat().st_size * 6 // 10)
        case "not_a_video":
            page = f"<!doctype html><title>404</title><p>{clip.prompt}: this clip is gone</p>\n"
            path.write_text(page, encoding="utf-8")
        case _:
            path.write_bytes(b"")


@dataclass(frozen=True)
class Corpus:
    """What a corpus holds: good clips, flawed ones, and a broken one for every entry of `bad`.

    Corpora of different seeds share no clip. Raises ValueError for an unknown kind of broken clip.
    """

    good: int
    seed: int = 0
    seconds: float = 4.0
    bad: tuple[str, ...] = BAD_KINDS
    flawed: int = 0
    flaws: ClassVar[tuple[str, ...]] = _FLAWS_IN_TURN

    def __post_init__(self) -> None:
        for kind in self.bad:
            if kind not in BAD_KINDS:
                choices = ", ".join(BAD_KINDS)
                raise ValueError(f"no kind of bad clip is called {kind!r}: choose from {choices}")

    def clip(self, number: int) -> Rendered:
        """The clip of a number, another one for every seed of a corpus."""
        return rendered(sample_clip(self.seed * 1_000_000 + number, self.seconds))

    def clips(self) -> list[CorpusClip]:
        """The files; their names are stable, and do not tell a flawed clip from a good one."""
        good = [CorpusClip(f"clip-{i:05d}.mp4", self.clip(i)) for i in range(self.good)]
        flaws = [self.flaws[i % len(self.flaws)] for i in range(self.flawed)]
        flawed = [
            CorpusClip(f"clip-{self.good + i:05d}.mp4", self.clip(800_000 + i), flaw=flaw)
            for i, flaw in enumerate(flaws)
        ]
        broken = [
            CorpusClip(f"bad-{i:02d}-{kind.replace('_', '-')}.mp4", self.clip(900_000 + i), kind)
            for i, kind in enumerate(self.bad)
        ]
        return good + flawed + broken


def write_corpus(
    folder: Path, corpus: Corpus, workers: int = 1, progress: Progress | None = None
) -> list[Row]:
    """Write a corpus with its `clips.jsonl`: prompt, label, truth and sha256 by file.

    Files that are already right are not touched, so a second run writes nothing and an interrupted
    one goes on.

    Returns:
        The lines of `clips.jsonl`, in the order of `corpus.clips()`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clips, before = corpus.clips(), read_ledger(folder)
    ledger = dict(before)
    rows: list[Row] = []
    for row in _write_clips(folder, clips, before, workers):
        rows.append(row)
        ledger[row["file"]] = row
        if len(rows) % _SAVE_EVERY == 0 and ledger != before:
            _write_ledger(folder, ledger.values())
        if progress is not None:
            progress(len(rows), len(clips))
    if {row["file"]: row for row in rows} != before:
        _write_ledger(folder, rows)
    return rows


def _write_clips(
    folder: Path, clips: list[CorpusClip], ledger: Mapping[str, Row], workers: int
) -> Iterator[Row]:
    before = [ledger.get(clip.name) for clip in clips]
    if workers <= 1:
        for clip, row in zip(clips, before, strict=True):
            yield _write_clip(folder, clip, row)
        return
    spawn = get_context("spawn")  # fork would copy a parent's threads
    with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        yield from pool.map(_write_clip, [folder] * len(clips), clips, before, chunksize=8)


def _write_clip(folder: Path, item: CorpusClip, before: Row | None) -> Row:
    """Write one file, unless it is already as its ledger line says, and give its ledger line."""
    path = folder / item.name
    if before is not None and _is_right(path, item, before):
        return before
    partial = folder / f".{item.name}.{os.getpid()}.new"
    try:
        item.write(partial)
        digest, size = file_sha256(partial), partial.stat().st_size
        if not (path.is_file() and path.stat().st_size == size and file_sha256(path) == digest):
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return item.row(digest, size)


def _is_right(path: Path, item: CorpusClip, row: Row) -> bool:
    expected = item.row(str(row.get("sha256")), int(row.get("bytes", -1)))
    return row == expected and path.is_file() and file_sha256(path) == row["sha256"]


def read_ledger(folder: Path) -> dict[str, Row]:
    """The ledger's lines by file name, without any that is torn; empty if there is no ledger."""
    rows: dict[str, Row] = {}
    path = folder / LEDGER
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            row: Row = json.loads(line)
            rows[str(row["file"])] = row
        except (ValueError, KeyError, TypeError):
            continue
    return rows


def _write_ledger(folder: Path, rows: Iterable[Row]) -> None:
    partial = folder / f".{LEDGER}.{os.getpid()}.partial"
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    partial.replace(folder / LEDGER)
