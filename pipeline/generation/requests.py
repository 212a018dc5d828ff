"""What `foley generate` is asked for: one sound, and the file that it goes to."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.generation.cues import Cue, read_cues
from pipeline.generation.options import SoundOptions
from pipeline.generation.retake import read_spans
from pipeline.generation.sources import earlier_seconds, sound_seconds, video_seconds
from pipeline.media import MediaError, printable, probe, timecode_of
from warehouse.errors import FoleyError
from warehouse.files import file_sha256

MUXED, SOUND_ALONE = (".mp4", ".m4v", ".mov", ".mkv", ".webm"), (".wav", ".flac")
STEM = ".stem.wav"  # in place of the extension
_SLACK = 0.05  # seconds by which a stretch may end behind the sound: lengths are told rounded
LONGEST_NAME = 255  # bytes, of file systems in use
Place = Path | tuple[int, int]  # a resolved path, or a device and an inode


@dataclass(frozen=True)
class Request:
    """One file to write: a video with its sound, or the sound alone; of text alone, no video."""

    video: Path | None
    out: Path
    prompt: str
    seed: int
    negative_prompt: str | None = None
    options: SoundOptions = field(default_factory=SoundOptions)
    earlier: Path | None = None  # the sound of which only a part is made anew

    def length(self) -> float:
        """Seconds of sound.

        Raises MediaError if the video cannot be used or an option lies behind the sound's end,
        FoleyError where there is neither a video nor a length.
        """
        seconds, options = self._seconds(), self.options
        starts = [(cue.start, f"cue {cue.prompt!r}") for cue in self.cues()]
        spans = read_spans(options.redo or "")
        starts += [(start, f"--redo {options.redo}") for start, _ in spans]
        ends = [(stop, f"--redo {options.redo}") for _, stop in spans]
        behind = [f"{what} starts behind it" for start, what in starts if start >= seconds]
        behind += [f"{what} reaches behind it" for stop, what in ends if stop > seconds + _SLACK]
        if behind:
            where = self.earlier or self.video or self.out
            raise MediaError(where, f"ends at {seconds:g} s: {behind[0]}")
        return seconds

    def _seconds(self) -> float:
        if self.video is not None and self.options.mix is not None:
            sound_seconds(self.video)
        if self.earlier is not None:
            return earlier_seconds(self.earlier)
        if self.video is not None:
            return video_seconds(self.video)
        if self.options.seconds is None:
            raise FoleyError("sound for what? name a video, or give --seconds for a text alone")
        return self.options.seconds

    def cues(self) -> list[Cue]:
        """Prompts over time, if there are any. Raises FoleyError, as `read_cues` does."""
        if self.options.cues is None:
            return []
        fps = probe(self.video).fps if self.video else None
        return read_cues(self.options.cues, fps, timecode_of(self.video) if self.video else None)

    def of_models(self) -> Request:
        """It without what is done to the sound after the models: equal ones are sampled once."""
        later = {"sample_rate": None, "loudness": None, "mix": None, "keep_audio": False}
        return replace(self, out=Path(), options=self.options.model_copy(update=later))

    def stem(self) -> Request:
        """The new sound by itself, as it goes into the mix, in a file beside this one.

        Raises FoleyError where this one holds nothing else.
        """
        if self.options.mix is None and self.out.suffix.lower() not in MUXED:
            raise FoleyError(f"--stem: {printable(self.out)} is the new sound by itself already")
        alone: dict[str, object] = {"mix": None, "keep_audio": False}
        if self.options.mix is not None:
            alone["loudness"] = None  # which is that of the mix
        options = self.options.model_copy(update=alone)
        return replace(self, out=self.out.with_suffix(STEM), options=options)

    def facts(self) -> dict[str, object]:
        """What the sound is made of: video and its hash, prompts, seed, options."""
        video = self.video
        return {
            "video": video and {"path": str(video.absolute()), "sha256": file_sha256(video)},
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt,
            "seed": self.seed,
            "options": self.options.facts(),
            **({"earlier": {"sha256": file_sha256(self.earlier)}} if self.earlier else {}),
        }


def places_of(files: Iterable[Path]) -> set[Place]:
    """What tells files apart under all their names: paths, and those that exist by their inode."""
    places: set[Place] = set()
    for file in files:
        places.add(file.resolve())
        with suppress(OSError):
            stat = file.stat()
            places.add((stat.st_dev, stat.st_ino))
    return places


def check_out(out: Path, taken: Collection[Place]) -> None:
    """Raises FoleyError if `out` is at a place of a file to read, or no kind of file we write."""
    if any(place in taken for place in places_of([out])):
        raise FoleyError(f"{printable(out)} is one of the files to read: choose another to write")
    if len(name := os.fsencode(f"{out.name}.json")) > LONGEST_NAME:
        raise FoleyError(
            f"{printable(out)}: a name too long to write: with the sidecar's .json it has "
            f"{len(name)} bytes, more than {LONGEST_NAME}"
        )
    if out.suffix.lower() not in (*MUXED, *SOUND_ALONE):
        endings = ", ".join((*MUXED, *SOUND_ALONE))
        raise FoleyError(
            f"{printable(out)} cannot be written: the name must end in one of {endings}"
        )
