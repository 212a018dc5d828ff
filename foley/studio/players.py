"""What the page shows of takes: a frame with a picture that a browser can play, and the sounds."""

from collections.abc import Sequence
from contextlib import suppress
from html import escape
from pathlib import Path

import numpy as np

from foley.studio.workshop import Take
from pipeline.media import MediaError, read_audio, write_proxy
from pipeline.media.glancing import cut_times
from pipeline.report.players import ReportClip, ReportSound
from pipeline.report.takes import takes_html
from warehouse.files import file_sha256

RATE = 44_100  # Hz at which sounds are heard and drawn


def frame(takes: Sequence[Take], heard: Take, folder: Path) -> str:
    """The players of takes of one video, as HTML, one of which is heard first.

    A small copy of the picture goes to `folder`.
    """
    video = takes[0].video
    proxy = folder / f"{file_sha256(video)[:16]}.mp4"
    if not proxy.exists():
        write_proxy(video, proxy)
    sounds: dict[str, ReportSound] = {}
    with suppress(MediaError):  # it has none
        sounds["original"] = _sound(video)
    sounds |= {title(take): _sound(take.sound) for take in takes}
    cuts = cut_times(video, max(s.audio.shape[-1] / RATE for s in sounds.values()))
    clip = ReportClip(video.name, heard.prompt or "no prompt", b"", sounds)
    page = takes_html(clip, f"/gradio_api/file={proxy}", title(heard), cuts)
    return f'<iframe class="takes" title="Takes" srcdoc="{escape(page)}"></iframe>'


def title(take: Take) -> str:
    """What a take is called on the page."""
    return f"Seed {take.seed}" + (f", {take.redo} s anew" if take.redo else "")


def _sound(path: Path) -> ReportSound:
    from model.metrics.onsets import detect_onsets

    audio = read_audio(path, RATE, "stereo")
    return ReportSound(audio, RATE, detect_onsets(np.asarray(audio).mean(0), RATE).tolist())
