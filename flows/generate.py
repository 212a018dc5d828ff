"""The generate flow: sound for videos."""

from dataclasses import replace
from pathlib import Path

from prefect import get_run_logger

from flows.display.artifacts import ProgressArtifact
from flows.parameters import GenerateParameters
from flows.running.devices import all_cores, claimed_name
from flows.running.recording import named_flow, recorded
from warehouse import FoleyError, Warehouse


@named_flow("generate {parameters.out.name}")
def generate(parameters: GenerateParameters) -> Path:
    """Make sound for one video or several, and write them with it."""
    from pipeline.generation.dub import prepare, sampled

    wh, logger = Warehouse(parameters.home), get_run_logger()
    dubbing = prepare(parameters.video, parameters.out, parameters, wh.home)
    bridge, failed = dubbing.checkpoint, list[str]()
    logger.info("bridge %s: %s", bridge.id, bridge.origin)
    for note in dubbing.notes:
        logger.warning(note)
    shown = parameters.model_copy(update={"device": claimed_name(parameters.device)})
    dubbing = replace(dubbing, options=shown)
    with recorded(wh, "generate", parameters), all_cores():
        steps = dubbing.preset.sample.steps * sampled(dubbing.requests)
        progress = ProgressArtifact("generate", steps, "steps")
        for result in dubbing.run(lambda done, _: progress.show(done)):
            for note in result.notes:
                logger.warning(note)
            if result.error:
                failed.append(result.error)
            else:
                logger.info("%s: %.2f s of sound", result.request.out, result.seconds)
        if failed:
            raise FoleyError("; ".join(dict.fromkeys(failed)))
    return parameters.out
