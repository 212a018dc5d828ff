"""What a world holds: things, a floor, acts that set the things going, and a camera, by a seed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, Self, cast

import numpy as np
from numpy.typing import NDArray

from pipeline.procedural.clip import rng_of
from pipeline.world.materials import FLOORS, MATERIALS, NAMES, MaterialName

Vector = tuple[float, float, float]
Turn = tuple[float, float, float, float]  # quaternion w, x, y, z
Shape = Literal["ball", "cube", "can", "hammer", "dumbbell"]
Deed = Literal["drop", "toss", "strike", "roll", "slide", "carry", "outside"]
Floats = NDArray[np.float64]

_FLAT: Turn = (1.0, 0.0, 0.0, 0.0)
_STILL: Vector = (0.0, 0.0, 0.0)
FIELD = 0.44  # tangent of half the angle of view of every camera


@dataclass(frozen=True)
class Level:
    """The settings of one level: how many things, of what size (m), doing what; the camera."""

    things: tuple[int, int]
    size: tuple[float, float]
    deeds: tuple[Deed, ...]
    distance: tuple[float, float]
    move: float = 0.0  # the camera's swing, radians; unless 0 it also shakes, and acts are cut


LEVELS: dict[int, Level] = {
    1: Level((1, 1), (0.08, 0.12), ("drop", "drop", "toss"), (1.1, 1.3)),
    2: Level((2, 3), (0.06, 0.09), ("strike", "strike", "drop"), (1.3, 1.6)),
    3: Level(
        (2, 3),
        (0.05, 0.09),
        ("strike", "drop", "roll", "slide", "carry", "outside"),
        (1.3, 1.9),
        move=0.25,
    ),
}


@dataclass(frozen=True)
class Thing:
    """A thing; `size` is its half height in metres."""

    shape: Shape
    material: MaterialName
    size: float
    colour: Vector

    @property
    def lying(self) -> float:
        """Height of its middle when it lies on the floor, m."""
        return self.size * {"hammer": 0.7, "dumbbell": 0.8}.get(self.shape, 1.0)


@dataclass(frozen=True)
class Start:
    """How a thing starts in an act: held at a place, let go at `release` seconds into the clip."""

    place: Vector
    turn: Turn
    velocity: Vector  # m/s; of a thing that is carried, while it is held
    spin: Vector  # rad/s
    release: float


@dataclass(frozen=True)
class Act:
    """Some seconds in which the things start anew; before them they are lifted, or there is a cut.

    Acts do not know of each other: what is changed in one leaves what is heard of the others.
    """

    begin: float
    end: float
    deed: Deed
    starts: tuple[Start, ...]


@dataclass(frozen=True)
class Camera:
    """Where the camera stands in an act, and how it moves about its height axis."""

    place: Vector
    towards: Vector
    swing: float  # rad
    phase: float
    shake: float  # rad

    def view(self, t: float) -> Floats:
        """Axes at `t` seconds -> [3, 3]: right, up and forward in rows."""
        forward = np.subtract(self.towards, self.place)
        angle = self.swing * np.sin(1.6 * t + self.phase)
        angle += self.shake * (np.sin(19 * t + self.phase) + np.sin(31.7 * t))
        c, s = np.cos(angle), np.sin(angle)
        forward = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ forward
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, (0, 0, 1))
        right /= np.linalg.norm(right)
        return np.stack([right, np.cross(right, forward), forward])


@dataclass(frozen=True)
class World:
    """Everything that motion, picture and sound are made from."""

    level: int
    seed: int
    seconds: float
    floor: MaterialName
    things: tuple[Thing, ...]
    acts: tuple[Act, ...]
    cameras: tuple[Camera, ...]  # one an act

    @property
    def prompt(self) -> str:
        """What is seen: it names the materials."""
        things = [f"a {thing.material} {thing.shape}" for thing in self.things]
        ground = f"on a {FLOORS[self.floor]} floor"
        if len(things) == 1:
            verb = "tossed" if any(act.deed == "toss" for act in self.acts) else "dropped"
            return f"{things[0]} {verb} {ground}"
        verb = "hit each other" if self.level < 3 else "moving about"
        return f"{', '.join(things[:-1])} and {things[-1]} {verb} {ground}"

    def act_at(self, t: float) -> int:
        """The number of the act at `t` seconds."""
        return max(i for i, act in enumerate(self.acts) if act.begin <= max(t, 0.0))

    def of(self, materials: Sequence[MaterialName]) -> Self:
        """The world, if its things were of other materials than they look like and move like."""
        things = zip(self.things, materials, strict=True)
        return replace(self, things=tuple(replace(thing, material=name) for thing, name in things))

    def moved(self, number: int, later: float) -> Self:
        """The same world where, in one act, everything is let go so many seconds later."""
        act = self.acts[number]
        starts = tuple(replace(start, release=start.release + later) for start in act.starts)
        acts = list(self.acts)
        acts[number] = replace(act, starts=starts)
        return replace(self, acts=tuple(acts))


def sample_world(seed: int, level: int = 1, seconds: float = 4.0) -> World:
    """The world of a seed; raises ValueError for a level, seed or length that there is not."""
    if level not in LEVELS or seed < 0 or seconds < 1:
        raise ValueError(
            f"a world needs a level of {[*LEVELS]}, a seed >= 0 and a second or more, "
            f"not {level}, {seed} and {seconds:g} s"
        )
    settings, rng = LEVELS[level], rng_of(seed, 10 + level)
    floor = list(FLOORS)[int(rng.integers(len(FLOORS)))]
    least, most = settings.things
    things = tuple(_thing(rng, settings) for _ in range(int(rng.integers(least, most + 1))))
    count = max(1, round(seconds / 1.35))
    marks = np.arange(count + 1) * seconds / count
    marks[1:-1] += rng.uniform(-0.15, 0.15, count - 1)
    acts: list[Act] = []
    for begin, end in pairwise(marks.tolist()):
        deed = settings.deeds[int(rng.integers(len(settings.deeds)))]
        wait = float(rng.uniform(0.3, 0.5))  # a lift comes before, unless the act begins with a cut
        let_go = begin + wait * (1 if begin and not settings.move else 0.4)
        starts = tuple(_start(rng, deed, i, things, let_go) for i in range(len(things)))
        acts.append(Act(begin, end, deed, starts))
    camera = _camera(rng, settings)
    cameras = [_camera(rng, settings) if settings.move else camera for _ in acts]
    return World(level, seed, seconds, floor, things, tuple(acts), tuple(cameras))


def _thing(rng: np.random.Generator, settings: Level) -> Thing:
    shapes: tuple[Shape, ...] = ("ball", "ball", "cube", "can", "hammer", "dumbbell")
    material = NAMES[int(rng.integers(len(NAMES)))]
    colour = np.clip(np.add(MATERIALS[material].colour, rng.uniform(-0.05, 0.05, 3)), 0, 1)
    shape = shapes[int(rng.integers(len(shapes)))]
    return Thing(shape, material, float(rng.uniform(*settings.size)), cast("Vector", (*colour,)))


def _start(
    rng: np.random.Generator, deed: Deed, i: int, things: tuple[Thing, ...], let_go: float
) -> Start:
    """The start of thing `i`: the first one does the deed, the others lie there or fall too.

    All draw as many numbers, whatever the deed is.
    """
    side = float(rng.choice([-1.0, 1.0]))
    u = [float(x) for x in rng.uniform(0, 1, 6)]
    turn = rng.standard_normal(4)
    rest = things[i].lying + 0.001
    if i > 0 and deed != "drop":
        return Start(((i - 1.2) * 0.3, 0.05 * i, rest), _FLAT, _STILL, _STILL, let_go)
    x, fast = side * (0.08 + 0.3 * u[0]), side * (1.6 + 1.2 * u[1])
    start = Start(
        place=(x, 0.16 * i, 0.35 + 0.3 * u[5]),
        turn=cast("Turn", (*(turn / np.linalg.norm(turn)).tolist(),)),
        velocity=(-side * 0.5 * u[1], 0.2 * u[2] - 0.1, 0.0),
        spin=(8 * u[3] - 4, 8 * u[4] - 4, 6 * u[5] - 3),
        release=let_go + i * (0.15 + 0.2 * u[4]),
    )
    changed: dict[str, object] = {}
    match deed:
        case "toss":
            changed = {"place": (x, 0.0, 0.2), "velocity": (*start.velocity[:2], 2 + 0.7 * u[5])}
        case "outside":  # of the picture, to one side
            changed = {"place": (1.3 * side, 0.0, start.place[2])}
        case "strike":  # at thing 1, which lies near the middle
            place = (-side * 0.62 - 0.06, 0.05, things[1].lying + 0.1 + 0.1 * u[0])
            changed = {"place": place, "velocity": (fast, 0.0, 0.6)}
        case "roll" | "slide":
            fast *= 0.6 if deed == "roll" else 1.0
            spin = (0.0, fast / rest if deed == "roll" else 0.0, 0.0)
            changed = {"place": (-side * 0.8, 0.25 * u[4] - 0.2, rest), "turn": _FLAT}
            changed |= {"velocity": (fast, 0.0, 0.0), "spin": spin}
        case "carry":  # through the air, not let go
            changed = {"velocity": (-0.3 * fast, 0.0, 0.0), "release": np.inf}
        case "drop":
            pass
    return replace(start, **changed)


def _camera(rng: np.random.Generator, settings: Level) -> Camera:
    angle, distance = rng.uniform(-0.25, 0.25), rng.uniform(*settings.distance)
    height = float(rng.uniform(0.35, 0.6))
    place = (float(distance * np.sin(angle)), float(-distance * np.cos(angle)), height)
    phase = float(rng.uniform(0, 6.28))
    swing = settings.move * float(rng.uniform(-1, 1))
    return Camera(place, (0.0, 0.0, 0.27), swing, phase, settings.move * 0.01)
