"""A part of the backbone is loaded alone, and what has the right type stays in its file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.backbone import AudioCodec, Backbone, TextEncoder
from model.networks.panns import Cnn14
from model.presets.preset import Preset, load_preset
from model.weights.load import WeightsError


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return {
        key: value.float() for key, value in load_file(load_preset("toy").model("backbone")).items()
    }


def with_weights(folder: Path, weights: dict[str, Tensor]) -> Preset:
    """The toy preset with a backbone of these weights."""
    toy = load_preset("toy")
    for path in (toy.model("text"), toy.backbone_config_file):
        (folder / path.name).symlink_to(path)
    save_file(weights, folder / toy.model("backbone").name)
    return load_preset("toy", folder)


def mapped_bytes(path: Path, tensors: list[Tensor]) -> int:
    """Bytes of the tensors whose values lie in this process's mappings of the file."""
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    places = [line[0].split("-") for line in lines if line[-1] == str(path)]
    spans = [(int(start, 16), int(stop, 16)) for start, stop in places]
    return sum(
        tensor.nbytes
        for tensor in tensors
        if any(start <= tensor.data_ptr() < stop for start, stop in spans)
    )


def test_the_vae_needs_no_other_weights(tmp_path: Path, published: dict[str, Tensor]) -> None:
    own = {key: value for key, value in published.items() if key.startswith("pretransform.")}
    preset = with_weights(tmp_path, own)
    whole, codec = Backbone.from_pretrained(load_preset("toy")), AudioCodec.from_pretrained(preset)
    sound = torch.randn(1, 1, 4000, generator=torch.Generator().manual_seed(0))
    for ours, theirs in zip(codec.encode(sound), whole.codec.encode(sound), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    latents = codec.encode(sound)[0]
    torch.testing.assert_close(codec.decode(latents), whole.codec.decode(latents), rtol=0, atol=0)
    with pytest.raises(WeightsError, match=r"missing model\.model\."):
        Backbone.from_pretrained(preset)
    del own[next(iter(own))]
    save_file(own, preset.model("backbone"))
    with pytest.raises(WeightsError, match=r"missing pretransform\.model\."):
        AudioCodec.from_pretrained(preset)


def test_the_text_encoder_needs_no_other_weights(tmp_path: Path) -> None:
    preset, prompts = with_weights(tmp_path, {"other": torch.zeros(1)}), ["a ball", "", "rain"]
    ours = TextEncoder.from_pretrained(preset).encode(prompts)
    theirs = Backbone.from_pretrained(load_preset("toy")).encode_text(prompts)
    for row, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(row, other, rtol=0, atol=0)


def test_the_backbone_stays_in_its_file_and_reads_t5_when_it_is_asked(
    tmp_path: Path, published: dict[str, Tensor]
) -> None:
    preset = with_weights(tmp_path, published)
    backbone = Backbone.from_pretrained(preset)
    tensors = list(backbone.model.state_dict().values())
    assert mapped_bytes(preset.model("backbone"), tensors) == sum(
        t.nbytes for t in published.values()
    )
    conditioner = backbone.model.conditioner.conditioners["prompt"]
    assert "model" not in vars(conditioner)
    assert len(backbone.encode_text(["rain"])) == 1
    assert "model" in vars(conditioner)


def test_matrices_of_the_dit_alone_are_converted(
    tmp_path: Path, published: dict[str, Tensor]
) -> None:
    preset = with_weights(tmp_path, published)
    found = Backbone.from_pretrained(preset, torch.bfloat16).model.state_dict()
    matrices = {k for k, v in published.items() if k.startswith("model.") and v.ndim > 1}
    assert {key for key, value in found.items() if value.dtype == torch.bfloat16} == matrices
    assert mapped_bytes(preset.model("backbone"), [found[key] for key in matrices]) == 0
    for key, value in published.items():
        expected = value.bfloat16() if key in matrices else value
        torch.testing.assert_close(found[key], expected, rtol=0, atol=0)


def test_a_network_stays_in_its_file(tmp_path: Path) -> None:
    toy = load_preset("toy")
    weights = {key: value.float() for key, value in load_file(toy.model("panns")).items()}
    save_file(weights, tmp_path / toy.model("panns").name)
    network = Cnn14.from_pretrained(load_preset("toy", tmp_path))
    tensors = list(network.body.state_dict().values())
    assert mapped_bytes(tmp_path / "panns.safetensors", tensors) > 0.9 * sum(
        t.nbytes for t in weights.values()
    )
