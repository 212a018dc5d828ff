"""What a procedural clip is: impact times, material, scene and prompt, all drawn from one seed."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from warehouse.files import Json

Material = Literal["metal", "wood", "glass", "rubber"]
Scene = Literal["hammer", "ball", "block"]

MATERIALS: tuple[Material, ...] = get_args(Material)
SCENES: tuple[Scene, ...] = get_args(Scene)
WORDINGS: dict[Scene, tuple[str, ...]] = {
    "hammer": ("a hammer strikes {}", "{} struck by a hammer", "someone hammering on {}"),
    "ball": (
        "a ball bounces on {}",
        "{} hit by a bouncing ball",
        "a ball drops onto {} again and again",
    ),
    "block": (
        "a block knocks against {}",
        "{} knocked by a sliding block",
        "a block slides into {} and back",
    ),
}

_MIN_GAP, _MAX_GAP = 0.35, 1.1  # seconds between impacts
_LEAD, _TAIL = 0.1, 0.2  # seconds without impacts at the start and at the end
_MIN_SECONDS, _MAX_SECONDS = 1.0, 600.0


@dataclass(frozen=True)
class ProceduralClip:
    """Everything that the sound and the picture of one clip are rendered from."""

    seed: int
    seconds: float
    material: Material
    scene: Scene
    prompt: str
    impacts: tuple[float, ...]  # seconds from the start, ascending
    strengths: tuple[float, ...]  # their gains in .6..1

    def truth(self) -> Json:
        """The clip's truth, as JSON values."""
        return {
            "impacts": list(self.impacts),
            "material": self.material,
            "swap": self._swap(),
            "scene": self.scene,
            "seed": self.seed,
            "seconds": self.seconds,
        }

    def _swap(self) -> dict[str, str] | None:
        """Another material and the prompt for it; None where the prompt does not name its own."""
        other = MATERIALS[(MATERIALS.index(self.material) + 1) % len(MATERIALS)]
        prompt, count = re.subn(rf"\b{self.material}\b", other, self.prompt)
        return {"material": other, "prompt": prompt} if count else None


def rng_of(seed: int, purpose: int) -> np.random.Generator:
    """A stream of its own for each purpose, so that rendering one thing never shifts another."""
    return np.random.default_rng((seed, purpose))


def prompt_for(material: str, scene: Scene, wording: int = 0) -> str:
    """The prompt of a scene that names the material; `wording` wraps around."""
    choices = WORDINGS[scene]
    return choices[wording % len(choices)].format(material)


def sample_clip(seed: int, seconds: float = 4.0) -> ProceduralClip:
    """The clip of a seed: the same numbers on every machine.

    Gaps between impacts are uniform in .35..1.1 s, so 4 s hold about 5. Raises ValueError for a
    negative seed or for seconds outside 1..600.
    """
    if seed < 0 or not _MIN_SECONDS <= seconds <= _MAX_SECONDS:
        wanted = f"a seed >= 0 and {_MIN_SECONDS:g}..{_MAX_SECONDS:g} s"
        raise ValueError(f"a clip needs {wanted}, not {seed} and {seconds:g} s")
    rng = rng_of(seed, 0)
    material = MATERIALS[int(rng.integers(len(MATERIALS)))]
    scene = SCENES[int(rng.integers(len(SCENES)))]
    prompt = prompt_for(material, scene, int(rng.integers(len(WORDINGS[scene]))))
    impacts: list[float] = []
    at = _LEAD + float(rng.uniform(0, min(_MAX_GAP - _MIN_GAP, seconds - _TAIL - _LEAD)))
    while at <= seconds - _TAIL:
        impacts.append(round(at, 3))
        # a millisecond inside the bounds, for the rounding
        at = impacts[-1] + float(rng.uniform(_MIN_GAP + 0.001, _MAX_GAP - 0.001))
    strengths = tuple(round(float(s), 3) for s in rng.uniform(0.6, 1.0, len(impacts)))
    return ProceduralClip(seed, seconds, material, scene, prompt, tuple(impacts), strengths)
