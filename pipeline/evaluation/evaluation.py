"""One evaluation from end to end, apart from who runs the stages: ingest, score, record, write."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path

import pyarrow as pa

from model.metrics.metrics import Floats
from model.presets.preset import Preset
from pipeline.curation.sources import SCHEMA
from pipeline.evaluation import scoring, tables
from pipeline.evaluation.metrics import METRICS, FileFeatures, Inputs
from pipeline.evaluation.network_stages import Embed, sound_stages, video_stages
from pipeline.evaluation.results import EvaluationRecord, machine, versions
from pipeline.evaluation.sets import EvaluationSet, System
from pipeline.generation.provenance import code_revision
from pipeline.media import Scaling
from pipeline.media.mono import Channel
from pipeline.stages.engine import fingerprints
from pipeline.stages.stage import Stage
from warehouse import Warehouse
from warehouse.files import Json, identity_hash, make_folder, write_file, write_json

VERSION = 2  # raised when the same features give other figures


@dataclass(frozen=True)
class Setup:
    """What is evaluated, and how."""

    evaluated: EvaluationSet  # the videos with their true sounds
    systems: Sequence[System]  # the systems whose sounds are scored
    preset: Preset  # the networks
    channel: Channel = "mean"  # what ImageBind hears of a stereo sound
    scaling: Scaling = "bicubic"  # how pictures are brought to a network's size
    # bootstrap samples of the Frechet distances; 0 for no intervals and tests of them
    resamples: int = 200
    checkpoint: str | None = None  # id of the checkpoint among the systems, if there is one
    dataset: str | None = None  # version of the dataset that the set is a split of, if it is one

    @cached_property
    def sound_stages(self) -> list[Stage]:
        """Stages over the true sounds and those of the systems."""
        return sound_stages(self.preset, self.channel)

    @cached_property
    def video_stages(self) -> list[Stage]:
        """Stages over the videos."""
        return video_stages(self.preset, self.scaling)

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of all these stages."""
        return fingerprints([*self.sound_stages, *self.video_stages])

    def files(self) -> dict[str, tuple[Path, str]]:
        """Every file of the evaluation by its clip id: where it is, and the name of its source."""
        name = self.evaluated.name
        files: dict[str, tuple[Path, str]] = {}
        for item in self.evaluated.items:
            files[f"reference/{name}/{item.name}"] = (item.reference, f"reference.{name}")
            files[f"video/{name}/{item.name}"] = (item.video, f"video.{name}")
        for system in self.systems:
            for clip, path in system.sounds.items():
                files[f"system/{system.name}/{name}/{clip}"] = (path, f"system.{system.name}")
        return files


@dataclass(frozen=True)
class Evaluation:
    """Figures, counts and clip scores by system, comparisons, and how they came about."""

    id: str
    set_name: str
    systems: Mapping[str, scoring.Figures]
    counts: Mapping[str, Json]
    clips: Mapping[str, scoring.ClipScores]
    comparisons: Sequence[Json]
    provenance: Json


def systems_warehouse(home: Path) -> Warehouse:
    """The warehouse of evaluation files and their features, under HOME/systems."""
    return Warehouse(home / "systems")


def ingest_files(wh: Warehouse, setup: Setup) -> tuple[list[str], list[str]]:
    """Ingest every file of an evaluation; a file that did not change is not read again.

    Returns:
        Clip ids of the sounds, and of the videos.
    """
    files = setup.files()
    rows = [
        {"clip_id": id, "path": str(path.absolute()), "source": source}
        for id, (path, source) in files.items()
    ]
    wh.ingest(pa.Table.from_pylist(rows, SCHEMA))
    videos = [id for id in files if id.startswith("video/")]
    return [id for id in files if not id.startswith("video/")], videos


def score(wh: Warehouse, setup: Setup, advance: Callable[[], object] = lambda: None) -> Evaluation:
    """Figures of every system from its features; `advance` is called after each, and at the end."""
    inputs = _inputs(wh, setup)

    @cache  # an interval and every comparison on the same clips share their samples
    def samples(system: str, metric: str, names: tuple[str, ...]) -> Floats:
        draw = METRICS[metric].samples
        assert draw is not None
        return draw(inputs[system], names, setup.resamples)

    drawn: scoring.Samples | None = samples if setup.resamples else None
    clips = {name: scoring.clip_scores(of) for name, of in inputs.items()}
    figures: dict[str, scoring.Figures] = {}
    problems: dict[str, Json] = {}
    for system in setup.systems:
        of, seconds = inputs[system.name], setup.preset.evaluation_seconds
        figures[system.name], unmeasured = scoring.summarise(
            system.name, of, clips[system.name], drawn
        )
        problems[system.name] = scoring.counts(of, system, seconds) | {"unmeasured": unmeasured}
        advance()
    tests = scoring.comparisons(inputs, clips, drawn)
    advance()
    name, about = setup.evaluated.name, _provenance(setup, next(iter(inputs.values())))
    return Evaluation(_identity(wh, setup), name, figures, problems, clips, tests, about)


def _inputs(wh: Warehouse, setup: Setup) -> dict[str, Inputs]:
    """All features by system."""
    from model.networks.synchformer import Synchformer

    def of(stages: Sequence[Stage], prefix: str, names: Sequence[str]) -> FileFeatures:
        chosen = {stage.name: setup.fingerprints[stage.name] for stage in stages}
        return scoring.load(wh, chosen, f"{prefix}/{setup.evaluated.name}/", names)

    items = setup.evaluated.items
    names = [item.name for item in items]
    reference = of(setup.sound_stages, "reference", names)
    video = of(setup.video_stages, "video", names)
    offset_logits = None
    if Synchformer.name in setup.preset.networks:
        offset_logits = Synchformer.from_pretrained(setup.preset).offset_logits
    return {
        s.name: Inputs(
            items, reference, video,
            of(setup.sound_stages, f"system/{s.name}", list(s.sounds)), offset_logits,
        )
        for s in setup.systems
    }  # fmt: skip


def _provenance(setup: Setup, inputs: Inputs) -> dict[str, object]:
    stages = [*setup.sound_stages, *setup.video_stages]
    networks = [s for s in stages if isinstance(s, Embed)]
    return {
        "preset": setup.preset.name,
        "checkpoint": setup.checkpoint,
        "weights (content hash)": {s.kind.name: s.model_revision for s in networks},
        "stages": {s.name: {"version": s.version, **asdict(s.settings)} for s in stages},
        "commit": code_revision(),
        "machine": machine(),
        "versions": versions(),
        "fingerprints": setup.fingerprints,
        "seconds": setup.preset.evaluation_seconds,
        "resamples": setup.resamples,
        "set": {
            "name": setup.evaluated.name,
            "videos": len(setup.evaluated.items),
            "missing videos": list(setup.evaluated.missing),
            "unusable references": dict(inputs.reference.broken),
            "unusable videos": dict(inputs.video.broken),
        },
    }


def _identity(wh: Warehouse, setup: Setup) -> str:
    """The same files under the same settings have the same id."""
    rows = wh.clips(["clip_id", "sha256"], list(setup.files()), status=None).to_pylist()
    hashes = sorted((row["clip_id"], row["sha256"]) for row in rows)
    systems = [(s.name, sorted(s.sounds), s.missing) for s in setup.systems]
    name = setup.evaluated.name
    return identity_hash([VERSION, name, setup.fingerprints, setup.resamples, systems, hashes])


def record(wh: Warehouse, evaluation: Evaluation, setup: Setup) -> None:
    """Keep one record a system in the warehouse of the home folder."""
    for name, figures in evaluation.systems.items():
        EvaluationRecord(
            id=identity_hash([evaluation.id, name]),
            system=name,
            preset=setup.preset.name,
            set=evaluation.set_name,
            figures=figures,
            checkpoint=setup.checkpoint,
            dataset=setup.dataset,
            details={
                "counts": evaluation.counts[name],
                "clips": evaluation.clips[name],
                "provenance": evaluation.provenance,
            },
        ).write(wh)


def write_tables(folder: Path, evaluation: Evaluation) -> dict[str, Path]:
    """Write table2.md and evaluation.json into a folder; returns where each is."""
    make_folder(folder)
    files = {name: folder / name for name in ("table2.md", "evaluation.json")}
    text = tables.markdown(evaluation.set_name, evaluation.systems, evaluation.counts)
    write_file(folder, lambda handle: handle.write(text.encode()), files["table2.md"])
    write_json(folder, files["evaluation.json"], asdict(evaluation))
    return files
