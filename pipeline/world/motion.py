"""How a world moves: MuJoCo's bodies and contacts, and the hits and rolling that are in them."""

from dataclasses import dataclass
from typing import Any

import mujoco as untyped
import numpy as np
from scipy.ndimage import maximum_filter1d
from scipy.signal import find_peaks

from pipeline.world.materials import MATERIALS, MaterialName
from pipeline.world.scene import LEVELS, Act, Floats, Thing, World

mujoco: Any = untyped
STEP = 0.0005  # seconds
LIFT = 0.3  # seconds in which things are lifted to their next start

_STIFFNESS = 200_000  # 1/s2; a hit lasts about 7 ms
_WINDOW = 24  # steps over which a hit's impulse is summed
_APART = 100  # steps between two hits of one pair
_SOFTEST = 0.25, 0.1  # m/s, and of the act's hardest: what is softer is no hit


@dataclass(frozen=True)
class Hit:
    """Two bodies meet: the numbers of things, -1 for the floor."""

    time: float
    pair: tuple[int, int]
    impulse: float  # N s
    place: Floats  # [3] m
    act: int

    def speed(self, masses: Floats) -> float:
        """By how much it changes the velocity of the lighter thing, m/s; masses [things] in kg."""
        return self.impulse / float(min(masses[i] for i in self.pair if i >= 0))


@dataclass(frozen=True)
class Rubbing:
    """A thing rolls or slides on another or the floor, for some time."""

    begin: float
    pair: tuple[int, int]
    speed: Floats  # [steps] m/s
    slip: Floats  # [steps] m/s, of the surfaces against each other
    place: Floats  # [3] m, half way
    act: int

    @property
    def kind(self) -> str:
        """Slide or roll."""
        return "slide" if self.slip.mean() > 0.5 * self.speed.mean() else "roll"


@dataclass(frozen=True)
class Motion:
    """What became of a world: places and turns of things by step, and what there was to hear."""

    model: Any  # mujoco.MjModel
    poses: Floats  # [steps + 1, things * 7]
    hits: tuple[Hit, ...]
    rubbings: tuple[Rubbing, ...]

    def masses(self) -> Floats:
        """Of the things -> [things] kg."""
        return np.asarray(self.model.body_mass[1:])

    def pose(self, t: float) -> Floats:
        """Places and turns at `t` seconds -> [things * 7]."""
        return self.poses[min(round(t / STEP), len(self.poses) - 1)]


def build(world: World) -> Any:
    """The MuJoCo model of a world; body 0 is the floor, body i + 1 thing i."""
    bodies = "".join(f"<body><freejoint/>{_geoms(thing)}</body>" for thing in world.things)
    return mujoco.MjModel.from_xml_string(
        f"""<mujoco><option timestep="{STEP}" integrator="implicitfast" cone="elliptic"/>
        <default><geom condim="4"/></default><worldbody>
        <geom type="plane" size="0 0 1" {_touch(world.floor)}/>{bodies}</worldbody></mujoco>"""
    )


def _touch(name: MaterialName) -> str:
    material = MATERIALS[name]
    # where two materials meet, MuJoCo takes the stronger damping and the higher friction
    return (
        f'solref="-{_STIFFNESS} -{material.damping}" density="{material.density}" '
        f'friction="{material.friction} 0.003 0.0001"'
    )


def _geoms(thing: Thing) -> str:
    s, touch = thing.size, _touch(thing.material)

    def geom(kind: str, size: str, pos: str = "0 0 0", more: str = "") -> str:
        return f'<geom type="{kind}" size="{size}" pos="{pos}" {more} {touch}/>'

    match thing.shape:
        case "ball":
            return geom("sphere", f"{s}")
        case "cube":
            return geom("box", f"{s} {s} {s}")
        case "can":
            return geom("cylinder", f"{0.75 * s} {s}")
        case "hammer":
            shaft = geom("capsule", f"{0.3 * s} {s}", f"{-1.1 * s} 0 0", 'euler="0 90 0"')
            return geom("box", f"{0.6 * s} {s} {0.7 * s}") + shaft
        case _:
            ends = [geom("sphere", f"{0.8 * s}", f"{x * s} 0 0") for x in (-1, 1)]
            return "".join(ends) + geom("capsule", f"{0.3 * s} {s}", more='euler="0 90 0"')


def simulate(world: World) -> Motion:
    """Run a world from its first to its last second.

    Hits softer than a tenth of their act's hardest are left out: a thing that comes to rest makes
    hundreds.
    """
    model = build(world)
    data = mujoco.MjData(model)
    poses = np.zeros((round(world.seconds / STEP) + 1, model.nq))
    hits: list[Hit] = []
    rubbings: list[Rubbing] = []
    for number, act in enumerate(world.acts):
        first, end = (round(t / STEP) for t in (act.begin, act.end))
        touching = _run(model, data, act, poses[first : end + (number == len(world.acts) - 1)])
        if number and not LEVELS[world.level].move:
            _lift(poses, first)
        own: list[Hit] = []
        for pair, contact in touching.items():
            own += _hits(contact, pair, model, number, first)
            rubbings += _rubbings(contact, pair, number, first)
        hits += _hard_ones(own, model.body_mass[1:])
    hits.sort(key=lambda hit: hit.time)
    return Motion(model, poses, tuple(hits), tuple(rubbings))


def _hard_ones(hits: list[Hit], masses: Floats) -> list[Hit]:
    """Those of an act's hits that are no mere settling."""
    speeds = [hit.speed(masses) for hit in hits]
    limit = max(_SOFTEST[0], _SOFTEST[1] * max(speeds, default=0.0))
    return [hit for hit, speed in zip(hits, speeds, strict=True) if speed >= limit]


@dataclass(frozen=True)
class _Contact:
    """A pair's contacts in an act, by step."""

    force: Floats  # [steps] N
    place: Floats  # [steps, 3] m
    speed: Floats  # [steps] m/s
    slip: Floats  # [steps] m/s


_Row = tuple[int, Floats, Any, Floats, Floats]  # step, forces, geoms, places, velocities


def _run(model: Any, data: Any, act: Act, poses: Floats) -> dict[tuple[int, int], _Contact]:
    """Simulate an act into `poses` [steps, things * 7]; the contacts of every pair."""
    mujoco.mj_resetData(model, data)
    releases = [
        round((start.release - act.begin) / STEP) if np.isfinite(start.release) else len(poses)
        for start in act.starts
    ]
    for i, start in enumerate(act.starts):
        data.qpos[7 * i : 7 * i + 7] = (*start.place, *start.turn)
    held = max(releases)
    rows: list[_Row] = []
    for step in range(len(poses)):
        if step <= held:
            _hold(data, act, releases, step)
        poses[step] = data.qpos
        mujoco.mj_step(model, data)
        if data.ncon:
            contact = data.contact
            acts = contact.efc_address >= 0
            force = data.efc_force[contact.efc_address[acts]]  # along the normal
            rows.append((step, force, contact.geom[acts], contact.pos[acts], data.qvel.copy()))
    return _by_pair(model, rows, poses, releases)


def _hold(data: Any, act: Act, releases: list[int], step: int) -> None:
    """Put what is not yet let go back to its start; what is carried is on its way."""
    for i, (start, release) in enumerate(zip(act.starts, releases, strict=True)):
        if step <= release:
            let_go = step == release
            way = np.zeros(3) if np.isfinite(start.release) else np.array(start.velocity)
            data.qpos[7 * i : 7 * i + 3] = start.place + way * step * STEP
            data.qpos[7 * i + 3 : 7 * i + 7] = start.turn
            data.qvel[6 * i : 6 * i + 6] = (*start.velocity, *start.spin) if let_go else 0.0


def _by_pair(
    model: Any, rows: list[_Row], poses: Floats, releases: list[int]
) -> dict[tuple[int, int], _Contact]:
    if not rows:
        return {}
    lengths = [len(row[1]) for row in rows]
    step = np.repeat([row[0] for row in rows], lengths)
    force = np.concatenate([row[1] for row in rows])
    things = np.sort(model.geom_bodyid[np.concatenate([row[2] for row in rows])] - 1, axis=1)
    places = np.concatenate([row[3] for row in rows])
    velocity = np.repeat(np.stack([row[4] for row in rows]), lengths, axis=0)
    found: dict[tuple[int, int], _Contact] = {}
    for pair in sorted({(int(a), int(b)) for a, b in things}):
        # what is held touches nothing that could be heard
        free = step > max(releases[i] for i in pair if i >= 0)
        own = (things == pair).all(1) & free
        if not own.any():
            continue
        at, n = step[own], len(poses)
        count = np.maximum(np.bincount(at, minlength=n), 1)
        moving = pair[1]
        speed = np.linalg.norm(velocity[own][:, 6 * moving : 6 * moving + 3], axis=1)
        slip = _slip(poses[at], velocity[own], places[own], moving)
        mean = [np.bincount(at, values, n) / count for values in (*places[own].T, speed, slip)]
        total = np.asarray(np.bincount(at, force[own], n), float)
        found[pair] = _Contact(total, np.stack(mean[:3], 1), mean[3], mean[4])
    return found


def _slip(poses: Floats, velocity: Floats, places: Floats, i: int) -> Floats:
    """Speed of thing i's surface where it touches -> [contacts] m/s."""
    w, x, y, z = poses[:, 7 * i + 3 : 7 * i + 7].T
    own = velocity[:, 6 * i + 3 : 6 * i + 6]  # in the thing's frame
    axis = np.stack([x, y, z], 1)
    spin = own + 2 * np.cross(axis, np.cross(axis, own) + w[:, None] * own)
    arm = places - poses[:, 7 * i : 7 * i + 3]
    surface = velocity[:, 6 * i : 6 * i + 3] + np.cross(spin, arm)
    return np.linalg.norm(surface[:, :2], axis=1)


def _hits(contact: _Contact, pair: tuple[int, int], model: Any, act: int, first: int) -> list[Hit]:
    mass = min(model.body_mass[i + 1] for i in pair if i >= 0)
    force = np.maximum(contact.force - 1.5 * 9.81 * mass, 0)  # over what it weighs
    summed = np.convolve(force, np.ones(_WINDOW))[: len(force)] * STEP
    padded = np.append(summed, 0.0)
    peaks, _ = find_peaks(padded, height=0.5 * _SOFTEST[0] * mass, distance=_APART)
    hits: list[Hit] = []
    for peak in peaks:
        start = max(0, int(peak) - _WINDOW + 1)
        span = force[start : peak + 1]
        at = start + int(np.argmax(span > 0.02 * span.max()))
        impulse = float(summed[min(peak, len(summed) - 1)])
        hits.append(Hit((first + at) * STEP, pair, impulse, contact.place[at], act))
    return hits


def _rubbings(contact: _Contact, pair: tuple[int, int], act: int, first: int) -> list[Rubbing]:
    """Spans of more than 150 ms of contact in which the thing moves."""
    touches = np.convolve(contact.force > 0, np.ones(40), "same") > 0  # a cube hops as it slides
    rubs = touches & (maximum_filter1d(contact.speed, 40) > 0.08)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], rubs, [False]])))
    rubbings: list[Rubbing] = []
    for a, b in edges.reshape(-1, 2):
        if (b - a) * STEP > 0.15:
            speed, slip, place = contact.speed[a:b], contact.slip[a:b], contact.place[(a + b) // 2]
            rubbings.append(Rubbing((first + a) * STEP, pair, speed, slip, place, act))
    return rubbings


def _lift(poses: Floats, first: int) -> None:
    """Carry the things from where the last act left them to where they are held in this one."""
    steps = round(LIFT / STEP)
    share = np.linspace(0, 1, steps)[:, None]
    share = share * share * (3 - 2 * share)
    before, after = poses[first - 1].copy(), poses[first].copy()
    for i in range(0, len(after), 7):
        turn = slice(i + 3, i + 7)
        if before[turn] @ after[turn] < 0:  # the same turn, the shorter way
            before[turn] *= -1
        way = before[i : i + 7] + share * (after[i : i + 7] - before[i : i + 7])
        way[:, 2] += 0.12 * np.sin(np.pi * share[:, 0])
        way[:, 3:] /= np.linalg.norm(way[:, 3:], axis=1, keepdims=True)
        poses[first : first + steps, i : i + 7] = way
