"""What a sound is asked to be: its prompts over time, and the known sound that it starts from.

Shapes: C latent channels, L latent frames, J effective frames of P tokens of width V.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what is asked for is checked before torch is loaded
    from torch import Tensor


@dataclass(frozen=True)
class Stretch:
    """A part of a sound with a prompt of its own, up to the next."""

    start: float  # seconds
    prompt: str  # what is to be heard in it
    cut: bool = False  # whether the picture is cut where it starts: no window reaches over that


@dataclass(frozen=True)
class Retake:
    """A known sound, and what of it is to be made anew."""

    latents: Tensor  # [C, L] of the known sound
    # of latent frames (from, to) that are made anew; the rest stays as it is
    stretches: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Reference:
    """A sound to start from in place of noise (SDEdit, Meng et al. 2022, section 3)."""

    latents: Tensor  # [C, L] of the sound
    strength: float  # of the noise that is added to it, 0 to 1, where 1 leaves nothing of it


@dataclass(frozen=True)
class SoundRequest:
    """One sound to make."""

    prompt: str  # what is to be heard
    seconds: float  # length of the sound
    seed: int = 0  # of its noise; the same request gives the same sound
    video: Tensor | None = None  # tokens [J, P, V]; None for no video
    negative_prompt: str | None = None  # what is not to be heard; None or "" for nothing
    # prompts over time, in order, in place of `prompt`; and cuts of the picture
    stretches: tuple[Stretch, ...] = ()
    retake: Retake | None = None  # a known sound of which a part is made anew; None for none
    reference: Reference | None = None  # a sound to start from; None for none
    # seconds (from, to) in which the video is not seen
    hidden: tuple[tuple[float, float], ...] = ()

    def prompts(self) -> tuple[str, ...]:
        """The prompt of each stretch."""
        return tuple(stretch.prompt for stretch in self.stretches) or (self.prompt,)

    def plan(self) -> tuple[tuple[tuple[float, bool], ...], float | None]:
        """What requests of one batch have in common: starts of stretches, strength of the noise."""
        starts = tuple((stretch.start, stretch.cut) for stretch in self.stretches[1:])
        return starts, self.reference.strength if self.reference else None
