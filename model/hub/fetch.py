"""The store of weights: brings a preset's published models into its folder of weights, and says what is there.

The first fetch of a model notes the commit that it came from and the sha256 of every file in
`models.lock.json` beside them; later fetches bring just that, and `check` compares with it. Where
the preset asks for another revision than was fetched, the files of that one take their place. Files
that a person put there need no lock, and are never replaced.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from model.presets.preset import ModelError, ModelFiles, Models, Preset
from model.presets.settings import Settings
from model.weights.files import file_sha256, visible_files

LOCK = "models.lock.json"
TOKENS = "https://huggingface.co/settings/tokens"


class Pin(Settings):
    """What was fetched of one source."""

    revision: str | None = None
    files: dict[str, str] = Field(default_factory=dict, description="name in the store -> sha256")


class Lock(Settings):
    """The content of `models.lock.json`: pins by repository or address."""

    sources: dict[str, Pin] = Field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """What the store holds of one model."""

    model: str
    files: ModelFiles
    state: str  # "as fetched", "local" (put there by hand), "missing", "changed" or "does not fit"
    bytes: int = 0
    sha256: str | None = None  # of the weights file
    revision: str | None = None
    parameters: int | None = None
    problem: str | None = None


def source(files: ModelFiles) -> str | None:
    """The repository or the address that a model is fetched from."""
    return files.repo or files.url


def page(files: ModelFiles) -> str | None:
    """The page that tells of a model."""
    return files.page or (f"https://huggingface.co/{files.repo}" if files.repo else None)


def fetchable(preset: Preset) -> list[str]:
    """Names of the models that are published somewhere."""
    return [name for name in Models.model_fields if source(getattr(preset.models, name))]


def read_lock(store: Path) -> Lock:
    """The lock of a store; an empty one where nothing was fetched yet.

    Raises ModelError if it cannot be read.
    """
    path = store / LOCK
    try:
        return Lock.model_validate_json(path.read_bytes()) if path.is_file() else Lock()
    except (OSError, ValidationError):
        raise ModelError(f"cannot read {path}: delete it to fetch anew") from None


def fetch(
    preset: Preset, names: Iterable[str], on_model: Callable[[str, ModelFiles], None]
) -> None:
    """Bring the named models of a preset into its folder of weights; what is complete there costs its hashes only.

    An interrupted download goes on where it stopped. Raises ModelError for an unknown name, and
    with what to do if a source cannot be reached, wants its licence accepted, or gives other bytes
    than before.
    """
    import httpx2

    for name in names:
        if name not in Models.model_fields:
            raise ModelError(f"no model {name!r}: choose from {', '.join(Models.model_fields)}")
        files: ModelFiles = getattr(preset.models, name)
        key = source(files)
        if key is None:
            continue
        on_model(name, files)
        lock = read_lock(preset.weights)
        bring = _from_hub if files.repo else _from_address
        try:
            pin = bring(preset, files, lock.sources.get(key, Pin()))
        except (OSError, httpx2.HTTPError) as error:
            raise ModelError(_explain(files, error)) from None
        _write_lock(preset.weights, Lock(sources={**lock.sources, key: pin}))


def check(preset: Preset) -> list[Found]:
    """What the store holds of each model.

    Against the lock, and strictly against the architecture.
    """
    lock = read_lock(preset.weights)
    return [_check_one(preset, name, lock) for name in Models.model_fields]


def _check_one(preset: Preset, name: str, lock: Lock) -> Found:
    from model.hub.check import parameters
    from model.weights.load import WeightsError

    files: ModelFiles = getattr(preset.models, name)
    path = preset.model(name)
    weights = path / "model.safetensors" if path.is_dir() else path
    if not weights.is_file():
        bring = f": foley models fetch brings them from {source(files)}" if source(files) else ""
        return Found(name, files, "missing", problem=f"no weights at {weights}{bring}")
    size = (
        sum(f.stat().st_size for f in path.iterdir() if f.is_file())
        if path.is_dir()
        else weights.stat().st_size
    )
    pin = lock.sources.get(source(files) or "", Pin())
    digest = file_sha256(weights)
    facts: dict[str, Any] = {"bytes": size, "sha256": digest, "revision": pin.revision}
    if problem := _other_revision(files, pin) or _differs(preset.weights, pin, {weights: digest}):
        return Found(name, files, "changed", problem=problem, **facts)
    try:
        count = parameters(preset, name)
    except (WeightsError, ModelError) as error:
        return Found(name, files, "does not fit", problem=str(error), **facts)
    return Found(name, files, "as fetched" if pin.files else "local", parameters=count, **facts)


def _other_revision(files: ModelFiles, pin: Pin) -> str | None:
    """In words, that the preset names another commit than was fetched.

    Of a tag or branch only the hub knows.
    """
    asked = files.revision or ""
    if not pin.revision or not re.fullmatch("[0-9a-f]{40}", asked) or asked == pin.revision:
        return None
    return f"{files.repo} was fetched at {pin.revision[:12]}, the preset asks for {asked[:12]}: fetch it again"


def _differs(store: Path, pin: Pin, known: dict[Path, str] | None = None) -> str | None:
    """The first file that is not as its pin says, in words."""
    for name, wanted in pin.files.items():
        path = store / name
        if not path.is_file():
            return f"{path} is gone since it was fetched"
        found = (known or {}).get(path) or file_sha256(path)
        if found != wanted:
            return f"{path} has sha256 {found[:16]}, {LOCK} says {wanted[:16]}: delete the file and fetch it again"
    return None


def _write_lock(store: Path, lock: Lock) -> None:
    part = store / f"{LOCK}.part"
    part.write_text(json.dumps(lock.model_dump(), indent=1, sort_keys=True) + "\n")
    part.replace(store / LOCK)


def _from_hub(preset: Preset, files: ModelFiles, pin: Pin) -> Pin:
    """Fetch a repository's files at one commit, or take them from huggingface_hub's cache where it is offline."""
    from huggingface_hub import HfApi, constants, hf_hub_url, snapshot_download
    from huggingface_hub.utils import build_hf_headers, filter_repo_objects

    assert files.repo is not None
    path = preset.weights / files.path
    folder = path.parent if path.suffix else path
    wanted, patterns = files.revision or pin.revision, list(files.files) or None
    if pin.files and wanted == pin.revision and _differs(preset.weights, pin) is None:
        return pin
    if constants.is_offline_mode():
        cached = snapshot_download(
            files.repo, revision=wanted, allow_patterns=patterns, local_files_only=True
        )
        shutil.copytree(cached, folder, dirs_exist_ok=True)  # follows the cache's links
        revision, names = (
            Path(cached).name,
            [f.relative_to(cached).as_posix() for f in visible_files(Path(cached))],
        )
    else:
        info = HfApi().model_info(files.repo, revision=wanted, files_metadata=True)
        revision, published = info.sha, {file.rfilename: file for file in info.siblings or []}
        names = list(filter_repo_objects(list(published), allow_patterns=patterns))
        for name in names:
            file, path = published[name], folder / name
            before = pin.files.get(path.relative_to(preset.weights).as_posix())
            known = before if revision == pin.revision else None
            url = hf_hub_url(files.repo, name, revision=revision)
            stale = before if revision != pin.revision else None
            _download(
                url,
                path,
                file.lfs.sha256 if file.lfs else known,
                build_hf_headers(),
                file.size,
                stale,
            )
    found = {
        (folder / name).relative_to(preset.weights).as_posix(): file_sha256(folder / name)
        for name in names
    }
    return Pin(revision=revision, files=found)


def _from_address(preset: Preset, files: ModelFiles, pin: Pin) -> Pin:
    """Fetch one file from its address."""
    assert files.url is not None
    path, before = preset.weights / files.path, pin.files.get(files.path)
    _download(files.url, path, files.sha256 or before, {}, stale=before)
    return Pin(files={files.path: file_sha256(path)})


def _download(
    url: str,
    path: Path,
    sha256: str | None,
    headers: dict[str, str],
    size: int | None = None,
    stale: str | None = None,
) -> None:
    """Bring one file, unless it is there, going on where an earlier attempt stopped; ModelError for another hash.

    A file of the hash `stale` is of an earlier revision, and is replaced if it is not what is
    wanted. huggingface_hub's own downloads go on within a process only: they drop what they have
    when it ends.
    """
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.file_download import http_get

    if path.is_file():
        found = file_sha256(path)
        if found == sha256 or (sha256 is None and found != stale):
            return
        if found != stale:
            raise ModelError(
                f"{path} has sha256 {found[:16]}, expected is {str(sha256)[:16]}: move it away and fetch again"
            )
    part = path.with_name(
        f".{path.name}.{hashlib.sha256(url.encode()).hexdigest()[:8]}.part"
    )  # of this revision
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with part.open("ab") as stream:
            http_get(url, stream, resume_size=stream.tell(), headers=headers, expected_size=size)
    except HfHubHTTPError as error:
        if error.response.status_code == 416:  # more bytes than the file has now: another file
            part.unlink()
        raise
    if sha256 and (found := file_sha256(part)) != sha256:
        part.unlink()
        raise ModelError(
            f"{url} gave a file of sha256 {found[:16]}, expected was {sha256[:16]}: fetch it again"
        )
    part.replace(path)


def _explain(files: ModelFiles, error: Exception) -> str:
    """What a person can do about a failed fetch, in one line."""
    from huggingface_hub import errors

    name = source(files)
    match error:
        case errors.GatedRepoError():
            return (
                f"{name} is gated: accept its licence ({files.licence}) at {page(files)}, "
                f"make a token at {TOKENS}, set HF_TOKEN to it, and fetch again"
            )
        case errors.RevisionNotFoundError():
            return f"{name} has no revision {files.revision}: see {page(files)}"
        case errors.RepositoryNotFoundError():
            return f"{name} is not on the hub, or HF_TOKEN does not open it: see {page(files)}"
        case errors.OfflineModeIsEnabled() | errors.LocalEntryNotFoundError():
            return (
                f"{name} is not in the hub's cache and cannot be reached (HF_HUB_OFFLINE?): go online, "
                f"or put its files at {files.path} in the folder of weights"
            )
        case _:
            return f"cannot fetch {name}: {str(error).strip().splitlines()[0]}; run the same command again to go on"
