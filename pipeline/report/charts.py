"""Geometry of the charts.

X in percent of the plot's width, y in pixels, so that text keeps its size at any width.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

MAX_POINTS = 300  # more than this are averaged: the plot is not wider
Point = tuple[float, float]


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: `at` is in percent on x and in pixels on y."""

    at: float
    label: str


@dataclass(frozen=True)
class Curve:
    """A line through `points` (percent, pixels)."""

    name: str
    style: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Lines:
    """A line chart."""

    title: str
    height: int
    curves: tuple[Curve, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


@dataclass(frozen=True)
class Bar:
    """One bar of a histogram, with the sentence that describes it."""

    x: float
    width: float
    y: float
    height: float
    text: str


@dataclass(frozen=True)
class Histogram:
    """A histogram with the policy's bounds."""

    title: str
    height: int
    bars: tuple[Bar, ...]
    x_ticks: tuple[Tick, ...]
    count: int
    bounds: tuple[Tick, ...] = ()


@dataclass(frozen=True)
class Axis:
    """A span of values; never empty."""

    low: float
    high: float

    @classmethod
    def around(cls, values: Sequence[float], pad: float = 0.0) -> Self:
        """The span of the finite values, widened by `pad` of itself; 0..1 if there is none."""
        finite = [v for v in values if math.isfinite(v)]
        low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
        largest = max(1.0, abs(low), abs(high))
        if high - low < 1e-9 * largest:
            low, high = low - 0.5 * largest, high + 0.5 * largest
        return cls(low - pad * (high - low), high + pad * (high - low))

    def share(self, value: float) -> float:
        """Where a value lies: 0 at the low end, 1 at the high end."""
        return (value - self.low) / (self.high - self.low)

    def ticks(self, count: int = 6, unit: str = "") -> tuple[Tick, ...]:
        """About `count` round numbers along x."""
        return self.marks([("", value) for value in nice_ticks(self, count)], unit)

    def marks(self, values: Sequence[tuple[str, float]], unit: str = "") -> tuple[Tick, ...]:
        """Values along x, each with the text before it."""
        return tuple(
            Tick(round(100 * self.share(v), 2), f"{text}{label(v)}{unit}") for text, v in values
        )


def nice_ticks(axis: Axis, count: int = 4) -> list[float]:
    """About `count` round numbers inside an axis."""
    rough = (axis.high - axis.low) / max(1, count)
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= rough * 0.999)
    first = math.ceil(axis.low / step - 1e-9)
    last = math.floor(axis.high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def label(value: float) -> str:
    """A tick's number, as short as it can be."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value + 0.0:.4g}"  # + 0.0: no "-0"


def thinned(points: Sequence[Point]) -> list[Point]:
    """The same curve with at most MAX_POINTS points, each the mean of its neighbours."""
    if len(points) <= MAX_POINTS:
        return list(points)
    parts = np.array_split(np.asarray(points, float), MAX_POINTS)
    return [(float(p[:, 0].mean()), float(p[:, 1].mean())) for p in parts]


def smoothed(points: Sequence[Point]) -> list[Point]:
    """A running mean over 6% of the points around each one."""
    values = np.asarray([y for _, y in points], float)
    half = max(1, int(len(values) * 0.06 / 2))
    means = [float(values[max(0, i - half) : i + half + 1].mean()) for i in range(len(values))]
    return [(x, mean) for (x, _), mean in zip(points, means, strict=True)]


def lines(
    title: str,
    series: Sequence[tuple[str, str, Sequence[Point]]],
    height: int = 200,
    floor: float | None = None,
) -> Lines:
    """A line chart of (name, style, points), finite ones alone; y begins at `floor`, if any."""
    finite = [(n, s, [p for p in points if all(map(math.isfinite, p))]) for n, s, points in series]
    x = Axis.around([a for _, _, points in finite for a, _ in points])
    y = Axis.around([b for _, _, points in finite for _, b in points], pad=0.08)
    if floor is not None:
        y = Axis(floor, max(y.high, floor + 1e-9))

    def placed(point: Point) -> Point:
        return round(100 * x.share(point[0]), 2), round((1 - y.share(point[1])) * height, 1)

    return Lines(
        title=title,
        height=height,
        curves=tuple(Curve(n, s, tuple(map(placed, points))) for n, s, points in finite),
        x_ticks=x.ticks(),
        y_ticks=tuple(Tick(placed((x.low, v))[1], label(v)) for v in nice_ticks(y, 4)),
    )


def histogram(
    title: str, values: Collection[float], height: int = 110, span: Point | None = None
) -> Histogram:
    """A histogram of the finite values; several share an axis that covers at least `span`."""
    finite = np.asarray([v for v in values if math.isfinite(v)], float)
    axis = Axis.around([*finite, *(span or ())])
    counts, _ = np.histogram(finite, bins=24, range=(axis.low, axis.high))
    return counted(title, counts.tolist(), axis, height=height)


def counted(
    title: str, counts: Sequence[int], axis: Axis, most: int = 1, height: int = 110
) -> Histogram:
    """A histogram of clips in equal bins of an axis; `most` clips, or the highest bar, fill it."""
    most = max(most, *counts)
    edges = np.linspace(axis.low, axis.high, len(counts) + 1).tolist()
    bars = [
        Bar(
            x=round(100 * axis.share(a), 3),
            width=round(100 / len(counts), 3),
            y=round(height * (1 - n / most), 2),
            height=round(height * n / most, 2),
            text=f"{n} clips from {label(a)} to {label(b)}",
        )
        for n, a, b in zip(counts, edges[:-1], edges[1:], strict=True)
        if n
    ]
    return Histogram(title, height, tuple(bars), axis.ticks(), sum(counts))
