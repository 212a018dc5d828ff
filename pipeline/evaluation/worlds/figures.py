"""What the held-out worlds of a dataset tell of a checkpoint beside its time.

Of worlds alone, because it takes their truth: force and place of every hit, what an act that
differs in a pair changes, what is heard at rest, and of worlds of one thing the material.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np

from model.types import Audio
from pipeline.evaluation.conditions import Condition, is_world, shows_material, truth_of, wav_audio
from pipeline.evaluation.worlds import claims
from pipeline.evaluation.worlds.claims import Hit, MaterialJudge, Truth
from pipeline.media import read_audio
from pipeline.training.batches import DatasetFeatures

LEARNT = 300  # clips that the judge of materials learns from, at most
CHUNK = 64  # sounds held at once

#: Figures of sounds for their own video, which other clips do not have.
WORLD_FIGURES = (
    "force", "place", "cause", "cause_there", "cause_nowhere_else", "false_onsets",
    "seen_hits_met", "unseen_hits_met", "material_judge_accuracy",
)  # fmt: skip
Values = dict[str, tuple[float, int]]  # by figure: its value, and of how many it is


class WorldFigures:
    """Figures of the sounds that `data`'s fingerprints name, for clips with their truth."""

    def __init__(self, data: DatasetFeatures, truths: Mapping[str, Truth]) -> None:
        self.data, self.rate = data, data.preset.sample_rate
        self.truths = {clip: truth for clip, truth in truths.items() if is_world(truth)}

    def of(self, condition: Condition) -> Values:
        """What is known of a condition's sounds, by the name of the figure."""
        found: Values = {}
        if condition == "true":
            found = self._at_hits() | self._causes() | self._rests()
        if condition in ("true", "swap", "video"):
            found |= self._materials(condition)
        return found

    def _sounds(self, condition: Condition, clips: list[str]) -> Iterator[tuple[str, Audio]]:
        """Clips with the sounds made for them [2, S]."""
        for start in range(0, len(clips), CHUNK):
            part = clips[start : start + CHUNK]
            for clip, row in self.data.rows(f"generate_{condition}", ("sound",), part).items():
                sound = wav_audio(row["sound"])[0]
                yield clip, sound if len(sound) == 2 else np.repeat(sound, 2, 0)

    def _own(self, clips: list[str]) -> Iterator[tuple[str, Truth, Audio]]:
        """Clips with their truth and their own sound [2, S]."""
        for row in self.data.wh.clips(["clip_id", "path", "truth"], clips).to_pylist():
            sound = read_audio(Path(row["path"]), self.rate, "stereo")
            yield row["clip_id"], truth_of(row), sound

    def _at_hits(self) -> Values:
        hits: list[Hit] = []
        clips = [*self.truths]
        for start in range(0, len(clips), CHUNK):
            made = dict(self._sounds("true", clips[start : start + CHUNK]))
            for clip, truth, own in self._own([*made]):
                hits += claims.hits_of(truth, own, made[clip], self.rate)
        seen = sum(hit.visible for hit in hits)
        values = {
            "force": (claims.force(hits), seen),
            "place": (claims.place(hits), len(claims.off_the_middle(hits))),
            "seen_hits_met": (claims.met(hits, visible=True), seen),
            "unseen_hits_met": (claims.met(hits, visible=False), len(hits) - seen),
        }
        return {name: (value, of) for name, (value, of) in values.items() if value is not None}

    def _causes(self) -> Values:
        """Of pairs that are held out whole."""
        pairs = self.pairs()
        sounds = dict(self._sounds("true", [clip for pair in pairs for clip in pair]))
        found: list[tuple[bool, bool]] = []
        for one, other in pairs:
            if one in sounds and other in sounds:
                truths, made = (self.truths[one], self.truths[other]), (sounds[one], sounds[other])
                found.append(claims.follows_cause(truths, made, changed(truths[1]), self.rate))
        if not found:
            return {}
        there, alone = np.array(found).T
        names = {"cause_there": there, "cause_nowhere_else": alone, "cause": there & alone}
        return {name: (float(values.mean()), len(found)) for name, values in names.items()}

    def pairs(self) -> list[tuple[str, str]]:
        """Clips of which the second is the first one but for an act."""
        plain: dict[str, str] = {}
        changes: dict[str, str] = {}
        for clip, truth in self.truths.items():
            if truth.get("pair"):
                (changes if truth["change"] else plain)[truth["pair"]] = clip
        return [(plain[pair], changes[pair]) for pair in sorted(plain.keys() & changes.keys())]

    def _rests(self) -> Values:
        stretches = {clip: at for clip, truth in self.truths.items() if (at := claims.rests(truth))}
        clips = false = 0
        seconds = 0.0
        for clip, sound in self._sounds("true", [*stretches]):
            clips, false = clips + 1, false + claims.onsets_in(stretches[clip], sound, self.rate)
            seconds += sum(end - begin for begin, end in stretches[clip])
        return {"false_onsets": (false / seconds, clips)} if clips else {}

    def _materials(self, condition: Condition) -> Values:
        truths = {clip: truth for clip, truth in self.truths.items() if shows_material(truth)}
        wanted = {
            clip: truth["swap"]["material"] if condition == "swap" else truth["material"]
            for clip, truth in truths.items()
        }
        heard = [
            self._judge(sound) == wanted[clip] for clip, sound in self._sounds(condition, [*truths])
        ]
        if not heard:
            return {}
        found: Values = {"material_accuracy": (float(np.mean(heard)), len(heard))}
        if condition == "true":
            own = [self._judge(sound) == wanted[clip] for clip, _, sound in self._own([*truths])]
            found["material_judge_accuracy"] = (float(np.mean(own)), len(own))
        return found

    @cached_property
    def _judge(self) -> MaterialJudge:
        """Learnt from the sounds that the bridge learned from."""
        kept = sorted(self.data.dataset.clip_ids("train"))
        known = self.data.wh.clips(["clip_id", "truth"], kept).to_pylist()
        plain = [row["clip_id"] for row in known if _is_plain(truth_of(row))][:LEARNT]
        learnt = [*self._own(plain)]
        labels = [truth["material"] for _, truth, _ in learnt]
        return MaterialJudge([sound for _, _, sound in learnt], labels, self.rate)


def _is_plain(truth: Truth) -> bool:
    """Whether what is heard is what is seen: of no flawed clip."""
    return shows_material(truth) and not truth.get("flaw")


def changed(truth: Truth) -> tuple[float, float]:
    """From when to when the act lasts in which the second of a pair differs, s."""
    act = truth["acts"][truth["change"][0]]
    return act["begin"], act["end"]
