"""Several sounds for one picture, as players on one clock: what the studio shows."""

from collections.abc import Collection
from dataclasses import replace

from pipeline.report.html import page_html
from pipeline.report.players import ReportClip, player


def takes_html(clip: ReportClip, video: str, heard: str, cuts: Collection[float] = ()) -> str:
    """A page of its own, for a frame in another page.

    What is dragged over a waveform is told to that page, as a message {from, to} in seconds.

    Args:
        clip: the sounds by their titles; "original" is the video's own.
        video: address of a picture that a browser can play, in place of the clip's.
        heard: title of the sound that is heard first.
        cuts: of the picture, in seconds.
    """
    shown = replace(player(clip), uri=video, start=heard)
    at = [round(100 * cut / shown.seconds, 3) for cut in cuts]
    return page_html("takes.html.j2", ("player.js", "takes.js"), player=shown, cuts=at)
