"""What the studio's page asks for: takes by models that stay loaded, and the one that is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime
from os.path import commonpath
from pathlib import Path
from tempfile import mkdtemp
from threading import Event, Lock
from typing import TYPE_CHECKING
from zipfile import ZipFile

from pipeline.generation.dub import Dubbed, Dubbing, prepare
from pipeline.generation.options import GenerateOptions
from pipeline.generation.provenance import OF_THE_FILE, kept_provenance, sidecar_of, told_of
from pipeline.generation.requests import MUXED
from pipeline.generation.sources import own_sound
from warehouse.errors import FoleyError
from warehouse.files import make_folder
from warehouse.store import Warehouse

if TYPE_CHECKING:
    from pipeline.generation.generator import SoundGenerator

OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class Take:
    """A sound for a video: a WAV with its provenance beside it.

    `redo` is the stretch of an earlier take that was made anew, as in `foley generate --redo`.
    """

    video: Path
    sound: Path
    prompt: str
    seed: int
    redo: str | None = None


class StoppedError(FoleyError):
    """Somebody pressed Stop."""


class Workshop:
    """Makes sounds one request after another, and keeps the models that the last one used.

    Args:
        home: folder with all state; takes are in HOME/studio, each a row of its catalog.
        options: what the page does not ask for, such as the folder of weights and the device.

    """

    def __init__(self, home: Path, options: GenerateOptions) -> None:
        self.home, self.options = home, options
        self.folder = make_folder(home / "studio")
        self._one_at_a_time = Lock()
        self._loaded: tuple[object, SoundGenerator] | None = None

    def checkpoints(self) -> list[str]:
        """Ids of the bridges that were trained in the home folder, the newest first."""
        records = Warehouse(self.home).records("checkpoints")
        named = [(record["created_at"], record["id"]) for record in records if "of" not in record]
        return [id for _, id in sorted(named, reverse=True)]

    def takes(
        self, of: Path | Take, options: GenerateOptions, on_step: OnStep, stop: Event
    ) -> tuple[list[Take], list[str]]:
        """Make `options.takes` sounds, and lines on what is to be known of them.

        Args:
            of: a video, or an earlier take of which `options.redo` is made anew.
            options: prompt, seed, takes, bridge and the rest.
            on_step: told of steps done and to do.
            stop: ends the work at its next step when it is set.

        Raises FoleyError for what cannot be made, StoppedError where `stop` is set on the way.
        """
        video, source = (of.video, of.sound) if isinstance(of, Take) else (of, of)
        folder = self._new_folder(video.stem)
        dubbing = prepare(source, folder / f"{video.stem[:80]}.wav", options, self.home)
        takes: list[Take] = []
        notes = list(dubbing.notes)
        for sound in self._run(dubbing, on_step, stop):
            if sound.error:
                raise FoleyError(sound.error)
            notes += sound.notes
            made = sound.request
            takes.append(Take(video, made.out, made.prompt, made.seed, options.redo))
        return sorted(takes, key=lambda take: take.seed), notes

    def batch(
        self, source: Path, out: Path, options: GenerateOptions, on_step: OnStep, stop: Event
    ) -> Iterator[Dubbed]:
        """Sounds for a folder or a CSV, as they are made; raises as :meth:`takes` does."""
        yield from self._run(prepare(source, out, options, self.home), on_step, stop)

    def _run(self, dubbing: Dubbing, on_step: OnStep, stop: Event) -> Iterator[Dubbed]:
        def step(done: int, to_do: int) -> None:
            if stop.is_set():
                raise StoppedError("stopped: what was made before is kept")
            on_step(done, to_do)

        with self._one_at_a_time:
            try:
                yield from dubbing.run(step, self._models)
            finally:
                Warehouse(self.home).publish_if_possible()

    def keep(self, take: Take) -> list[Path]:
        """Write a take's video beside its sound; the files to download.

        Raises FoleyError if the video cannot be written.
        """
        from pipeline.media import check_holds, mux

        suffix = take.video.suffix if take.video.suffix.lower() in MUXED else ".mkv"
        out = take.sound.with_suffix(suffix)
        check_holds(take.video, out)
        told = told_of(take.sound)
        sound = own_sound(take.sound)
        facts = {name: told[name] for name in told if name not in OF_THE_FILE}
        with kept_provenance(out, facts, Warehouse(self.home)):
            mux(take.video, sound.samples, sound.sample_rate, out)
        Warehouse(self.home).publish_if_possible()
        return [out, take.sound, sidecar_of(out)]

    def packed(self, sounds: Sequence[Path], name: str) -> Path:
        """One file to download, `name`.zip: sounds of a batch, their sidecars beside them.

        Raises FoleyError where it cannot be written.
        """
        root = Path(commonpath([sound.absolute().parent for sound in sounds]))
        archive = self._new_folder(name) / f"{name}.zip"
        files = [path for sound in sounds for path in (sound, sidecar_of(sound))]
        try:
            with ZipFile(archive, "w") as pack:
                for path in files:  # which are compressed already
                    pack.write(path, path.absolute().relative_to(root))
        except OSError as error:
            raise FoleyError(f"{archive.name} cannot be written: {error}") from None
        return archive

    def _models(self, dubbing: Dubbing) -> SoundGenerator:
        """Those that a request asks for: loaded for the one before, or now."""
        options = dubbing.options
        key = (options.preset, options.weights, options.settings, dubbing.checkpoint.path)
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # before others take their memory
            self._loaded = (key, dubbing.load())
        generator = self._loaded[1]
        if not options.low_memory:
            generator = copy(generator)  # which may let its encoder go: the loaded one keeps it
        generator.preset = generator.preset.model_copy(update={"sample": dubbing.preset.sample})
        return generator

    def _new_folder(self, stem: str) -> Path:
        now = datetime.now(UTC).strftime("%Y-%m-%d-%H%M%S")
        return Path(mkdtemp(prefix=f"{now}-", suffix=f"-{stem[:40]}", dir=self.folder))
