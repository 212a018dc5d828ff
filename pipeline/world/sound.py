"""The sound of a world by modal synthesis: what is struck rings, what rubs hisses, in stereo."""

from dataclasses import dataclass

import numpy as np

from model.types import Audio
from pipeline.procedural.clip import rng_of
from pipeline.world.materials import MATERIALS, Material, MaterialName
from pipeline.world.motion import STEP, Hit, Motion, Rubbing
from pipeline.world.scene import FIELD, Floats, World

SAMPLE_RATE = 48_000

_NEAR = 1.3  # m, at which a hit is as loud as its material says
_FULL = 4.0  # m/s: the change of velocity of a hit of full loudness
_PEAK = 0.5
_NOISE_FLOOR = 3e-4  # about -70 dBFS: silence between hits is not digital zero
_FLOOR_SIZE = 0.18  # m: a floor rings as a thing of this half height, deadened
_TOGETHER = 0.12  # s: of hits nearer than this one is heard
_RISE_DB, _RANGE_DB = 6.0, 30.0  # a hit is heard over what rings, and not far under the loudest


@dataclass(frozen=True)
class Heard:
    """Where a sound comes from, as the camera has it."""

    pan: float  # -1 left .. 1 right
    distance: float  # m


def hear(world: World, place: Floats, t: float) -> Heard:
    """Direction and distance of a place at `t` seconds; outside of the picture is -1 or 1."""
    camera = world.cameras[world.act_at(t)]
    way = camera.view(t) @ (place - np.array(camera.place))
    pan = way[0] / (max(way[2], 0.05) * FIELD)
    return Heard(float(np.clip(pan, -1, 1)), float(np.linalg.norm(way)))


def render_sound(world: World, motion: Motion) -> Audio:
    """The world's sound -> float32 [2, round(seconds * 48000)] in -1..1.

    Each hit and each rubbing has random numbers of its own, and nothing is scaled by what else
    there is: one of them more or less changes its own part of the sound and no other sample.
    """
    n = round(world.seconds * SAMPLE_RATE)
    out = rng_of(world.seed, 20).standard_normal((2, n)) * _NOISE_FLOOR
    for i, hit in enumerate(motion.hits):
        nth = sum(1 for before in motion.hits[:i] if before.act == hit.act)
        rng = np.random.default_rng((world.seed, 21, hit.act, nth))
        _add(out, _ring(world, motion, hit, rng), hit.time, hear(world, hit.place, hit.time))
    for rubbing in motion.rubbings:
        rng = np.random.default_rng((world.seed, 22, rubbing.act, round(rubbing.begin / STEP)))
        heard = hear(world, rubbing.place, rubbing.begin)
        _add(out, _hiss(world, rubbing, rng), rubbing.begin, heard)
    return np.tanh(out).astype(np.float32)


def _add(out: Floats, wave: Floats, t: float, heard: Heard) -> None:
    """Place a mono wave [n] in the stereo sound, at constant power."""
    start = round(t * SAMPLE_RATE)
    angle = (heard.pan + 1) * np.pi / 4
    gains = np.array([np.cos(angle), np.sin(angle)]) * np.sqrt(2) * _NEAR / max(heard.distance, 0.4)
    wave = wave[: out.shape[1] - start]
    out[:, start : start + len(wave)] += gains[:, None] * wave


def _ring(world: World, motion: Motion, hit: Hit, rng: np.random.Generator) -> Floats:
    """What the two bodies of a hit give -> [n]."""
    masses = motion.masses()
    lighter = min(masses[i] for i in hit.pair if i >= 0)
    waves: list[Floats] = []
    # a hit is as bright as its harder side: a soft one touches longer, and excites fewer modes
    hardness = min(MATERIALS[name].hardness for name in materials_of(world, hit.pair))
    for i, name in zip(hit.pair, materials_of(world, hit.pair), strict=True):
        size = world.things[i].size if i >= 0 else _FLOOR_SIZE
        change = hit.impulse / (masses[i] if i >= 0 else 4 * lighter)
        bright = hardness * (hit.impulse / lighter) ** 0.7
        waves.append(_modes(MATERIALS[name], size, change, bright, rng) * (1 if i >= 0 else 0.6))
    out = np.zeros(max(map(len, waves)))
    for wave in waves:
        out[: len(wave)] += wave
    return out


def _modes(
    material: Material, size: float, change: float, bright: float, rng: np.random.Generator
) -> Floats:
    """A thing's modes, excited by a change of its velocity (m/s) up to about `bright` Hz -> [n]."""
    modes = material.pitch * 0.1 / size * np.array(material.modes)
    where = rng.uniform(0.7, 1.3, len(modes))  # a hit elsewhere excites the modes differently
    gains = where * np.exp(-modes / (3 * bright) * (modes / modes[0] > 1))
    rates = np.sqrt(modes / modes[0]) / (material.decay * np.sqrt(size / 0.08))
    t = np.arange(int(7 / rates[0] * SAMPLE_RATE)) / SAMPLE_RATE
    audible = modes < 0.45 * SAMPLE_RATE
    wave: Floats = np.zeros(len(t))
    for f, g, r in zip(modes[audible], gains[audible], rates[audible], strict=True):
        wave += g * np.exp(-r * t) * np.sin(2 * np.pi * f * t)
    click = rng.standard_normal(192) * np.linspace(1, 0, 192) ** 2 * min(1.0, bright / 20_000)
    wave[:192] += 0.3 * click
    gain = _PEAK * material.loudness * min(change / _FULL, 1.5)
    attack = np.minimum(t / 0.0007, 1)
    return gain / gains.sum() * wave * attack


def _hiss(world: World, rubbing: Rubbing, rng: np.random.Generator) -> Floats:
    """Noise of rolling and sliding, louder and brighter with speed -> [n]."""
    steps = np.arange(len(rubbing.speed)) * STEP
    n = int(steps[-1] * SAMPLE_RATE)
    t = np.arange(n) / SAMPLE_RATE
    rough = max(MATERIALS[name].grain for name in materials_of(world, rubbing.pair)) + 0.1
    level = np.interp(t, steps, 0.3 * rubbing.speed + rubbing.slip) * rough * 0.012
    level *= np.minimum(1, np.minimum(t, t[-1] - t) / 0.06)
    noise = rng.standard_normal(n)
    # a moving mean: its zero is the speed over a grain of a millimetre
    width = max(2, int(SAMPLE_RATE * 0.001 / max(float(rubbing.speed.mean()), 0.1)))
    smooth = np.convolve(noise, np.ones(width) / np.sqrt(width), "same")
    return level * np.asarray(smooth, float)


def materials_of(world: World, pair: tuple[int, int]) -> list[MaterialName]:
    """The materials of the two bodies of a pair."""
    return [world.things[i].material if i >= 0 else world.floor for i in pair]


def heard_hits(motion: Motion, sound: Audio) -> list[bool]:
    """Which hits stand out by themselves -> [hits].

    One does that raises the level by 6 dB, within 30 dB of the loudest one; of those within
    120 ms the one that raises it most.
    """
    power = np.square(sound.astype(np.float64)).mean(0)
    total = np.concatenate([[0.0], np.cumsum(power)])

    def level(a: float, b: float) -> float:
        i, j = (int(np.clip(t * SAMPLE_RATE, 0, len(power))) for t in (a, b))
        return float((total[j] - total[i]) / max(j - i, 1)) + 1e-9

    after = np.array([level(hit.time, hit.time + 0.01) for hit in motion.hits])
    before = np.array([level(hit.time - 0.02, hit.time - 0.001) for hit in motion.hits])
    rise, under = (10 * np.log10(after / of) for of in (before, after.max(initial=1e-9)))
    times = np.array([hit.time for hit in motion.hits])
    heard = np.zeros(len(times), bool)
    for i in np.argsort(-rise, kind="stable"):
        alone = not (np.abs(times[heard] - times[i]) < _TOGETHER).any()
        heard[i] = alone and rise[i] >= _RISE_DB and under[i] >= -_RANGE_DB
    return heard.tolist()
