"""The picture of a world: rays cast by MuJoCo, shaded by a lamp, without any graphics library."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from model.types import Frames
from pipeline.world.materials import MATERIALS
from pipeline.world.motion import Motion, mujoco
from pipeline.world.scene import FIELD, Camera, Floats, World

Geoms = NDArray[np.int32]
_LAMP = np.array([-1.1, -1.6, 2.8])
_SKY = np.array([[0.60, 0.68, 0.78], [0.30, 0.36, 0.46]])  # at the horizon, above
_SUB = np.array([[-0.25, -0.25], [0.25, -0.25], [-0.25, 0.25], [0.25, 0.25]])  # of a pixel


def render_frames(world: World, motion: Motion, fps: float, size: int) -> Frames:
    """The world's picture -> uint8 [round(seconds * fps), size, size, 3]; frame i is at i / fps."""
    painter = _Painter(world, motion, size)
    return np.stack([painter.frame(i / fps) for i in range(round(world.seconds * fps))])


def is_visible(world: World, motion: Motion, t: float, pair: tuple[int, int]) -> bool:
    """Whether one of the two things has its middle in the picture, and nothing before it."""
    data, camera = mujoco.MjData(motion.model), world.cameras[world.act_at(t)]
    _place(motion, data, t)
    for thing in (i for i in pair if i >= 0):
        towards = data.xpos[thing + 1] - np.array(camera.place)
        right, up, forward = camera.view(t) @ towards
        if forward <= 0 or max(abs(right), abs(up)) > FIELD * forward:
            continue
        geom = np.zeros(1, np.int32)
        mujoco.mj_ray(motion.model, data, camera.place, towards, None, True, -1, geom, None)
        if motion.model.geom_bodyid[geom[0]] == thing + 1:
            return True
    return False


def _place(motion: Motion, data: Any, t: float) -> None:
    data.qpos[:] = motion.pose(t)
    mujoco.mj_kinematics(motion.model, data)


def _dot(a: Floats, b: Floats) -> Floats:
    """Products of the rows of two arrays [n, 3] -> [n]; several times faster than a sum over 3."""
    return np.asarray(np.einsum("ni,ni->n", a, b))


def _length(a: Floats) -> Floats:
    """Lengths of the rows -> [n, 1]."""
    return np.sqrt(_dot(a, a))[:, None]


@dataclass(frozen=True)
class _Empty:
    """What a camera sees where there are no things."""

    view: Floats  # [3, 3]
    place: tuple[float, float, float]
    ways: Floats  # [pixels, 3]
    lamp: Floats  # from the lamp to what is seen [pixels, 3]; NaN at the sky
    colour: Floats  # [pixels, 3]
    key: Geoms  # [pixels]


class _Painter:
    """Paints one picture after another; while a camera stands, only what is near things anew."""

    def __init__(self, world: World, motion: Motion, size: int) -> None:
        self.world, self.motion, self.size = world, motion, size
        self.data = mujoco.MjData(motion.model)
        things = [(MATERIALS[world.floor].colour, MATERIALS[world.floor])]
        things += [(thing.colour, MATERIALS[thing.material]) for thing in world.things]
        bodies = [things[i] for i in motion.model.geom_bodyid]
        self.colour = np.array([colour for colour, _ in bodies])
        self.gloss = np.array([material.gloss for _, material in bodies])
        self.grain = np.array([material.grain for _, material in bodies])
        row, column = np.mgrid[0:size, 0:size]
        self.pixels = np.stack([column.ravel(), row.ravel()], 1) + 0.5
        self.stands = all(not camera.swing and not camera.shake for camera in world.cameras)
        self.empty: _Empty | None = None

    def frame(self, t: float) -> NDArray[np.uint8]:
        """The picture at `t` seconds."""
        if not self.stands:
            _place(self.motion, self.data, t)
            colour, key = self._cast(self.pixels, t)
            return self._finished(colour, key, t, np.ones(len(key), bool))
        if self.empty is None or self.empty.place != self._camera(t).place:
            self.empty = self._without_things(t)
        _place(self.motion, self.data, t)
        near = self._near(self.empty)
        colour, key = self.empty.colour.copy(), self.empty.key.copy()
        colour[near], key[near] = self._cast(self.pixels[near], t)
        return self._finished(colour, key, t, near)

    def _camera(self, t: float) -> Camera:
        return self.world.cameras[self.world.act_at(t)]

    def _without_things(self, t: float) -> _Empty:
        """What the camera of a time sees, with all things far below the floor."""
        self.data.qpos[:] = self.motion.pose(t)
        self.data.qpos[2::7] = -1000.0
        mujoco.mj_kinematics(self.motion.model, self.data)
        colour, key = self._cast(self.pixels, t)
        self._smooth(colour, key, t, np.ones(len(key), bool))
        ways, (geom, distance, _) = self._seen(self.pixels, t)
        place = self._camera(t).place
        lamp = place + distance[:, None] * ways - _LAMP
        lamp[geom < 0] = np.nan
        return _Empty(self._camera(t).view(t), place, ways, lamp / _length(lamp), colour, key)

    def _near(self, empty: _Empty) -> NDArray[np.bool_]:
        """Where things or their shadows may be seen -> [pixels], with two pixels around."""
        near = np.zeros(len(self.pixels), bool)
        radii = self.motion.model.geom_rbound[1:]
        for middle, radius in zip(self.data.geom_xpos[1:], radii, strict=True):
            for origin, ways in ((np.array(empty.place), empty.ways), (_LAMP, empty.lamp)):
                towards = middle - origin
                far = float(np.linalg.norm(towards))
                within = np.sqrt(max(1 - (radius / far) ** 2, 0.0)) - 1e-6 if far > radius else -1.0
                near |= ways @ (towards / far) >= within
        square = near.reshape(self.size, self.size)
        return np.asarray(binary_dilation(square, np.ones((3, 3)), 2), np.bool_).ravel()

    def _finished(
        self, colour: Floats, key: Geoms, t: float, where: NDArray[np.bool_]
    ) -> NDArray[np.uint8]:
        self._smooth(colour, key, t, where)
        picture = colour.reshape(self.size, self.size, 3)
        return (np.clip(picture, 0, 1) ** (1 / 1.4) * 255 + 0.5).astype(np.uint8)

    def _smooth(self, colour: Floats, key: Geoms, t: float, where: NDArray[np.bool_]) -> None:
        """Make pixels at an edge the mean of four rays, in place."""
        key = key.reshape(self.size, self.size)
        down, across = key[1:] != key[:-1], key[:, 1:] != key[:, :-1]
        edge = np.zeros(key.shape, bool)
        edge[1:] |= down
        edge[:-1] |= down
        edge[:, 1:] |= across
        edge[:, :-1] |= across
        at = np.flatnonzero(edge.ravel() & where)
        if len(at):
            rays = (self.pixels[at, None] + _SUB).reshape(-1, 2)
            colour[at] = self._cast(rays, t)[0].reshape(-1, len(_SUB), 3).mean(1)

    def _seen(self, pixels: Floats, t: float) -> tuple[Floats, tuple[Geoms, Floats, Floats]]:
        """Ways [n, 3] from the camera, and what they meet."""
        camera = self._camera(t)
        u, v = (2 * pixels / self.size - 1).T * FIELD
        ways = np.stack([u, -v, np.ones(len(u))], 1) @ camera.view(t)
        ways /= _length(ways)
        return ways, self._rays(np.array(camera.place), ways)

    def _cast(self, pixels: Floats, t: float) -> tuple[Floats, Geoms]:
        """Colours [n, 3] at places in the picture [n, 2], and what is seen there [n]."""
        camera = self._camera(t)
        ways, (geom, distance, normal) = self._seen(pixels, t)
        colour = _SKY[0] + np.clip(ways[:, 2:] * 2, 0, 1) * (_SKY[1] - _SKY[0])
        hit = np.flatnonzero(geom >= 0)
        points = camera.place + distance[hit, None] * ways[hit]
        light = points - _LAMP
        far = _length(light)
        _, reached, _ = self._rays(_LAMP, light / far)
        lit = (reached < 0) | (reached > far[:, 0] - 0.01)
        shaded = self._shade(geom[hit], points, normal[hit], ways[hit], lit)
        mist = 1 - np.exp(-np.maximum(distance[hit, None] - 2, 0) / 3)
        colour[hit] = shaded + mist * (_SKY[0] - shaded)
        key = geom.copy()
        key[hit] = 2 * geom[hit] + lit
        return colour, key

    def _rays(self, origin: Floats, ways: Floats) -> tuple[Geoms, Floats, Floats]:
        """What rays from a point meet: geoms (-1: none) [n], distances [n], normals [n, 3]."""
        n = len(ways)
        geom, distance, normal = np.full(n, -1, np.int32), np.full(n, -1.0), np.zeros(3 * n)
        flat = np.ascontiguousarray(ways).ravel()
        scene, found = (self.motion.model, self.data), (geom, distance, normal)
        mujoco.mj_multiRay(*scene, origin, flat, None, True, -1, *found, n, 50.0)
        return geom, distance, normal.reshape(n, 3)

    def _shade(
        self, geom: Geoms, points: Floats, normal: Floats, ways: Floats, lit: NDArray[np.bool_]
    ) -> Floats:
        to_lamp = _LAMP - points
        to_lamp /= _length(to_lamp)
        diffuse = np.maximum(_dot(normal, to_lamp), 0) * lit
        half = to_lamp - ways
        half /= _length(half)
        shine = np.maximum(_dot(normal, half), 0) ** 40 * self.gloss[geom] * lit
        rim = (1 - np.abs(_dot(normal, ways))) ** 3 * self.gloss[geom] * (geom > 0)
        colour = self.colour[geom] * self._pattern(geom, points)[:, None]
        out = colour * (0.22 + 0.16 * normal[:, 2:] + 0.62 * diffuse[:, None])
        return out + 0.7 * shine[:, None] + 0.35 * rim[:, None]

    def _pattern(self, geom: Geoms, points: Floats) -> Floats:
        """Brightness by place: grain that turns with a thing, tiles on the floor -> [n]."""
        turn = self.data.geom_xmat.reshape(-1, 3, 3)[geom]
        own = np.einsum("ni,nij->nj", points - self.data.geom_xpos[geom], turn)
        grain = np.sin(110 * own[:, 0]) * np.sin(70 * own[:, 1] + 60 * own[:, 2])
        tiles = np.where((np.floor(own[:, 0] / 0.25) + np.floor(own[:, 1] / 0.25)) % 2, 1.0, -1.0)
        floor = geom == 0
        return np.where(floor, 0.62 + 0.07 * tiles, 1 + self.grain[geom] * grain)
