"""Parts of the main flows as flows of their own: select again, features, sound for one video, maintenance."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger

from flows.artifacts import Moving, show_rows
from flows.cores import all_cores
from flows.curate import all_stages, select_dataset, show_page
from flows.parameters import FeaturesParameters, GenerateParameters, MaintainParameters, SelectParameters
from flows.runs import alone, clear_errors, recorded
from flows.stages import StageCounts, run_stages
from flows.train import newest_dataset
from model.presets import load_preset
from pipeline.curation import feature_stages
from pipeline.engine import fingerprints
from warehouse import Dataset, FoleyError, Warehouse, compact, gc, verify


@flow(name="reselect", flow_run_name="reselect {parameters.policy}")
@clear_errors
def reselect(parameters: SelectParameters) -> Dataset:
    """Select a dataset version again from the scores that are there, as after a change of the policy: no model runs.

    The same scores under the same policy give the same version again.
    """
    wh = Warehouse(parameters.home)
    preset = load_preset(parameters.preset, parameters.weights)
    with recorded(wh, "reselect", parameters) as record:
        fps = fingerprints(all_stages(preset))
        dataset = select_dataset(wh, preset, fps, parameters.policy, parameters.dataset, None)
        record["dataset"] = dataset.version
    show_page(wh, dataset)
    return dataset


@flow(name="features", flow_run_name="features of {parameters.dataset}")
@clear_errors
def features(parameters: FeaturesParameters) -> list[StageCounts]:
    """Compute the features of a dataset version that training reads; what is there is not computed again."""
    wh = Warehouse(parameters.home)
    preset = load_preset(parameters.preset, parameters.weights)
    with recorded(wh, "features", parameters) as record:
        dataset = newest_dataset(wh) if parameters.dataset is None else wh.dataset(parameters.dataset)
        record["dataset"] = dataset.version
        fps = fingerprints(all_stages(preset))
        counts = run_stages(wh, feature_stages(preset), fps, parameters, dataset.clip_ids())
        record["stages"] = [asdict(count) for count in counts]
    return counts


@flow(name="generate", flow_run_name="generate {parameters.out}")
@clear_errors
def generate(parameters: GenerateParameters) -> Path:
    """Make sound for one video, and write the video with it."""
    from pipeline.dub import dub
    from pipeline.dubber import Dubber, Options
    from pipeline.requests import Ask, requests_for

    preset = load_preset(parameters.preset, parameters.weights)
    ask = Ask(parameters.prompt, parameters.seed, negative_prompt=parameters.negative_prompt)
    requests = requests_for(parameters.video, parameters.out, ask)
    options = Options(parameters.cfg, steps=parameters.steps)
    wh = Warehouse(parameters.home)
    with recorded(wh, "generate", parameters), all_cores():
        moving = Moving("generate", options.steps or preset.sample.steps, "steps")
        load = partial(Dubber, preset, parameters.bridge, options)
        for made in dub(requests, load, wh, on_step=lambda done, _: moving.show(done)):
            if made.error:
                raise FoleyError(made.error)
            get_run_logger().info("%s: %.2f s of sound", made.request.out, made.seconds)
    return parameters.out


@flow(name="maintenance", flow_run_name="maintenance")
@clear_errors
def maintenance(parameters: MaintainParameters) -> dict[str, Any]:
    """Merge small commits, remove what dead runs left, and look for damaged files; fails where there are any."""
    wh = Warehouse(parameters.home)
    logger = get_run_logger()
    with recorded(wh, "maintenance", parameters) as kept, alone(wh, "maintenance"):
        merged = compact(wh)
        garbage = gc(wh, dry_run=not parameters.delete)
        problems = verify(wh, deep=parameters.deep)
        size = sum(item.bytes for item in garbage)
        found = {"merged": len(merged), "garbage": len(garbage), "garbage_bytes": size, "problems": len(problems)}
        kept.update(found)
        logger.info("%s", found)
        show_rows("leavings", [{"path": str(g.path), "bytes": g.bytes, "why": g.why} for g in garbage], "left behind")
        show_rows("problems", [{"path": str(p.path), "what": p.what} for p in problems], "files not as written")
        if problems:
            first = problems[0]
            raise FoleyError(
                f"{len(problems)} files are not as they were written, the first: {first.path} {first.what}"
            )
    return found
