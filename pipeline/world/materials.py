"""Materials: how a thing looks, moves and sounds. Values are ours, tuned by eye, ear and test."""

from dataclasses import dataclass
from typing import Literal, get_args

MaterialName = Literal["metal", "wood", "glass", "rubber", "stone", "plastic"]


@dataclass(frozen=True)
class Material:
    """One material."""

    density: float  # kg/m3
    damping: float  # 1/s, of a contact; low values bounce high
    friction: float  # coefficient of sliding friction
    colour: tuple[float, float, float]  # RGB in 0..1
    gloss: float  # strength of highlights in 0..1
    grain: float  # contrast of the pattern on it in 0..1
    pitch: float  # Hz, lowest mode of a thing of 10 cm half height
    modes: tuple[float, ...]  # frequencies of the modes over the lowest one
    decay: float  # seconds in which the lowest mode falls to 1/e
    hardness: float  # Hz up to which a hit of 1 m/s excites modes
    loudness: float  # gain of its modes


MATERIALS: dict[MaterialName, Material] = {
    "metal": Material(
        7800, 90, 0.3, (0.70, 0.74, 0.80), 0.9, 0.05, 760, (1, 2.32, 4.25, 6.6), 0.14, 7000, 0.9
    ),
    "wood": Material(
        700, 130, 0.5, (0.58, 0.36, 0.16), 0.15, 0.3, 380, (1, 2.54, 3.8), 0.03, 3000, 1.0
    ),
    "glass": Material(
        2500, 100, 0.3, (0.30, 0.80, 0.66), 1.0, 0.0, 2300, (1, 1.5, 2.05, 2.7), 0.09, 9000, 0.8
    ),
    "rubber": Material(
        1100, 45, 0.9, (0.78, 0.14, 0.16), 0.1, 0.1, 120, (1, 1.7, 2.9), 0.05, 900, 1.3
    ),
    "stone": Material(
        2700, 160, 0.6, (0.40, 0.38, 0.34), 0.05, 0.35, 1150, (1, 1.83, 2.9), 0.018, 5000, 1.1
    ),
    "plastic": Material(
        1000, 95, 0.4, (0.95, 0.74, 0.1), 0.5, 0.05, 640, (1, 1.6, 2.2, 3.1), 0.025, 4000, 1.0
    ),
}
NAMES: tuple[MaterialName, ...] = get_args(MaterialName)
#: Floors with the word for them in a prompt; no word is the name of a thing's material.
FLOORS: dict[MaterialName, str] = {"wood": "wooden", "stone": "tiled", "metal": "steel"}
