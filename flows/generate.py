"""The generate flow: sound for one video."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, get_run_logger

from flows.display.artifacts import ProgressArtifact
from flows.parameters import GenerateParameters
from flows.running.devices import all_cores
from flows.running.recording import one_line_errors, recorded
from warehouse import FoleyError, Warehouse


@flow(name="generate", flow_run_name="generate {parameters.out}")
@one_line_errors
def generate(parameters: GenerateParameters) -> Path:
    """Make sound for one video, and write the video with it."""
    from pipeline.generation.dub import prepare
    from pipeline.generation.requests import GenerateOptions

    fields = {*GenerateOptions.__dataclass_fields__} & {*GenerateParameters.model_fields}
    options = GenerateOptions(**parameters.model_dump(include=fields))
    wh = Warehouse(parameters.home)
    make = prepare(parameters.video, parameters.out, options)
    with recorded(wh, "generate", parameters), all_cores():
        progress = ProgressArtifact("generate", options.load_preset().sample.steps, "steps")
        for result in make(wh, lambda done, _: progress.show(done)):
            if result.error:
                raise FoleyError(result.error)
            get_run_logger().info("%s: %.2f s of sound", parameters.out, result.seconds)
    return parameters.out
