"""`foley models`: fetched from a hub over real HTTP, pinned, and checked."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.hub.check import check
from model.networks.synchformer import Synchformer
from model.presets.preset import load_preset
from tests.flows.small_models import FILES, NETWORKS, TOY, write_models, write_preset
from tests.foley.commands import foley, one_line_error
from tests.model.hub.server import Hub

pytestmark = pytest.mark.slow

Run = Callable[..., subprocess.CompletedProcess[str]]


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """The toy's weights in the layouts of the published models, of which one is gated."""
    hub, models = Hub(), tmp_path_factory.mktemp("published")
    write_models(models)
    hub.commit("tiny/sao", files_in(models / "sao") | {"extra.bin": b"-"})
    hub.gated.add("tiny/sao")
    hub.commit("tiny/t5", files_in(models / "t5-base") | {"flax_model.msgpack": b"not wanted"})
    for name in ("vjepa2", "audiobox"):
        hub.commit(f"tiny/{name}", files_in(models / name))
    hub.plain[f"/{FILES['imagebind']}"] = (models / FILES["imagebind"]).read_bytes()
    for name in NETWORKS:
        hub.plain[f"/releases/{name}"] = (models / FILES[name]).read_bytes()
    yield hub
    hub.close()


@pytest.fixture(scope="module")
def preset(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a preset whose models are at the hub."""
    folder = tmp_path_factory.mktemp("tiny")
    write_preset(folder, hub.url)
    return folder


@pytest.fixture(scope="module")
def run(hub: Hub, preset: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """`foley models ...` against the hub, with the preset above."""
    cache = tmp_path_factory.mktemp("hub-cache")

    def models(
        command: str, *arguments: str | Path, **changes: str | None
    ) -> subprocess.CompletedProcess[str]:
        settings = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(cache),
            "HF_TOKEN": "good",
            "HF_HUB_OFFLINE": None,
        }
        return foley("models", command, *arguments, "--preset", preset, **settings | changes)

    return models


@pytest.fixture(scope="module")
def store(hub: Hub, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with all models; not to be changed."""
    folder = tmp_path_factory.mktemp("store")
    done = run("fetch", "--weights", folder)
    assert done.returncode == 0, done.stderr
    return folder


def rows(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    return {row["model"]: row for row in json.loads(done.stdout)}


def test_fetch_brings_what_check_finds_whole(hub: Hub, run: Run, store: Path) -> None:
    done = run("check", "--weights", store, "--format", "json")
    assert done.returncode == 0, done.stderr
    found = rows(done)
    assert {row["state"] for row in found.values()} == {"as fetched"}
    assert found["video"]["revision"] == hub.sha("tiny/vjepa2", 0)
    assert found["backbone"]["licence"] == "Community Licence (gated)"
    assert all(len(row["sha256"]) == 64 and row["parameters"] for row in found.values())
    names = {
        path.relative_to(store).as_posix()
        for path in store.rglob("*.*")
        if ".cache" not in path.parts
    }
    assert not {"sao/extra.bin", "t5-base/flax_model.msgpack"} & names
    assert "t5-base/model.safetensors" in names


def test_a_gated_model_names_its_page_and_the_token(run: Run, tmp_path: Path) -> None:
    done = run("fetch", "backbone", "--weights", tmp_path, HF_TOKEN=None)
    assert done.returncode == 2
    message = done.stderr.strip().splitlines()[-1]
    assert "https://huggingface.co/tiny/sao" in message
    assert "HF_TOKEN" in message
    assert "Community Licence" in message
    assert "Traceback" not in done.stderr


def test_an_interrupted_fetch_goes_on_where_it_stopped(hub: Hub, run: Run, tmp_path: Path) -> None:
    large, chunk = bytes(range(256)) * 96 * 1024, 10 * 2**20  # downloads are written by 10 MiB
    plain = hub.plain["/imagebind/imagebind_huge.pth"]
    hub.plain["/imagebind/imagebind_huge.pth"] = large
    hub.commit("tiny/vjepa2", {"model.safetensors": large})
    hub.cut = 12 * 2**20
    try:
        done = run("fetch", "imagebind", "--weights", tmp_path)
        other = run("fetch", "video", "--weights", tmp_path)
        hub.cut = None
        hub.asked.clear()
        again = run("fetch", "imagebind", "video", "--weights", tmp_path)
    finally:
        hub.plain["/imagebind/imagebind_huge.pth"], hub.cut = plain, None
        hub.repos["tiny/vjepa2"].pop()
    for stopped in (done, other):
        assert stopped.returncode == 2
        assert "run the same command again" in stopped.stderr
        assert "Traceback" not in stopped.stderr
    assert again.returncode == 0, again.stderr
    ranges = {path.rsplit("/", 1)[-1]: asked for _, path, asked in hub.asked if asked}
    assert ranges == {
        "imagebind_huge.pth": f"bytes={chunk}-",
        "model.safetensors": f"bytes={chunk}-",
    }
    assert (tmp_path / "vjepa2/model.safetensors").read_bytes() == large
    assert (tmp_path / "imagebind/imagebind_huge.pth").read_bytes() == large


def test_a_network_of_evaluation_comes_with_its_hash_or_not_at_all(
    hub: Hub, run: Run, store: Path, tmp_path: Path
) -> None:
    missing = rows(run("check", "--weights", tmp_path, "--format", "json"))["synchformer"]
    assert missing["state"] == "missing"
    assert missing["licence"] == "unknown"
    for part in (
        tmp_path / "synchformer.safetensors",
        f"{hub.url}/releases/synchformer",
        "foley models fetch",
    ):
        assert str(part) in missing["problem"]
    whole = hub.plain["/releases/synchformer"]
    hub.plain["/releases/synchformer"] = whole[:-1] + b"-"
    try:
        done = run("fetch", "synchformer", "--weights", tmp_path)
    finally:
        hub.plain["/releases/synchformer"] = whole
    assert done.returncode == 2
    assert "expected was" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "synchformer.safetensors").exists()
    preset = load_preset("toy", store)
    assert len(Synchformer.from_pretrained(preset).state_dict()) == len(
        load_file(store / "synchformer.safetensors")
    )


def test_what_the_paper_preset_fetches_from_an_address_has_a_known_hash() -> None:
    models = load_preset("paper").models
    assert len(models) == 9
    assert all(
        files.repo or (files.url and re.fullmatch("[0-9a-f]{64}", files.sha256 or ""))
        for files in models.values()
    )


def test_a_fetched_store_needs_no_network(run: Run, store: Path) -> None:
    done = run("fetch", "--weights", store, HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr


def test_offline_the_hubs_own_cache_is_taken(hub: Hub, run: Run, tmp_path: Path) -> None:
    from huggingface_hub import snapshot_download

    home = tmp_path / "home"
    folder = snapshot_download("tiny/vjepa2", endpoint=hub.url, cache_dir=home / "hub")
    assert Path(folder).name == hub.sha("tiny/vjepa2", 0)
    offline: dict[str, str | None] = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home)}
    done = run("fetch", "video", "--weights", tmp_path / "store", **offline)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "store/vjepa2/config.json").is_symlink()
    done = run("fetch", "text", "--weights", tmp_path / "store", **offline)
    assert done.returncode == 2
    assert "HF_HUB_OFFLINE" in done.stderr


def test_the_first_commit_stays_the_one_that_is_fetched(
    hub: Hub, run: Run, store: Path, tmp_path: Path
) -> None:
    shutil.copytree(store, tmp_path / "store")
    hub.commit("tiny/t5", {"config.json": b"{}"})
    try:
        (tmp_path / "store/t5-base/model.safetensors").unlink()
        done = run("fetch", "text", "--weights", tmp_path / "store")
        assert done.returncode == 0, done.stderr
    finally:
        hub.repos["tiny/t5"].pop()
    fetched = (tmp_path / "store/t5-base/model.safetensors").read_bytes()
    assert fetched == (TOY / "t5/model.safetensors").read_bytes()


def test_another_revision_takes_the_place_of_the_one_that_was_fetched(
    hub: Hub, run: Run, preset: Path, store: Path, tmp_path: Path
) -> None:
    copy, text = tmp_path / "store", TOY / "t5"
    shutil.copytree(store, copy)
    changed = files_in(text) | {"config.json": (text / "config.json").read_bytes() + b"\n"}
    commit = hub.commit("tiny/t5", changed)
    other = tmp_path / "preset"
    shutil.copytree(preset, other)
    page = (preset / "preset.toml").read_text()
    (other / "preset.toml").write_text(
        page.replace('repo = "tiny/t5"', f'repo = "tiny/t5"\nrevision = "{commit}"')
    )
    try:
        stale = next(one for one in check(load_preset(str(other), copy)) if one.model == "text")
        assert stale.state == "changed"
        assert f"the preset asks for {commit[:12]}: fetch it again" in str(stale.problem)
        settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache")}
        done = foley("models", "fetch", "text", "--weights", copy, "--preset", other, **settings)
        assert done.returncode == 0, done.stderr
        assert (copy / "t5-base/config.json").read_bytes() == changed["config.json"]
        assert (
            next(one for one in check(load_preset(str(other), copy)) if one.model == "text").state
            == "as fetched"
        )
        (copy / "t5-base/config.json").write_bytes(b"{}")  # a person's own, which is never replaced
        done = run("fetch", "text", "--weights", copy)
        assert done.returncode == 2
        assert "move it away" in done.stderr.splitlines()[-1]
        assert (copy / "t5-base/config.json").read_bytes() == b"{}"
    finally:
        hub.repos["tiny/t5"].pop()


def test_check_names_what_is_missing_changed_and_misfits(
    store: Path, run: Run, tmp_path: Path
) -> None:
    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    (copy / "imagebind/imagebind_huge.pth").unlink()
    weights = load_file(copy / "vjepa2/model.safetensors")
    save_file({key: value + 1 for key, value in weights.items()}, copy / "vjepa2/model.safetensors")
    (copy / "models.lock.json").write_text(
        json.dumps(
            {
                "sources": {
                    "tiny/vjepa2": json.loads((copy / "models.lock.json").read_text())["sources"][
                        "tiny/vjepa2"
                    ]
                }
            }
        )
    )
    weights = load_file(copy / "audiobox/model.safetensors")
    weights["extra"] = torch.zeros(1)
    save_file(weights, copy / "audiobox/model.safetensors")
    done = run("check", "--weights", copy, "--format", "json")
    assert done.returncode == 1
    states = {name: row["state"] for name, row in rows(done).items()}
    assert states == {
        "backbone": "local", "text": "local", "video": "changed", "imagebind": "missing",
        "audiobox": "does not fit",
        **dict.fromkeys(NETWORKS, "local"),
    }  # fmt: skip
    assert "unexpected extra" in done.stderr
    assert "imagebind_huge.pth" in done.stderr


def test_unknown_models_and_presets_without_any(run: Run, tmp_path: Path) -> None:
    assert "choose from backbone" in one_line_error(run("fetch", "clap", "--weights", tmp_path))
    done = foley("models", "fetch", "--preset", "toy")
    assert "Nothing to fetch" in done.stdout
