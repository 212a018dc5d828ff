"""Do the metrics measure what they say? Known damage to true sounds, and what each metric makes of it."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from model.presets import Preset, load_preset
from pipeline.engine import fingerprints, plan, run_batch
from pipeline.evaluation.run import Evaluation, bring_in, score, workshop
from pipeline.evaluation.sets import EvaluationSet, evaluation_set, system
from pipeline.evaluation.stages import evaluation_stages
from pipeline.generate import other_material
from pipeline.media import write_wav
from pipeline.procedural import SAMPLE_RATE, ProceduralClip, render_audio, sample_clip, write_corpus
from pipeline.procedural.degrading import degrade

FIRST = 77  # seed of the corpus: no network was trained on it
SHIFTS = (-2.0, -1.6, -1.2, -0.8, -0.4, 0.0, 0.4, 0.8, 1.2, 1.6, 2.0)
SNRS = (30, 20, 10, 0)  # dB
Make = Callable[[Sequence[ProceduralClip], int], np.ndarray]


def evaluate_folders(
    home: Path, evaluated: EvaluationSet, folders: dict[str, Path], preset: Preset, resamples: int = 0
) -> Evaluation:
    """Systems' folders on a set, without Prefect."""
    wh = workshop(home)
    systems = [system(name, folder, evaluated.items) for name, folder in folders.items()]
    clips = bring_in(wh, evaluated, systems)
    hearing, watching = evaluation_stages(preset)
    fps = fingerprints([*hearing, *watching])
    for stages, ids in ((hearing, clips.sounds), (watching, clips.videos)):
        for stage in stages:
            work = plan(wh, stage, fps, ids)
            for batch in work.batches:
                run_batch(wh, stage, work.header(), batch)
    return score(wh, evaluated, systems, fps, preset, {}, resamples)


def shifted(audio: np.ndarray, seconds: float) -> np.ndarray:
    """Sound that is late by so much, as a file would be: silence where it has nothing."""
    n, out = round(abs(seconds) * SAMPLE_RATE), np.zeros_like(audio)
    if seconds >= 0:
        out[n:] = audio[: len(audio) - n]
    else:
        out[: len(audio) - n] = audio[n:]
    return out


def _own(change: Callable[[np.ndarray, int], np.ndarray]) -> Make:
    return lambda clips, i: change(render_audio(clips[i]), i)


def _noise(snr: float) -> Callable[[np.ndarray, int], np.ndarray]:
    return lambda audio, i: degrade(audio, "noise", 1 - snr / 30, i)


def perturbations() -> dict[str, Make]:
    """Name of each system -> its sound for the i-th clip."""
    makers: dict[str, Make] = {"true": _own(lambda audio, _: audio)}
    makers |= {f"noise-{snr}": _own(_noise(snr)) for snr in SNRS}
    makers |= {f"shift{s:+.1f}": _own(lambda audio, _, s=s: shifted(audio, s)) for s in SHIFTS if s}
    makers["material-swapped"] = lambda clips, i: render_audio(
        replace(clips[i], material=other_material(clips[i].material))  # type: ignore[arg-type]
    )
    makers["another-clips-sound"] = lambda clips, i: render_audio(clips[(i + 1) % len(clips)])
    return makers


def measure(home: Path, count: int, preset: Preset, names: Sequence[str] | None = None) -> Evaluation:
    """Write the perturbed sounds of `count` unseen clips under `home`, and score them."""
    rows = write_corpus(home / "videos", count, seed=FIRST, bad=())
    clips = [sample_clip(row["truth"]["seed"], row["truth"]["seconds"]) for row in rows]
    folders: dict[str, Path] = {}
    for name, make in perturbations().items():
        if names is not None and name not in names:
            continue
        folders[name] = home / "sounds" / name
        folders[name].mkdir(parents=True, exist_ok=True)
        for i, row in enumerate(rows):
            write_wav(folders[name] / f"{Path(row['file']).stem}.wav", make(clips, i), SAMPLE_RATE)
    return evaluate_folders(home, evaluation_set(home / "videos"), folders, preset)


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's."""
    found: Any = spearmanr(a, b)
    return float(found.statistic)


def shift_correlation(found: Evaluation) -> float:
    """Rank correlation of DeSync with the known shift, over all clips and shifts."""
    said: list[float] = []
    known: list[float] = []
    for shift in SHIFTS:
        name = f"shift{shift:+.1f}" if shift else "true"
        rows = found.clips.get(name, {}).values()
        said += [row["desync"] for row in rows if "desync" in row]
        known += [abs(shift)] * (len(said) - len(known))
    return rank_correlation(known, said)


def mean_correlation(found: Evaluation) -> float:
    """The same of a system's mean DeSync, which is what the table shows."""
    names = {abs(s): [] for s in SHIFTS}
    for s in SHIFTS:
        names[abs(s)].append(found.systems[f"shift{s:+.1f}" if s else "true"]["desync"]["value"])
    return rank_correlation(list(names), [float(np.mean(v)) for v in names.values()])


def perturbed() -> Iterator[dict[str, Any]]:
    """DeSync against known shifts; the whole table goes to standard error."""
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), 48, load_preset("toy"))
    metrics = (
        "kl_panns",
        "kl_passt",
        "ib",
        "fd_vgg",
        "fd_panns",
        "fd_passt",
        "desync",
        "is",
        "onset_f1",
        "true_offset",
    )
    print("| sound | " + " | ".join(metrics) + " |\n| --- |" + " --- |" * len(metrics), file=sys.stderr)
    for name, figures in found.systems.items():
        cells = [f"{figures[m]['value']:.3g}" if m in figures else "-" for m in metrics]
        print(f"| {name} | " + " | ".join(cells) + " |", file=sys.stderr)
    figure = {"unit": "rank correlation", "better": "higher"}
    yield figure | {"name": "DeSync with the known shift, over systems", "value": round(mean_correlation(found), 3)}
    yield figure | {"name": "DeSync with the known shift, over clips", "value": round(shift_correlation(found), 3)}
