"""The generate flow: sound for one video."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from prefect import flow, get_run_logger

from flows.display.artifacts import ProgressArtifact
from flows.parameters import GenerateParameters
from flows.running.devices import all_cores
from flows.running.recording import clear_errors, recorded
from model.presets.preset import load_preset
from warehouse import FoleyError, Warehouse


@flow(name="generate", flow_run_name="generate {parameters.out}")
@clear_errors
def generate(parameters: GenerateParameters) -> Path:
    """Make sound for one video, and write the video with it."""
    from pipeline.generation.dub import dub
    from pipeline.generation.generator import Dubber, Options
    from pipeline.generation.requests import Ask, requests_for

    preset = load_preset(parameters.preset, parameters.weights)
    ask = Ask(parameters.prompt, parameters.seed, negative_prompt=parameters.negative_prompt)
    requests = requests_for(parameters.video, parameters.out, ask)
    options = Options(parameters.cfg, steps=parameters.steps)
    wh = Warehouse(parameters.home)
    with recorded(wh, "generate", parameters), all_cores():
        moving = ProgressArtifact("generate", options.steps or preset.sample.steps, "steps")
        load = partial(Dubber, preset, parameters.bridge, options)
        for made in dub(requests, load, wh, on_step=lambda done, _: moving.show(done)):
            if made.error:
                raise FoleyError(made.error)
            get_run_logger().info("%s: %.2f s of sound", made.request.out, made.seconds)
    return parameters.out
