"""Self-supervised training of a toy V-JEPA2.

What is hidden, what is predicted, and what is left alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import VJEPA2Config, VJEPA2Model

from pipeline.procedural import render_frames, sample_clip
from recipes.toy.train_video_encoder import (
    VideoTraining,
    draw_masks,
    encode_embedded,
    masked_loss,
    pixels_of,
    start_near,
    targets_of,
    train_video,
)

FRAMES, CELLS = 16, 4  # effective frames of the clips here, and cells of a picture
SETTINGS = VideoTraining(steps=3, batch_size=4, warmup=1)


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    size: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    predictor: dict[str, Any] = {f"pred_{name}": value for name, value in size.items()}
    shape: dict[str, Any] = {"patch_size": 32, "crop_size": 64, "frames_per_clip": 2 * FRAMES}
    return VJEPA2Model(VJEPA2Config(**size, **predictor, **shape, pred_num_mask_tokens=1)).eval()


@pytest.fixture(scope="module")
def clips() -> np.ndarray:
    return np.stack([render_frames(sample_clip(i, 2.0)) for i in range(4)])


def test_whole_pictures_are_hidden_and_as_many_in_every_clip() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        visible, masked = draw_masks(3, FRAMES, CELLS, SETTINGS, generator)
        assert masked.shape == (3, FRAMES * CELLS // 2)
        for seen, hidden in zip(visible, masked, strict=True):
            assert sorted([*seen.tolist(), *hidden.tolist()]) == list(range(FRAMES * CELLS))
            assert set((seen // CELLS).tolist()).isdisjoint((hidden // CELLS).tolist())


def test_all_tubelets_give_what_transformers_encoder_gives(model: Any, clips: np.ndarray) -> None:
    pixels = pixels_of(clips)
    with torch.no_grad():
        expected = model.get_vision_features(pixels)
        found = encode_embedded(model.encoder, model.encoder.embeddings(pixels))
    torch.testing.assert_close(found, expected)


def test_the_encoder_sees_nothing_of_what_is_hidden(model: Any, clips: np.ndarray) -> None:
    with torch.no_grad():
        embedded = model.encoder.embeddings(pixels_of(clips))
        visible, masked = draw_masks(4, FRAMES, CELLS, SETTINGS, torch.Generator().manual_seed(0))
        spoiled = embedded.scatter(1, masked[..., None].expand(-1, -1, 32), 9.0)
        seen, same = (
            encode_embedded(model.encoder, tokens, visible) for tokens in (embedded, spoiled)
        )
        torch.testing.assert_close(seen, same)
        assert not torch.allclose(
            encode_embedded(model.encoder, embedded), encode_embedded(model.encoder, spoiled)
        )


def test_what_stays_the_same_is_not_to_be_predicted(model: Any, clips: np.ndarray) -> None:
    still = np.repeat(clips[:, :1], 2 * FRAMES, 1)
    with torch.no_grad():
        moving = targets_of(model.encoder, model.encoder.embeddings(pixels_of(clips)), FRAMES)
        stopped = targets_of(model.encoder, model.encoder.embeddings(pixels_of(still)), FRAMES)
    torch.testing.assert_close(moving.std((0, 1)), torch.ones(32), atol=0.05, rtol=0)
    assert stopped.abs().max() < 0.05


def test_the_encoder_ends_as_the_slow_copy_and_the_projection_as_it_was(
    model: Any, clips: np.ndarray
) -> None:
    start_near(model, SETTINGS.peak)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    never = replace(SETTINGS, momentum=1.0)  # follows
    assert len(list(train_video(model, clips, never))) == SETTINGS.steps
    after = {key: value.clone() for key, value in model.state_dict().items()}
    for key, value in before.items():
        assert torch.equal(after[key], value) == key.startswith("encoder."), key
    assert len(list(train_video(model, clips, SETTINGS))) == SETTINGS.steps
    for key, value in model.state_dict().items():
        assert torch.equal(after[key], value) == ("patch_embeddings" in key), key


def test_only_the_predicted_tubelets_count(model: Any, clips: np.ndarray) -> None:
    with torch.no_grad():
        embedded = model.encoder.embeddings(pixels_of(clips))
        visible, masked = draw_masks(4, FRAMES, CELLS, SETTINGS, torch.Generator().manual_seed(0))
        loss = masked_loss(model, model.encoder, embedded, visible, masked)
        wanted = targets_of(model.encoder, embedded, FRAMES).gather(
            1, masked[..., None].expand(-1, -1, 32)
        )
    assert (
        0.5 * wanted.abs().mean() < loss < 2 * wanted.abs().mean()
    )  # untrained: about as far as zero is
