"""The picture of a clip: a hammer, a ball or a block that visibly strikes at every impact time."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from model.types import Frames
from pipeline.procedural.clip import ProceduralClip, Scene, rng_of

FPS = 16
SIZE = 64  # pixels, square

_Float = NDArray[np.float32]
_Layer = tuple[_Float, _Float]  # signed distance in pixels [T or 1, SIZE, SIZE], colour [3] in 0..1

_Y, _X = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)[:, None]  # each [1, SIZE, SIZE]


def _progress(clip: ProceduralClip, times: _Float) -> _Float:
    """Progress 0..1 between the impacts around each time.

    The motion comes from an impact before the clip and goes to one after it.
    """
    inside = clip.impacts or (0.5 * clip.seconds,)
    before = min(-0.1, inside[0] - 0.6)
    after = max(clip.seconds + 0.1, inside[-1] + 0.6)
    marks = np.asarray([before, *inside, after], np.float32)
    index = np.clip(np.searchsorted(marks, times + 1e-6, side="right") - 1, 0, len(marks) - 2)
    progress = (times - marks[index]) / (marks[index + 1] - marks[index])
    return np.clip(progress, 0, 1).astype(np.float32)


def _distance(dx: _Float, dy: _Float) -> _Float:
    # several times faster than hypot in float32, and nothing here overflows
    return np.sqrt(dx * dx + dy * dy)


def _box(x: _Float | float, y: _Float | float, half_width: float, half_height: float) -> _Float:
    across, down = np.abs(_X - np.float32(x)), np.abs(_Y - np.float32(y))
    return np.maximum(across - np.float32(half_width), down - np.float32(half_height))


def _segment(x0: float, y0: float, x1: _Float, y1: _Float, half_width: float) -> _Float:
    dx, dy = np.float32(x1 - x0), np.float32(y1 - y0)
    across, down = _X - np.float32(x0), _Y - np.float32(y0)
    along = np.clip((across * dx + down * dy) / (dx * dx + dy * dy), 0, 1)
    return _distance(across - along * dx, down - along * dy) - np.float32(half_width)


def _hammer(progress: _Float, x: float, y: float, colours: _Float) -> list[_Layer]:
    # radians: lifted slowly, brought down fast
    raised = np.sin(np.pi * progress**1.7) * np.float32(1.1)
    length, rest = 24.0, 0.15
    pivot_x, pivot_y = x - length * np.cos(rest), y - 6 - length * np.sin(rest)
    head_x = pivot_x + length * np.cos(rest - raised)
    head_y = pivot_y + length * np.sin(rest - raised)
    return [
        (_box(x, y + 6, 12, 6), colours[1]),
        (_segment(pivot_x, pivot_y, head_x, head_y, 1.5), colours[2]),
        (_box(head_x, head_y, 4, 6), colours[0]),
    ]


def _ball(progress: _Float, x: float, y: float, colours: _Float) -> list[_Layer]:
    height = 4 * progress * (1 - progress) * np.float32(26)
    ball = _distance(_X - np.float32(x), _Y - np.float32(y - 7 - height)) - np.float32(7)
    return [(_box(x, y + 20, 40, 20), colours[1]), (ball, colours[0])]


def _block(progress: _Float, x: float, y: float, colours: _Float) -> list[_Layer]:
    distance = np.sin(np.pi * progress) * np.float32(22)
    wall = x + 10
    return [
        (_box(wall + 20, y, 20, 60), colours[1]),
        (_box(32, y + 26, 40, 20), colours[2]),
        (_box(wall - 7 - distance, y, 7, 6), colours[0]),
    ]


_Draw = Callable[[_Float, float, float, _Float], list[_Layer]]
_SCENES: dict[Scene, tuple[_Draw, tuple[float, float]]] = {  # with the point of contact, pixels
    "hammer": (_hammer, (36.0, 44.0)),
    "ball": (_ball, (32.0, 48.0)),
    "block": (_block, (36.0, 34.0)),
}


def _paint(canvas: _Float, layer: _Layer) -> None:
    """Paint a layer over the canvas [T, SIZE, SIZE, 3], touching only the pixels that it covers."""
    distance, colour = layer
    covered = np.broadcast_to(distance < 0.5, canvas.shape[:3])
    distance = np.broadcast_to(distance, covered.shape)
    cover = np.minimum(0.5 - distance[covered], 1)[:, None]  # one pixel of soft edge
    below = canvas[covered]
    canvas[covered] = below + cover * (colour - below)


def render_frames(clip: ProceduralClip, fps: float = FPS) -> Frames:
    """The clip's picture -> uint8 [round(seconds * fps), 64, 64, 3]; frame i is that at i / fps s.

    Nothing but the motion tells of an impact. Colours and place vary, and say nothing of the
    material.
    """
    times = (np.arange(round(clip.seconds * fps)) / fps).astype(np.float32)
    progress = _progress(clip, times)[:, None, None]
    rng = rng_of(clip.seed, 2)
    draw, contact = _SCENES[clip.scene]
    x, y = (float(offset) + at for offset, at in zip(rng.uniform(-4, 4, 2), contact, strict=True))
    backdrop = rng.uniform(0.05, 0.25, 3).astype(np.float32)
    colours = rng.uniform(0.25, 0.7, (3, 3)).astype(np.float32)
    still = np.broadcast_to(backdrop, (1, SIZE, SIZE, 3)).copy()
    layers = draw(progress, x, y, colours)
    for layer in layers:
        if len(layer[0]) == 1:
            _paint(still, layer)
    canvas = np.repeat(still, len(times), 0)
    for layer in layers:
        if len(layer[0]) > 1:
            _paint(canvas, layer)
    return (canvas * 255 + 0.5).astype(np.uint8)
