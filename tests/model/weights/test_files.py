"""Hashes of large files are computed once, and never taken for those of another content; sizes."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from model.weights import files
from model.weights.files import LARGE, known_sha256, weights_bytes
from model.weights.load import save_weights

ZEROS, ONES = bytes(LARGE), b"1" * LARGE


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files that were read, with a cache of their own and a clock that is 3 s ahead."""
    whole: Callable[[Path], str] = files.file_sha256
    seen: list[Path] = []
    monkeypatch.setattr(files, "file_sha256", lambda path: seen.append(path) or whole(path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    now = time.time_ns
    monkeypatch.setattr(files.time, "time_ns", lambda: now() + 3_000_000_000)
    return seen


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_large_file_is_read_once_and_a_small_one_each_time(
    read: list[Path], tmp_path: Path
) -> None:
    large, small = tmp_path / "large", tmp_path / "small"
    large.write_bytes(ZEROS)
    small.write_bytes(b"small")
    for _ in range(3):
        assert known_sha256(large) == sha256(ZEROS)
        assert known_sha256(small) == sha256(b"small")
    assert read == [large, small, small, small]


def test_a_change_that_keeps_size_and_time_is_seen(read: list[Path], tmp_path: Path) -> None:
    path, other = tmp_path / "weights", tmp_path / "other"
    path.write_bytes(ZEROS)
    assert known_sha256(path) == sha256(ZEROS)
    before = path.stat()
    path.write_bytes(ONES)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert known_sha256(path) == sha256(ONES)
    other.write_bytes(ZEROS)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)
    assert known_sha256(path) == sha256(ZEROS)
    assert len(read) == 3


def test_a_file_that_was_just_written_is_read_again(
    read: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights"
    path.write_bytes(ZEROS)
    written = path.stat().st_ctime_ns
    monkeypatch.setattr(files.time, "time_ns", lambda: written + 1_000_000_000)
    assert known_sha256(path) == known_sha256(path) == sha256(ZEROS)
    assert len(read) == 2


def test_a_damaged_cache_is_none(read: list[Path], tmp_path: Path) -> None:
    path, cache = tmp_path / "weights", tmp_path / "cache/foley/sha256.json"
    path.write_bytes(ZEROS)
    known_sha256(path)
    for damage in ("", "[1]", '{"a": 1}', cache.read_text()[:-9]):
        cache.write_text(damage)
        assert known_sha256(path) == sha256(ZEROS)
    known_sha256(path)
    assert len(read) == 5
    assert [file.name for file in cache.parent.iterdir()] == [cache.name]


def test_weights_take_what_they_hold_as_float32(tmp_path: Path) -> None:
    tensors = {"vae.a": torch.zeros(3, 5), "vae.b": torch.zeros(7), "dit.a": torch.zeros(11)}
    for dtype in (torch.float16, torch.float32):
        save_weights(tmp_path / "some.safetensors", tensors, dtype, {"made": "here"})
        assert weights_bytes(tmp_path / "some.safetensors") == 4 * (15 + 7 + 11)
        assert weights_bytes(tmp_path / "some.safetensors", "vae.") == 4 * (15 + 7)
        assert weights_bytes(tmp_path) == 4 * (15 + 7 + 11)
    (tmp_path / "other.pth").write_bytes(ZEROS)
    assert weights_bytes(tmp_path / "other.pth") == LARGE
    assert weights_bytes(tmp_path / "none.safetensors") == 0
    for broken in (b"", b"12", (2**40).to_bytes(8, "little") + b"no"):  # loading it says what it is
        (tmp_path / "broken.safetensors").write_bytes(broken)
        assert weights_bytes(tmp_path / "broken.safetensors") == len(broken)
