"""Ablations: the same training with one thing changed, scored at the same marks and clips.

Pooling (paper section 4.2, Table 1 and Figure 2): variants train on frame and on grid tokens of the
fixed-seed 30% subset of the training split. Curation: on the training split that a policy chose,
and on all that decodes. Recipe and seed are the same; sounds are made without text, so that video
alone guides them. They are made and heard by a stage, batch by batch, so that memory is bounded and
a run that was stopped goes on.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from model.foley import FoleyControl, SoundRequest
from model.metrics.metrics import kl_divergence, mean_interval
from model.presets.networks import NETWORKS
from model.presets.preset import Preset
from model.presets.settings import Pooling, revision_in
from model.training.validation import validate
from model.types import Audio
from model.weights.device import autocast, choose_device
from pipeline.curation.policy import load_policy, select_uncurated
from pipeline.curation.stage_graph import StageGraph
from pipeline.evaluation.conditions import (
    Generate,
    GenerateSettings,
    generate_settings,
    onsets_text,
    wav_audio,
    wav_bytes,
)
from pipeline.evaluation.held_out import record_of, score_condition, truths_of
from pipeline.evaluation.network_stages import SoundSettings, sound_stages
from pipeline.evaluation.results import figure_of
from pipeline.evaluation.tables import measured
from pipeline.media.mono import heard
from pipeline.report.pictures import curves_svg
from pipeline.stages.engine import fingerprints
from pipeline.stages.stage import Passed, Stage
from pipeline.training.batches import DatasetFeatures
from pipeline.training.checkpoints import Checkpoint, find_checkpoint
from warehouse import Dataset, FoleyError, Warehouse, array_field, field
from warehouse.datasets.versions import UNCURATED
from warehouse.files import Json, identity_hash

VERSION = 4  # raised when the same rows give other figures, or records of another form
PANNS = "panns"  # the network that compares, as in the paper's Table 1
SEED = 0  # of the sounds: the same noise for a clip in every variant

Figure = Mapping[str, float]  # value, low and high of its interval where it has one, and clips


@dataclass(frozen=True)
class Mark:
    """Figures of one variant after some steps, on the held-out clips, without text."""

    variant: str
    steps: int
    figures: Mapping[str, Figure]  # kl_panns, v_loss, and where a truth is known f1_60ms, mae_ms
    checkpoint: str


def pooled(preset: Preset, pooling: Pooling) -> Preset:
    """The preset with another pooling."""
    return preset.model_copy(update={"video": preset.video.model_copy(update={"pooling": pooling})})


def trained_to(preset: Preset, marks: Sequence[int]) -> Preset:
    """The preset that trains to the last mark and keeps a checkpoint at each.

    Nothing ends it before, and no finite loss stops it: one noisy clip of an uncurated set can cost
    a step a hundred times the usual loss, and that is what the ablation shows.
    """
    changes = {"steps": max(marks), "keep_steps": tuple(marks[:-1])}
    changes |= {"diverged_at": 1e9, "patience": None}
    return preset.model_copy(update={"train": preset.train.model_copy(update=changes)})


def uncurated(wh: Warehouse, dataset: Dataset) -> Dataset:
    """A version of all clips that decode, of those a dataset was selected from, in its splits."""
    splits = {name: dataset.policy[name] for name in ("val", "test", "seed", "ablation_share")}
    candidates = dataset.members(kept=None)["clip_id"].to_pylist()
    policy = replace(load_policy("all"), **splits)
    name = f"{dataset.name}.{UNCURATED}"
    return select_uncurated(wh, dataset.fingerprints, policy, name, candidates)


def true_sound_stages(preset: Preset) -> list[Stage]:
    """What PANNs hears of the clips' own sound: the same for every variant and mark.

    Raises FoleyError for a preset that leaves PANNs out.
    """
    if PANNS not in preset.networks:
        raise FoleyError(
            f"preset {preset.name} leaves {PANNS} out, by which variants are compared: "
            "add it to its networks"
        )
    return sound_stages(preset.model_copy(update={"networks": (PANNS,)}))


@dataclass(frozen=True)
class HeardSettings(GenerateSettings):
    """What decides a sound, and which part of it the network hears."""

    heard: SoundSettings


class VideoAlone(Generate):
    """What PANNs hears, and the onsets, in a sound for each clip made from its video alone.

    The sounds themselves are not kept: those of all marks would fill a disk.
    """

    version = 1
    schema = pa.schema(
        [
            field("onsets", pa.string(), "onset times found in the sound, JSON list of seconds"),
            array_field("panns_logits", "<f4", (-1,), "logits of the classes that PANNs hears"),
        ]
    )

    def __init__(self, preset: Preset, checkpoint: Checkpoint) -> None:
        self.kind = NETWORKS[PANNS].load_class()
        heard = SoundSettings(preset.evaluation_seconds, network=self.kind.settings(preset))
        settings = generate_settings(preset, checkpoint, SEED, "video")
        super().__init__(preset, checkpoint.path, HeardSettings(**vars(settings), heard=heard))
        self.name = "ablation_sound"

    @property
    def model_revision(self) -> str:
        """The checkpoint's id, and the content hash of the network's weights."""
        revision = revision_in(self.kind.revision(self.preset), self.preset.precision.networks)
        return f"{super().model_revision} {revision}"

    def setup(self) -> None:
        """Load backbone, bridge and network."""
        super().setup()
        self._panns: Any = self.kind.from_pretrained(self.preset)

    def _rows(self, made: Sequence[tuple[Audio, SoundRequest]]) -> list[Passed]:
        """Each sound is heard as evaluation hears the file that it would be."""
        ours, theirs = self.preset.sample_rate, self._panns.sample_rate
        files = [wav_audio(wav_bytes(sound, ours))[0] for sound, _ in made]
        mono = [heard(file, ours, theirs, self.preset.evaluation_seconds) for file in files]
        with autocast(self.preset.precision.networks, choose_device()):
            embedded = self._panns.hear(mono)
        onsets = [onsets_text(sound.mean(0), ours) for sound, _ in made]
        logits = [np.asarray(logits, "<f4").tobytes() for _, logits in embedded]
        values = zip(onsets, logits, strict=True)
        return [Passed({"onsets": when, "panns_logits": what}) for when, what in values]


def checkpoint_at(wh: Warehouse, id: str) -> Checkpoint:
    """The checkpoint of a mark. Raises FoleyError where there is none."""
    trained = find_checkpoint(wh, id)
    if trained is None:
        why = "it was trained before without that mark"
        raise FoleyError(f"no checkpoint {id}: {why}; use its marks or a --seed")
    return trained


@dataclass(frozen=True)
class Trial:
    """One variant after some steps, to be scored on the held-out clips."""

    data: DatasetFeatures  # with the fingerprints of features, true sounds and the variant's own
    checkpoint: Checkpoint
    variant: str
    steps: int
    stage: VideoAlone

    @classmethod
    def of(cls, data: DatasetFeatures, checkpoint: Checkpoint, variant: str, steps: int) -> Self:
        """With the fingerprints of `data`, which are of the features, made whole."""
        preset = data.preset
        stage = VideoAlone(preset, checkpoint)
        stages = [*StageGraph(preset).feature_stages, *true_sound_stages(preset), stage]
        return cls(
            replace(data, fingerprints=fingerprints(stages)), checkpoint, variant, steps, stage
        )

    @property
    def id(self) -> str:
        """The same clips, features, checkpoint, sampling and machine have the same id."""
        named = [self.data.held_out_name, dict(self.data.fingerprints), self.variant]
        return "ablation-" + identity_hash([VERSION, self.checkpoint.id, *named])

    def known(self) -> Mark | None:
        """Its figures, where it was scored before."""
        records = (r for r in self.data.wh.records("evaluations") if r["id"] == self.id)
        return next(map(_mark, records), None)

    def score(self) -> Mark:
        """Figures of what the stages found; kept as a record of the catalog's `evaluations`."""
        figures, about = self._figures(), {"variant": self.variant, "steps": self.steps}
        record = record_of(self.data, self.checkpoint, self.id, "video-only", figures)
        return _mark(replace(record, details=about).write(self.data.wh))

    def _figures(self) -> dict[str, Figure]:
        data, clips = self.data, self.data.held_out_clips()
        own = data.rows(self.stage.name, ("onsets", "panns_logits"), clips)
        true = data.rows(f"hear_{PANNS}", (f"hear_{PANNS}_logits",), clips)
        both = sorted(own.keys() & true.keys())
        if not both:
            raise FoleyError(f"{data.held_out_name}: PANNs can hear the sound of no clip")
        logits = [
            np.stack([np.frombuffer(rows[clip][name], "<f4") for clip in both])
            for rows, name in ((true, f"hear_{PANNS}_logits"), (own, "panns_logits"))
        ]
        kl = mean_interval(kl_divergence(*logits))
        truths = truths_of(data.wh, sorted(own))
        sync = score_condition(list(own.values()), truths)
        foley = FoleyControl.from_pretrained(data.preset, self.checkpoint.path, choose_device())
        batches = data.batches("test")
        loss = validate(foley.backbone, foley.bridge, batches, seed=0).true
        figures = {
            "kl_panns": {**asdict(kl), "clips": len(both)},
            "f1_60ms": figure_of(sync["f1_60ms"], len(truths)),
            "mae_ms": figure_of(sync["mae_ms"], len(truths)),
            "v_loss": figure_of(loss, batches.clips),
        }
        return {name: figure for name, figure in figures.items() if figure}


def _mark(record: Json) -> Mark:
    return Mark(record["variant"], record["steps"], record["figures"], record["checkpoint"])


def table(marks: Sequence[Mark]) -> str:
    """The figures as Markdown: a row a step mark, variants side by side (Table 1)."""
    variants = list(dict.fromkeys(mark.variant for mark in marks))
    by_step = {(mark.variant, mark.steps): mark for mark in marks}
    head = " | ".join(f"{name}: KL-PANNs | F1 at 60 ms | v-loss" for name in variants)
    lines = [f"| steps | {head} |", "| --- |" + " --- |" * 3 * len(variants)]
    for steps in sorted({mark.steps for mark in marks}):
        cells: list[str] = []
        for mark in (by_step[name, steps] for name in variants):
            cells += [measured(mark.figures.get(name)) for name in ("kl_panns", "f1_60ms")]
            cells.append(f"{mark.figures['v_loss']['value']:.4f}")
        lines.append(f"| {steps} | {' | '.join(cells)} |")
    return "\n".join(lines)


def figures(marks: Sequence[Mark]) -> dict[str, str]:
    """Figure 2 as SVG by file name, a line a variant: KL-PANNs, and F1 where a truth is known."""
    captions = {
        "kl_panns": "training steps; KL-PANNs of held-out clips, no text: lower is better",
        "f1_60ms": "training steps; F1 at 60 ms of held-out clips, no text",
    }
    drawn: dict[str, str] = {}
    for key, caption in captions.items():
        lines: dict[str, list[tuple[int, float]]] = {}
        for mark in marks:
            if key in mark.figures:
                point = (mark.steps, mark.figures[key]["value"])
                lines.setdefault(mark.variant, []).append(point)
        if lines:
            drawn[f"ablation-{key}.svg"] = curves_svg(caption, list(lines.items()))
    return drawn


def write_results(folder: Path, marks: Sequence[Mark], facts: Mapping[str, object]) -> Path:
    """Write ablation.json, ablation.md and the figures into a folder; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    results = {**facts, "marks": [asdict(mark) for mark in marks]}
    (folder / "ablation.json").write_text(json.dumps(results, indent=1) + "\n")
    drawn = figures(marks)
    for name, svg in drawn.items():
        (folder / name).write_text(svg + "\n")
    page = folder / "ablation.md"
    note = "In parentheses the 95% bootstrap interval over clips."
    images = "\n\n".join(f"![Figures over training steps]({name})" for name in drawn)
    page.write_text(f"{table(marks)}\n\n{note}\n\n{images}\n")
    return page
