"""A folder of procedural clips, of flawed ones, and of a few broken ones, with their truth in `clips.jsonl`.

A broken file shows itself when it is opened. A flawed one is a good file: either another clip's
sound lies under its picture (mis-dubbed), or its own sound is degraded. Only scores can find it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import numpy as np

from pipeline.procedural.audio import SAMPLE_RATE, render_audio
from pipeline.procedural.clip import ProceduralClip, rng_of, sample_clip
from pipeline.procedural.degrading import KINDS, Audio, degrade
from pipeline.procedural.frames import render_frames
from pipeline.procedural.writing import write_clip, write_media
from warehouse.files import file_sha256

LEDGER = "clips.jsonl"
_RECIPE = 4  # raise when the same seed renders to other files
_SAVE_EVERY = 64  # clips between two savings of the ledger
MISDUBBED = "misdubbed"
FLAWS: tuple[str, ...] = (MISDUBBED, *KINDS)
_FLAWS_IN_TURN = (*KINDS, *[MISDUBBED] * 6)  # three mis-dubbed clips for two degraded ones
_MILDEST = 0.4  # severity, see `degrade`: our choice

Row = dict[str, Any]  # one line of the ledger
Progress = Callable[[int, int], None]  # (clips done, clips in all)


@dataclass(frozen=True)
class CorpusClip:
    """One file to be written.

    Its name, the clip it shows, how it is broken, and how it is flawed ("" for not).
    """

    name: str
    clip: ProceduralClip
    bad: str = ""
    flaw: str = ""

    def row(self, sha256: str, size: int) -> Row:
        """The ledger line of the written file.

        Flawed clips are given to the training split: what is held out then holds true clips alone,
        so that figures on it tell how good a model is, and not how much a policy let through.
        """
        truth = self.clip.truth() | {"bad": self.bad or None, "flaw": self.flaw or None}
        return {
            "file": self.name,
            "prompt": self.clip.prompt,
            "label": self.clip.material,
            **({"split": "train"} if self.flaw else {}),
            "truth": truth | _details(self),
            "recipe": _RECIPE,
            "sha256": sha256,
            "bytes": size,
        }

    def write(self, path: Path) -> None:
        """Render the file."""
        if self.flaw:
            write_media(path, render_frames(self.clip), _flawed_sound(self))
        else:
            _SPOIL.get(self.bad, write_clip)(self.clip, path)


def _details(item: CorpusClip) -> dict[str, object]:
    """What is known about a flaw."""
    if item.flaw == MISDUBBED:
        return {"sound_seed": _dubbed_by(item.clip).seed}
    return {"severity": _severity(item.clip)} if item.flaw else {}


def _flawed_sound(item: CorpusClip) -> Audio:
    if item.flaw == MISDUBBED:
        return render_audio(_dubbed_by(item.clip))
    return degrade(
        render_audio(item.clip), cast("Any", item.flaw), _severity(item.clip), item.clip.seed
    )


def _dubbed_by(clip: ProceduralClip) -> ProceduralClip:
    """The next clip of the same material and scene.

    Its sound is what the prompt says, at the wrong times.
    """
    others = (sample_clip(seed, clip.seconds) for seed in count(clip.seed + 1))
    return next(
        other for other in others if (other.material, other.scene) == (clip.material, clip.scene)
    )


def _severity(clip: ProceduralClip) -> float:
    return round(float(rng_of(clip.seed, 3).uniform(_MILDEST, 1)), 3)


def _silent(clip: ProceduralClip, path: Path) -> None:
    write_media(path, render_frames(clip), np.zeros(round(clip.seconds * SAMPLE_RATE), np.float32))


def _no_audio(clip: ProceduralClip, path: Path) -> None:
    write_media(path, render_frames(clip), None)


def _no_video(clip: ProceduralClip, path: Path) -> None:
    write_media(path, None, render_audio(clip))


def _truncated(clip: ProceduralClip, path: Path) -> None:
    write_clip(clip, path)
    os.truncate(
        path, path.stat().st_size * 6 // 10
    )  # the index is at the front: it opens, and ends too early


def _not_a_video(clip: ProceduralClip, path: Path) -> None:
    path.write_text(
        f"<!doctype html><title>404</title><p>{clip.prompt}: this clip is gone</p>\n",
        encoding="utf-8",
    )


def _empty(clip: ProceduralClip, path: Path) -> None:
    del clip
    path.write_bytes(b"")


_SPOIL: dict[str, Callable[[ProceduralClip, Path], None]] = {
    "silent": _silent,
    "no_audio": _no_audio,
    "no_video": _no_video,
    "truncated": _truncated,
    "not_a_video": _not_a_video,
    "empty": _empty,
}
BAD_KINDS: tuple[str, ...] = tuple(_SPOIL)


def plan_corpus(
    n: int, seed: int = 0, seconds: float = 4.0, bad: Sequence[str] = BAD_KINDS, flawed: int = 0
) -> list[CorpusClip]:
    """N good clips, `flawed` ones, and a broken one for every entry of `bad` (a kind may come more than once).

    Names are stable and unique, and do not tell a flawed clip from a good one.

    Raises ValueError for an unknown kind.
    """
    unknown = sorted(set(bad) - set(BAD_KINDS))
    if unknown:
        raise ValueError(
            f"no kind of bad clip is called {unknown[0]!r}: choose from {', '.join(BAD_KINDS)}"
        )
    first = seed * 1_000_000  # corpora of different seeds share no clip
    good = [CorpusClip(f"clip-{i:05d}.mp4", sample_clip(first + i, seconds)) for i in range(n)]
    spoiled = [
        CorpusClip(
            f"bad-{i:02d}-{kind.replace('_', '-')}.mp4",
            sample_clip(first + 900_000 + i, seconds),
            kind,
        )
        for i, kind in enumerate(bad)
    ]
    names = (f"clip-{n + i:05d}.mp4" for i in range(flawed))
    wrong = [
        CorpusClip(
            name,
            sample_clip(first + 800_000 + i, seconds),
            flaw=_FLAWS_IN_TURN[i % len(_FLAWS_IN_TURN)],
        )
        for i, name in enumerate(names)
    ]
    return good + wrong + spoiled


def write_corpus_clip(
    folder: Path, item: CorpusClip, known: Mapping[str, Any] | None = None
) -> Row:
    """Write one file of the corpus and give its ledger line; a file that is already as `known` says is left alone.

    Safe to run side by side for different items: it touches only its own file.
    """
    path = folder / item.name
    if known is not None and _is_right(path, item, known):
        return dict(known)
    partial = folder / f".{item.name}.{os.getpid()}.new"
    try:
        item.write(partial)
        digest, size = file_sha256(partial), partial.stat().st_size
        if not (path.is_file() and path.stat().st_size == size and file_sha256(path) == digest):
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return item.row(digest, size)


def _is_right(path: Path, item: CorpusClip, known: Mapping[str, Any]) -> bool:
    expected = item.row(str(known.get("sha256")), int(known.get("bytes", -1)))
    return known == expected and path.is_file() and file_sha256(path) == known["sha256"]


def read_ledger(folder: Path) -> dict[str, Row]:
    """The ledger's lines by file name; empty if there is none yet.

    A line that is not whole is left out.
    """
    rows: dict[str, Row] = {}
    path = folder / LEDGER
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            row: Row = json.loads(line)
            rows[str(row["file"])] = row
        except (ValueError, KeyError, TypeError):
            continue
    return rows


def write_ledger(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace the ledger by these lines, in one step."""
    partial = folder / f".{LEDGER}.{os.getpid()}.partial"
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    partial.replace(folder / LEDGER)


def write_corpus(
    folder: Path,
    n: int,
    seed: int = 0,
    *,
    seconds: float = 4.0,
    bad: Sequence[str] = BAD_KINDS,
    flawed: int = 0,
    workers: int = 1,
    progress: Progress | None = None,
) -> list[Row]:
    """Write the clips of `plan_corpus` into `folder`, with `clips.jsonl` (prompt, label, truth, sha256 by file).

    Files that are already right are not touched, so a second run writes nothing and an interrupted
    one goes on. Gives the ledger's lines in the order of the plan.
    """
    folder.mkdir(parents=True, exist_ok=True)
    items, known = plan_corpus(n, seed, seconds, bad, flawed), read_ledger(folder)
    ledger = dict(known)
    rows: list[Row] = []
    for row in _written(folder, items, known, workers):
        rows.append(row)
        ledger[row["file"]] = row
        if len(rows) % _SAVE_EVERY == 0 and ledger != known:
            write_ledger(folder, ledger.values())
        if progress is not None:
            progress(len(rows), len(items))
    if {row["file"]: row for row in rows} != known:
        write_ledger(folder, rows)
    return rows


def _written(
    folder: Path, items: list[CorpusClip], known: Mapping[str, Row], workers: int
) -> Iterable[Row]:
    lines = [known.get(item.name) for item in items]
    if workers <= 1:
        yield from (
            write_corpus_clip(folder, item, line) for item, line in zip(items, lines, strict=True)
        )
        return
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn")
    ) as pool:  # fork would copy a parent's threads
        yield from pool.map(write_corpus_clip, [folder] * len(items), items, lines, chunksize=8)
