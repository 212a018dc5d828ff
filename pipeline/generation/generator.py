"""The models that make sound for videos: from a file and a prompt to sound with its provenance."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from model.bridge_file import read_bridge_facts
from model.foley import FoleyControl
from model.low_memory import check_torchao
from model.presets.preset import Preset
from model.presets.settings import SampleSettings
from model.sampling.request import SoundRequest
from model.types import Audio
from model.video_encoder import VideoEncoder, frame_times
from model.weights.device import choose_device, sampling_dtype
from model.weights.files import BRIDGE_FILE
from pipeline.generation.asking import Watched, notes_on, scene_cuts, sound_request
from pipeline.generation.finishing import finish
from pipeline.generation.listing import of_call
from pipeline.generation.options import SoundOptions, sample_settings
from pipeline.generation.provenance import code_version, kept_provenance, model_facts
from pipeline.generation.requests import Request, check_out, places_of
from pipeline.generation.sources import since_midnight
from pipeline.generation.unwanted import Unwanted, load_tagger
from pipeline.media import Framing, Muxing, mux, printable, read_segments, write_flac, write_wav
from pipeline.scoring.tags import Tagger
from warehouse.errors import FoleyError
from warehouse.files import Json
from warehouse.store import Warehouse

T = TypeVar("T")
_Heard = tuple[Audio, tuple[str, ...]]  # a sound, and lines on what was heard in it


@dataclass(frozen=True)
class GeneratedSound:
    """Sound for a video.

    Attributes:
        audio: samples [channels, S] in -1..1.
        sample_rate: samples a second.
        video: the file whose picture it was made for; None for text alone.
        provenance: the video and its hash, prompt, seed, preset, models, settings and device.
        options: what the sound, and the file with it, are to be like.
        notes: lines on what is to be known of it, such as what was heard that is not to be there.

    """

    audio: Audio
    sample_rate: int
    video: Path | None
    provenance: Json
    options: SoundOptions = field(default_factory=SoundOptions)
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Length of the sound: that of the video where there is one."""
        return self.audio.shape[1] / self.sample_rate

    def save(self, out: str | Path, home: Warehouse | None = None) -> list[str]:
        """Write the video with this sound in place of its own; .wav and .flac are the sound alone.

        The picture is copied bit for bit. `OUT.json` beside it holds the provenance with the hash
        of the file, and so does a record of `home`.

        Returns:
            A line for everything of the video that `out` cannot hold, such as its subtitles.

        Raises:
            FoleyError: `out` cannot be written, is the video itself, or has another extension
                than .mp4, .m4v, .mov, .mkv, .webm, .wav or .flac.

        """
        out = Path(out)
        check_out(out, places_of([self.video] if self.video else []))
        out.parent.mkdir(parents=True, exist_ok=True)
        with kept_provenance(out, self.provenance, home):
            left_out = self._write(out)
        return [f"{printable(out)}: {line}" for line in left_out]

    def _write(self, out: Path) -> list[str]:
        work = bool(self.options.sample_rate or self.options.redo)  # not a last copy: all bits
        if out.suffix.lower() == ".wav":
            start = since_midnight(self.video, self.sample_rate)
            write_wav(out, self.audio, self.sample_rate, 24 if work else 16, start)
        elif out.suffix.lower() == ".flac":
            write_flac(out, self.audio, self.sample_rate, 24 if work else 16)
        elif self.video is None:
            raise FoleyError(f"{printable(out)}: there is no picture: write .wav or .flac")
        else:
            how = Muxing(self.options.keep_audio, pcm=work)
            return mux(self.video, self.audio, self.sample_rate, out, how)
        return []


def _or_error(make: Callable[..., T], *arguments: object) -> T | FoleyError:
    """What `make` gives, or why it cannot."""
    try:
        return make(*arguments)
    except FoleyError as error:
        return error


class SoundGenerator:
    """A preset's encoder, backbone and bridge on a device, ready to make sound for files.

    Args:
        preset: which models, and how they sample.
        bridge: a bridge.safetensors; None for the one beside the preset's weights.
        device: cpu, cuda, cuda:N, or auto: cuda where there is one.
        low_memory: keep the DiT's matrices in 8 bits, and one model at a time on the device.

    Raises:
        FoleyError: there is no bridge.
        ModelError: there is no such device, or no torchao for `low_memory`.
        WeightsError: weights are missing or do not fit.

    """

    def __init__(
        self,
        preset: Preset,
        bridge: Path | None = None,
        device: str = "auto",
        low_memory: bool = False,
    ) -> None:
        self.device = choose_device(device)
        if low_memory:
            check_torchao()
        on_gpu = self.device.startswith("cuda")
        self._dtype = sampling_dtype(self.device)
        path = bridge or preset.weights / BRIDGE_FILE
        facts = read_bridge_facts(path)
        self.preset = facts.apply(preset, path)
        self._encoder: VideoEncoder | None = self._load_encoder()
        self._tagger: Tagger | None = None
        self.foley = FoleyControl.from_pretrained(self.preset, path).to(self.device, self._dtype)
        if low_memory:
            self.foley.lower_memory()
        self._models = model_facts(self.preset, path, facts)
        self._machine = {
            "device": torch.cuda.get_device_name(self.device) if on_gpu else "cpu",
            "precision": ("int8 " if low_memory else "") + str(self._dtype).removeprefix("torch."),
            "code": code_version(),
        }

    def _load_encoder(self) -> VideoEncoder:
        encoder = VideoEncoder.from_pretrained(self.preset, self.device)
        encoder.model.to(self._dtype)
        return encoder

    @property
    def encoder(self) -> VideoEncoder:
        """The video encoder, loaded again where it was let go."""
        if self._encoder is None:
            self._encoder = self._load_encoder()
        return self._encoder

    def let_encoder_go(self) -> None:
        """Free the memory of the video encoder."""
        self._encoder = None

    def generate(
        self,
        video: str | Path | None,
        prompt: str | None = None,
        *,
        negative_prompt: str | None = None,
        seed: int = 0,
        cfg: float | None = None,
        video_cfg: float | None = None,
        steps: int | None = None,
        **options: object,
    ) -> GeneratedSound:
        """Make sound for one video, as long as its picture, or of text alone.

        Args:
            video: a file with a picture of at most an hour, at any frame rate; None for text
                alone, of so many `seconds`.
            prompt: what is to be heard; "" lets the video alone decide.
            negative_prompt: what is not to be heard.
            seed: 0 to 2**31 - 1; the same seed gives the same sound.
            cfg: guidance by text and video; None for the preset's, as for the next two.
            video_cfg: guidance by video, where it is not to be the same.
            steps: sampling steps.
            options: fields of pipeline.generation.options.SoundOptions, such as `seconds`; with
                `redo` the file is a sound, or a video with it, and None for the prompt is that of
                its sidecar.

        Raises:
            FoleyError: the video is missing, damaged or too long.

        Example:
            >>> sound = foley.load("toy").generate("clip.mp4", "a ball bounces on wood", steps=20)
            >>> sound.audio.shape, sound.sample_rate
            ((1, 64000), 16000)

        """
        path = None if video is None else Path(video)
        request = of_call(path, prompt, seed, negative_prompt, SoundOptions.of(**options))
        settings = sample_settings(self.preset, cfg=cfg, video_cfg=video_cfg, steps=steps)
        seconds = request.length()
        seen = request.video
        watched = None if seen is None else self.watch(seen, seconds, request.options.across_cuts)
        (made,) = self.sounds([(request, seconds, watched)], settings)
        if isinstance(made, FoleyError):
            raise made
        return made

    def tokens(self, video: Path, seconds: float) -> Tensor:
        """Video tokens [J, P, V] of a whole file, read and encoded segment by segment."""
        settings = self.preset.video
        times = frame_times(seconds, settings.fps)
        framing = Framing(settings.short_side, settings.crop)
        segments = read_segments(video, times, framing, settings.segment_frames)
        return torch.cat([tokens.cpu() for tokens in self.encoder.encode_segments(segments)])

    def watch(self, video: Path, seconds: float, across_cuts: bool = False) -> Watched:
        """A video's tokens, and where its scenes change unless that is all one; or MediaError."""
        cuts = () if across_cuts else scene_cuts(video, seconds)
        return Watched(self.tokens(video, seconds), cuts)

    def sounds(
        self,
        inputs: Sequence[tuple[Request, float, Watched | None]],
        settings: SampleSettings | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> list[GeneratedSound | FoleyError]:
        """The sound of each request, given its seconds and its video, or why there is none."""
        settings = settings or self.preset.sample
        if self._tagger is None and any(request.options.without for request, _, _ in inputs):
            self._tagger = load_tagger(self.preset)  # before the work that it is to judge
        keys = [request.of_models() for request, _, _ in inputs]
        distinct = dict(zip(keys, inputs, strict=True))  # a mix and its stem are sampled once
        asked = {k: _or_error(sound_request, self.foley, *given) for k, given in distinct.items()}
        if self.foley.low_memory:
            self.let_encoder_go()
        usable = [one for one in asked.values() if not isinstance(one, FoleyError)]
        audios = iter(self.foley.generate(usable, settings, on_step))
        made = {
            k: one
            if isinstance(one, FoleyError)
            else _or_error(self._heard, k.options, one, next(audios), settings)
            for k, one in asked.items()
        }
        return [
            one
            if isinstance(one := made[key], FoleyError)
            else _or_error(self._finished, request, seconds, one, settings)
            for key, (request, seconds, _) in zip(keys, inputs, strict=True)
        ]

    def _heard(
        self, options: SoundOptions, asked: SoundRequest, audio: Audio, settings: SampleSettings
    ) -> _Heard:
        """What the models made, heard by the tagger, with lines on what that was."""
        if not options.without or self._tagger is None:
            return audio, ()
        unwanted = Unwanted(tuple(options.without.split(",")), self._tagger)
        return unwanted.made_again(self.foley, asked, audio, settings)

    def _finished(
        self, request: Request, seconds: float, made: _Heard, settings: SampleSettings
    ) -> GeneratedSound:
        """The sound brought to its level, with its provenance."""
        options, (audio, heard) = request.options, made
        notes = notes_on(self.foley, request, seconds)
        audio, rate, levels, gain = finish(request, audio, self.preset.sample_rate)
        told = self._provenance(request, audio, rate, settings)
        told |= {"heard": list(heard)} if heard else {}
        told |= {"gain": round(gain, 3)} if gain else {}  # dB, which a retake of it has, too
        return GeneratedSound(audio, rate, request.video, told, options, (*notes, *heard, *levels))

    def _provenance(
        self, request: Request, audio: Audio, rate: int, settings: SampleSettings
    ) -> dict[str, object]:
        window = self.preset.window.model_dump()
        return {
            "seconds": audio.shape[1] / rate,
            "sample_rate": rate,
            "channels": len(audio),
            **request.facts(),
            **self._models,
            "settings": settings.model_dump(exclude={"fast_steps"}) | {"window": window},
            **self._machine,
        }
