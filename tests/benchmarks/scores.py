"""Does the model wait? Scoring and feature stages from files, beside their models on ready tensors.

An accelerator computes while the processors decode; on processors alone, reading and model share
the same cores. So each stage is run twice: with the toy's model as it is, and with one that is
slowed down by sleeping, which leaves the processors as free as an accelerator does. Clips a second
want an idle machine; processor time does not.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.presets.preset import load_preset
from pipeline.features.video_tokens import VideoTokens
from pipeline.media import probe
from pipeline.scoring.audiobox import AudioboxScore
from pipeline.scoring.imagebind import ImageBindScore
from pipeline.stages.stage import Clip, Passed
from tests.benchmarks.media_clips import clip

Figure = dict[str, Any]
_CLIPS = 32  # of 340p and 10 s, as Kinetics has them
_ROUNDS = 3
_SLOW = 0.4  # seconds a clip that the slowed model takes in addition


def scores() -> Iterator[Figure]:
    """Clips a second of ImageBind, Audiobox and V-JEPA2 stages, as they are and slowed.

    Reading's share of the work.
    """
    preset = load_preset("toy")
    with tempfile.TemporaryDirectory() as folder:
        clips = _copies(Path(folder))
        for stage in (ImageBindScore(preset), AudioboxScore(preset), VideoTokens(preset)):
            stage.setup()
            model = _model(stage)
            with _recorded(model) as calls:
                stage.process(
                    clips
                )  # warms up: the media workers are there, the files in the page cache

            def pipeline(stage: Any = stage) -> None:
                assert all(isinstance(outcome, Passed) for outcome in stage.process(clips))

            def bare(model: Any = model, calls: Any = calls) -> None:
                with torch.inference_mode():
                    for args, kwargs in calls:
                        model(*args, **kwargs)

            yield from _work(stage, clips, pipeline, bare)
            yield from _beside(f"{stage.name}, as it is", pipeline, bare)
            with _slowed(model, _SLOW * len(clips) / len(calls)):
                yield from _beside(
                    f"{stage.name}, model slowed by {_SLOW} s a clip", pipeline, bare
                )


def _copies(folder: Path) -> list[Clip]:
    first = clip(folder / "0.mp4", "340x256", 25)
    paths = [first, *(Path(shutil.copy(first, folder / f"{i}.mp4")) for i in range(1, _CLIPS))]
    return [{**vars(probe(path)), "clip_id": path.stem, "path": str(path)} for path in paths]


def _model(stage: Any) -> torch.nn.Module:
    """The module that does the work: what it is called with are the tensors that are ready."""
    return stage._encoder.model.encoder if isinstance(stage, VideoTokens) else stage._network.model


@contextmanager
def _recorded(model: torch.nn.Module) -> Generator[list[tuple[Any, Any]]]:
    calls: list[tuple[Any, Any]] = []
    hook = model.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    yield calls
    hook.remove()


@contextmanager
def _slowed(model: torch.nn.Module, seconds: float) -> Generator[None]:
    hook = model.register_forward_hook(lambda *_: time.sleep(seconds))
    yield
    hook.remove()


def _beside(name: str, ours: Callable[[], None], theirs: Callable[[], None]) -> Iterator[Figure]:
    """Clips a second, medians of rounds in which the two take turns."""
    taken: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(_ROUNDS):
        for who, do in (("ours", ours), ("theirs", theirs)):
            started = time.perf_counter()
            do()
            taken[who].append(time.perf_counter() - started)
    mine, other = (float(np.median(taken[who])) for who in ("ours", "theirs"))
    figure = {
        "name": name,
        "unit": "clips/s",
        "better": "higher",
        "against": "the bare model on tensors that are ready",
    }
    yield figure | {"value": _CLIPS / mine, "ratio": other / mine}


def _work(
    stage: Any, clips: list[Clip], pipeline: Callable[[], None], bare: Callable[[], None]
) -> Iterator[Figure]:
    """CPU time a clip of reading, and of what the model's process does beside it.

    Only the second is in its way.
    """
    readings = [stage._reading(clip) for clip in clips]
    taken: list[tuple[float, ...]] = []
    for _ in range(_ROUNDS):
        works = (pipeline, bare, lambda: [reading() for reading in readings])
        taken.append(tuple(_own_seconds(work) / len(clips) for work in works))
    piped, model, reading = (float(v) for v in np.median(taken, 0))
    figure = {"unit": "CPU-ms/clip", "better": "lower", "against": "the bare model"}
    yield figure | {
        "name": f"{stage.name}, reading",
        "value": reading * 1e3,
        "ratio": reading / model,
    }
    beside = piped - model
    yield figure | {
        "name": f"{stage.name}, beside the model",
        "value": beside * 1e3,
        "ratio": beside / model,
    }


def _own_seconds(work: Callable[[], object]) -> float:
    """Processor time of this process: that of media workers is not in it."""
    started = time.process_time()
    work()
    return time.process_time() - started
