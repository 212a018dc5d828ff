"""Starts what the commands ask for: settles Prefect's settings first, then imports and runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
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
    TrainParameters,
)
from flows.server.embedded import EmbeddedServer, set_up_prefect
from warehouse.errors import FoleyError

if TYPE_CHECKING:
    from flows.demo import Demo
    from pipeline.generation.dub import Dubbed

FLAWED_SHARE = 0.5  # mis-dubbed and degraded clips in the demo, to each good one
_FLOWS = {
    "download": DownloadParameters,
    "curate": CurateParameters,
    "train": TrainParameters,
    "evaluate": EvaluateParameters,
    "ablate": AblateParameters,
}


def run_flow(name: str, home: Path, options: Mapping[str, Any]) -> Any:
    """Run a flow; returns its result. Raises FoleyError for a parameter out of its limits."""
    parameters = _checked(_FLOWS[name], home, options)
    flow = _started(name, set_up_prefect(home))
    return flow(parameters)


def run_demo(home: Path, options: Mapping[str, Any]) -> Demo:
    """Render the clips while Prefect's server starts, then run the demo flow."""
    began = perf_counter()
    parameters: DemoParameters = _checked(DemoParameters, home, options)
    server = set_up_prefect(home)
    rendering = perf_counter()
    corpus = _render(parameters)
    rendered = perf_counter() - rendering
    demo = _started("demo", server)
    before = {"render": rendered, "start": perf_counter() - began - rendered}
    return demo(parameters, corpus, before)


def _started(name: str, server: EmbeddedServer | None) -> Any:
    """The flow of that name, once its libraries are imported and its server answers."""
    with bar("start", 2) as progress:
        flow = getattr(import_module(f"flows.{name}"), name)
        progress.update()
        if server is not None:
            server.wait()
        progress.update()
    return flow


def _render(parameters: DemoParameters) -> Path:
    """Write the clips that are not there yet; returns their folder."""
    from pipeline.procedural import Corpus, write_corpus

    folder = parameters.home / "clips" / f"procedural.{parameters.seed}"
    flawed = int(parameters.clips * FLAWED_SHARE)
    corpus = Corpus(parameters.clips, parameters.seed, flawed=flawed)
    with bar("render", unit="clip") as progress:
        write_corpus(folder, corpus, parameters.batches_at_once, follow(progress))
    return folder


def run_dub(
    source: Path, out: Path, home: Path | None, options: Mapping[str, Any]
) -> Iterator[Dubbed]:
    """Sound for a video, a folder or a CSV; options are those of `GenerateOptions`.

    `home` is the folder that keeps a record of every sound, None for none. Raises FoleyError for a
    wrong path or setting, before anything is made.
    """
    from pipeline.generation.dub import prepare
    from pipeline.generation.requests import GenerateOptions
    from warehouse.store import Warehouse

    make = prepare(source, out, GenerateOptions(**options))
    wh = None if home is None else Warehouse(home)
    with bar("generate") as progress:
        yield from make(wh, follow(progress))
    if wh is not None:
        wh.publish()


def _checked(kind: type[Any], home: Path, options: Mapping[str, Any]) -> Any:
    """The parameters of a flow; what is out of its limits is a FoleyError."""
    try:
        return kind(home=home, **options)
    except ValidationError as error:
        first = error.errors()[0]
        where, what = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        raise FoleyError(f"{where}: {what}" if where else what) from None
