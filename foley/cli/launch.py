"""Starts what the commands ask for: settles Prefect's settings first, then imports and runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from flows.display.progress_bars import bar, follow
from flows.parameters import (
    AblateParameters,
    CurateParameters,
    DemoParameters,
    DownloadParameters,
    EvaluateParameters,
    GenerateParameters,
    Parameters,
    TrainParameters,
)
from flows.running.checks import check
from flows.server.embedded import EmbeddedServer, set_up_prefect
from pipeline.generation.options import said_of
from warehouse.errors import FoleyError
from warehouse.store import open_warehouse

if TYPE_CHECKING:
    from tqdm import tqdm

    from pipeline.generation.dub import Dubbed, Dubbing
    from pipeline.generation.generator import SoundGenerator

FLAWED_SHARE = 0.5  # mis-dubbed and degraded clips in the demo, to each good one
CLIPS_A_PAIR = 32  # of worlds: good clips to each counterfactual pair
PARAMETERS: Mapping[str, type[Parameters]] = {
    "download": DownloadParameters,
    "curate": CurateParameters,
    "train": TrainParameters,
    "evaluate": EvaluateParameters,
    "ablate": AblateParameters,
    "demo": DemoParameters,
    "generate": GenerateParameters,
}


def run_flow(name: str, home: Path, options: Mapping[str, object]) -> Any:
    """Run a flow; returns its result.

    Raises FoleyError, before a server is started, for a parameter out of its limits, a folder
    without clips, and a dataset that is not there.
    """
    began = perf_counter()
    parameters = _checked(PARAMETERS[name], home, options)
    if isinstance(parameters, DemoParameters) and parameters.level:
        need_simulator()
    server = set_up_prefect(home)
    if not isinstance(parameters, DemoParameters):
        return _started(name, server)(parameters)
    rendering = perf_counter()  # while the server starts
    corpus = _render(parameters)
    rendered = perf_counter() - rendering
    flow = _started(name, server)
    before = {"render": rendered, "start": perf_counter() - began - rendered}
    return flow(parameters, corpus, before)


def _started(name: str, server: EmbeddedServer | None) -> Any:
    """The flow of that name, once its libraries are imported and its server answers."""
    with bar("start", 2) as progress:
        flow = getattr(import_module(f"flows.{name}"), name)
        progress.update()
        if server is not None:
            server.wait()
        progress.update()
    return flow


def need_simulator() -> None:
    """Raise FoleyError where worlds cannot be rendered."""
    if find_spec("mujoco") is None:
        raise FoleyError("the simulator is not installed: uv sync --extra world")


def _render(parameters: DemoParameters) -> Path:
    """Write the clips that are not there yet; returns their folder."""
    from pipeline.procedural import Corpus, write_corpus

    folder, level = parameters.home / "clips" / parameters.corpus, parameters.level
    flawed = int(parameters.clips * FLAWED_SHARE)
    if level is None:
        corpus = Corpus(parameters.clips, parameters.seed, flawed=flawed)
    else:
        from pipeline.world import WorldCorpus

        pairs = parameters.clips // CLIPS_A_PAIR
        corpus = WorldCorpus(
            parameters.clips, parameters.seed, flawed=flawed, level=level, pairs=pairs
        )
    with bar("render", unit="clip") as progress:
        write_corpus(folder, corpus, parameters.batches_at_once, follow(progress))
    return folder


def run_dub(home: Path, record: bool, options: Mapping[str, object]) -> Iterator[Dubbed]:
    """Sound for a video, a folder, a CSV or a text; options are those of `GenerateParameters`.

    With `record` the home folder has its checkpoints looked at, and keeps a record of every sound.
    Raises FoleyError for a wrong path or setting, before anything is made.
    """
    from pipeline.generation.dub import prepare

    parameters = _checked(GenerateParameters, home, options)
    assert isinstance(parameters, GenerateParameters)
    dubbing = prepare(parameters.video, parameters.out, parameters, home if record else None)
    bridge, logger = dubbing.checkpoint, logging.getLogger("foley.generate")
    logger.info("bridge %s: %s", bridge.id, bridge.origin)
    for note in dubbing.notes:
        logger.warning(note)
    with ExitStack() as stack:
        progress: tqdm[Any] | None = None

        def load(dubbing: Dubbing) -> SoundGenerator:
            nonlocal progress
            with bar("load models", 1, "preset") as loading:
                generator = dubbing.load()
                loading.update()
            progress = stack.enter_context(bar("generate"))  # whose seconds are without loading
            return generator

        def on_step(done: int, total: int) -> None:
            if progress is not None:
                follow(progress)(done, total)

        yield from dubbing.run(on_step, load)
    if dubbing.home is not None:
        dubbing.home.publish_if_possible()


def _checked(kind: type[Parameters], home: Path, options: Mapping[str, object]) -> Parameters:
    """The parameters of a flow, as far as they can be checked before anything is started."""
    try:
        parameters = kind.model_validate({"home": home, **options})
    except ValidationError as error:
        raise FoleyError(said_of(error)) from None
    check(parameters)
    if isinstance(parameters, CurateParameters) and not parameters.folder:
        _check_sources(parameters)
    return parameters


def _check_sources(parameters: CurateParameters) -> None:
    """Raise FoleyError where there are neither sources nor clips: nothing would be done."""
    from pipeline.curation.registry import registered

    wh = open_warehouse(parameters.home)
    if not registered(wh, parameters.sources) and not wh.listing("clips", "source").good:
        raise FoleyError(f"there are no clips in {wh.home} yet: run foley curate FOLDER first")
