"""The stages of a preset, and those of one's own among them."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.presets.preset import Preset, load_preset
from model.weights.load import WeightsError
from pipeline.curation.policy import select
from pipeline.curation.stage_graph import StageGraph
from tests.pipeline.small import work
from tests.warehouse.toys import make_files
from warehouse import FoleyError, Warehouse

MODULE = '''
import pyarrow as pa

from pipeline.stages.stage import Passed, Stage
from warehouse import field


class NameLength(Stage):
    """Letters of a clip's id."""

    name = "name_length"
    schema = pa.schema([field("letters", pa.int32(), "letters of the id")])

    def process(self, clips):
        return [Passed({"letters": len(clip["clip_id"])}) for clip in clips]


class Sized(NameLength):
    name = "sized"

    def __init__(self, preset):
        self.model = preset.name


class Unfinished(Stage):
    name = "unfinished"


class Nameless(Stage):
    def process(self, clips):
        return []
'''


def own_preset(folder: Path, *stages: str) -> Preset:
    """A preset with stages of its own, whose module lies beside it."""
    folder.mkdir()
    (folder / f"scores_of_{folder.name}.py").write_text(MODULE)
    names = ", ".join(f'"{stage}"' for stage in stages)
    (folder / "preset.toml").write_text(f'base = "toy"\nstages = [{names}]\n')
    return load_preset(str(folder))


def test_a_stage_of_ones_own_is_one_like_any_other(tmp_path: Path) -> None:
    preset = own_preset(tmp_path / "mine", "scores_of_mine:NameLength", "scores_of_mine:Sized")
    toy, graph = StageGraph(load_preset("toy")), StageGraph(preset)
    assert [stage.name for stage in graph.scoring[-2:]] == ["name_length", "sized"]
    assert list(graph.scoring_fingerprints) == [stage.name for stage in graph.scoring]
    assert graph.feature_fingerprints == toy.feature_fingerprints
    assert vars(graph.scoring[-1])["model"] == "mine"
    wh = Warehouse(tmp_path / "home")
    wh.ingest(make_files(tmp_path / "media", 4))
    assert work(wh, graph.scoring[-2:-1], graph.fingerprints) == 4
    policy = tmp_path / "long.toml"
    policy.write_text(
        'name = "long"\nversion = 1\n[[gate]]\nname = "long"\n'
        'keep = [{ column = "letters", at_least = 8 }]\n'
        "[splits]\nval = 0.1\ntest = 0.1\nseed = 0\n"
    )
    fingerprints = {"name_length": graph.fingerprints["name_length"]}
    assert select(wh, fingerprints, str(policy)).counts["kept"] == 4


def test_scorers_can_be_left_out_and_features_need_no_weights_of_theirs(tmp_path: Path) -> None:
    toy, weights = load_preset("toy"), tmp_path / "weights"
    weights.mkdir()
    for path in (*map(toy.model, ("backbone", "text", "video")), toy.backbone_config_file):
        (weights / path.name).symlink_to(path)
    (tmp_path / "preset.toml").write_text(
        'base = "toy"\nnetworks = ["panns"]\n'
        "[scores]\nimagebind = false\naudiobox = false\nsync = false\n"
    )
    preset = load_preset(str(tmp_path))
    assert list(preset.models) == ["backbone", "text", "video", "panns"]
    graph = StageGraph(preset)
    assert list(graph.scoring_fingerprints) == ["probe", "silence", "picture"]
    whole = StageGraph(toy)
    assert graph.feature_fingerprints == {
        name: whole.fingerprints[name]
        for name in ("probe", "silence", "video_tokens", "audio_latents", "text_embeddings")
    }
    scored = StageGraph(load_preset("toy", weights))
    assert scored.feature_fingerprints == graph.feature_fingerprints
    with pytest.raises(WeightsError, match=r"no weights at .*imagebind\.safetensors"):
        assert scored.scoring_fingerprints


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("no_such_package:Brightness", "No module named 'no_such_package'"),
        ("scores_of_wrong:Brightness", "no attribute 'Brightness'"),
        ("scores_of_wrong", "give it as package.module:Class"),
        ("pathlib:Path", "Path is no subclass of"),
        ("scores_of_wrong:Unfinished", "abstract"),
        ("scores_of_wrong:Nameless", "Nameless has no name and no schema"),
    ],
)
def test_what_is_no_stage_is_one_clear_line(stage: str, message: str, tmp_path: Path) -> None:
    preset = own_preset(tmp_path / "wrong", stage)
    with pytest.raises(FoleyError, match=message) as error:
        StageGraph(preset)
    assert "\n" not in str(error.value)


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    preset = own_preset(tmp_path / "again", "pipeline.scoring.probe:Probe")
    with pytest.raises(FoleyError, match="a stage cannot be called probe"):
        assert StageGraph(preset).fingerprints
