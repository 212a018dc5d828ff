"""Do the metrics measure what they say? What each makes of true sounds that were damaged so much.

`python -m tests.benchmarks.evaluation [FOLDER]` writes docs/figures/metric-check.json and the table
of docs/evaluation.md. What it computed stays in the FOLDER, for the next time.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from model.metrics.metrics import frechet_distance, frechet_samples
from model.presets.preset import Preset, load_preset
from pipeline.evaluation.evaluation import Evaluation, Setup, ingest_files, score, systems_warehouse
from pipeline.evaluation.metrics import METRICS
from pipeline.evaluation.sets import EvaluationSet, evaluation_set, system
from pipeline.evaluation.tables import heading, number
from pipeline.generation.provenance import code_revision
from pipeline.media import Scaling, write_wav
from pipeline.procedural import (
    SAMPLE_RATE,
    Corpus,
    ProceduralClip,
    render_audio,
    sample_clip,
    write_corpus,
)
from pipeline.procedural.degrading import degrade
from pipeline.stages.engine import plan, run_batch

FIRST = 77  # seed of the corpus: no network was trained on it
CLIPS = 32
SHIFTS = (-2.0, -1.6, -1.2, -0.8, -0.4, 0.0, 0.4, 0.8, 1.2, 1.6, 2.0)
SNRS = (30, 20, 10, 0)  # dB
DOCS = Path(__file__).parents[2] / "docs"
Make = Callable[[Sequence[ProceduralClip], int], np.ndarray]
Results = Mapping[str, Any]


def evaluate_folders(
    home: Path,
    evaluated: EvaluationSet,
    folders: Mapping[str, Path],
    preset: Preset,
    resamples: int = 0,
    scaling: Scaling = "bicubic",
) -> Evaluation:
    """Systems' folders on a set, without Prefect.

    `provenance` holds how many clips each stage had to do.
    """
    wh = systems_warehouse(home)
    systems = [system(name, folder, evaluated.items) for name, folder in folders.items()]
    setup = Setup(evaluated, systems, preset, scaling=scaling, resamples=resamples)
    sounds, videos = ingest_files(wh, setup)
    todo: dict[str, int] = {}
    for stages, ids in ((setup.sound_stages, sounds), (setup.video_stages, videos)):
        for stage in stages:
            work = plan(wh, stage, setup.fingerprints, ids)
            todo[stage.name] = work.todo
            for batch in work.batches:
                run_batch(wh, stage, work.header(), batch)
    evaluation = score(wh, setup)
    return replace(evaluation, provenance=dict(evaluation.provenance) | {"todo": todo})


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
        replace(clips[i], material=clips[i].truth()["swap"]["material"])  # type: ignore[arg-type]
    )
    makers["another-clips-sound"] = lambda clips, i: render_audio(clips[(i + 1) % len(clips)])
    return makers


def write_sounds(
    home: Path, count: int, names: Sequence[str] | None = None
) -> tuple[EvaluationSet, dict[str, Path]]:
    """Unseen clips under `home`, and folders of their sounds with known damage."""
    rows = write_corpus(home / "videos", Corpus(count, seed=FIRST, bad=()))
    clips = [sample_clip(row["truth"]["seed"], row["truth"]["seconds"]) for row in rows]
    folders: dict[str, Path] = {}
    for name, make in perturbations().items():
        if names is not None and name not in names:
            continue
        folders[name] = home / "sounds" / name
        folders[name].mkdir(parents=True, exist_ok=True)
        for i, row in enumerate(rows):
            write_wav(folders[name] / f"{Path(row['file']).stem}.wav", make(clips, i), SAMPLE_RATE)
    return evaluation_set(home / "videos"), folders


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's."""
    found: Any = spearmanr(a, b)
    return float(found.statistic)


def shift_correlation(found: Evaluation) -> float:
    """Rank correlation of DeSync with the known shift, over all clips and shifts."""
    said: list[float] = []
    known: list[float] = []
    for shift in SHIFTS:
        rows = found.clips[f"shift{shift:+.1f}" if shift else "true"].values()
        said += [row["desync"] for row in rows if "desync" in row]
        known += [abs(shift)] * (len(said) - len(known))
    return rank_correlation(known, said)


def mean_correlation(found: Evaluation) -> float:
    """The same of a system's mean DeSync, which is what the table shows."""
    names: dict[float, list[float]] = {abs(s): [] for s in SHIFTS}
    for s in SHIFTS:
        names[abs(s)].append(found.systems[f"shift{s:+.1f}" if s else "true"]["desync"]["value"])
    return rank_correlation(list(names), [float(np.mean(v)) for v in names.values()])


def metric_check(home: Path, count: int = CLIPS) -> dict[str, Any]:
    """Every metric of every damage, in the toy.

    With it, how DeSync follows the shift, and what the scaling of pictures does. What lies in
    `home` from an earlier check is used again.
    """
    preset = load_preset("toy")
    evaluated, folders = write_sounds(home, count)
    found = evaluate_folders(home, evaluated, folders, preset)
    some = {name: folders[name] for name in ("true", "another-clips-sound")}
    bilinear = evaluate_folders(home, evaluated, some, preset, scaling="bilinear")
    return {
        "commit": code_revision(),
        "clips": count,
        "weights": found.provenance["weights (content hash)"],
        "sounds": _values(found),
        "desync_rank_correlation": {
            "systems": mean_correlation(found),
            "clips": shift_correlation(found),
        },
        "bilinear": {
            name: {m: row[m] for m in ("ib", "desync")} for name, row in _values(bilinear).items()
        },
    }


def _values(found: Evaluation) -> dict[str, dict[str, float]]:
    return {
        name: {m: row[m]["value"] for m in METRICS if m in row}
        for name, row in found.systems.items()
    }


def title(name: str) -> str:
    """A damage as the table names it."""
    if name.startswith("noise-"):
        return (
            f"noise, {name.removeprefix('noise-')} dB below it"
            if name != "noise-0"
            else "noise as loud as it"
        )
    if name.startswith("shift"):
        seconds = float(name.removeprefix("shift"))
        return f"{abs(seconds):g} s {'late' if seconds > 0 else 'early'}"
    return {"true": "the true sound"}.get(name, name.replace("-", " ").replace("clips", "clip's"))


def table(results: Results) -> str:
    """The check as a Markdown table."""
    heads = list(map(heading, METRICS.values()))
    lines = ["| sound | " + " | ".join(heads) + " |", "| --- |" + " --- |" * len(heads)]
    for name, row in results["sounds"].items():
        lines.append(f"| {title(name)} | " + " | ".join(number(row.get(m)) for m in METRICS) + " |")
    return "\n".join(lines)


def perturbed() -> Iterator[dict[str, Any]]:
    """How DeSync follows known shifts, and what a second evaluation costs."""
    seconds: list[float] = []
    results: Results = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            started = time.process_time()
            results = metric_check(Path(folder))
            seconds.append(round(time.process_time() - started, 1))
    figure = {"unit": "rank correlation", "better": "higher"}
    for over, value in results["desync_rank_correlation"].items():
        yield figure | {
            "name": f"DeSync with the known shift, over {over}",
            "value": round(value, 3),
        }
    first, again = seconds
    yield {"name": "a second evaluation", "value": again, "unit": "CPU s", "better": "lower",
           "against": "the first", "ratio": again / first}  # fmt: skip


def frechet() -> Iterator[dict[str, Any]]:
    """Frechet distance at the paper's size, and its bootstrap as single distances would cost."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 527, 2048))

    def seconds(run: Callable[[], object]) -> tuple[float, float]:
        run()
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        return time.perf_counter() - wall, time.process_time() - cpu

    wall, single = seconds(lambda: frechet_distance(x, y))
    figure = {"unit": "s", "better": "lower"}
    yield figure | {"name": "FD of 527 clips x 2048", "value": round(wall, 3)}
    _, drawn = seconds(lambda: frechet_samples(list(x[:, None]), y, 50))
    figure = {"unit": "CPU s", "better": "lower", "against": "50 distances"}
    samples = {"name": "50 bootstrap samples of it", "value": round(drawn, 2)}
    yield figure | samples | {"ratio": drawn / (50 * single)}


def write_docs(results: Results) -> None:
    """The results, and their table between its marks in docs/evaluation.md."""
    (DOCS / "figures" / "metric-check.json").write_text(json.dumps(results, indent=1) + "\n")
    page = DOCS / "evaluation.md"
    marks = r"(<!-- metric check[^>]*-->\n\n).*?(\n\n<!-- end -->)"
    text, count = re.subn(
        marks, lambda m: m[1] + table(results) + m[2], page.read_text(), flags=re.DOTALL
    )
    assert count == 1, "the marks of the table are gone"
    page.write_text(text)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        found = metric_check(Path(sys.argv[1] if len(sys.argv) > 1 else folder))
    write_docs(found)
    print(table(found))
