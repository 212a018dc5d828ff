"""Brings a preset's published models into its folder of weights.

The first fetch of a model writes the commit that it came from and the sha256 of every file into
`models.lock.json` beside them; later fetches bring just that. Where the preset asks for another
revision than was fetched, the files of that one take their place. Files that a person put there
need no lock, and are never replaced.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field, ValidationError

from model.presets.networks import ModelFiles
from model.presets.preset import Preset
from model.presets.settings import ModelError, Settings
from model.weights.files import file_sha256, visible_files

LOCK = "models.lock.json"
TOKENS = "https://huggingface.co/settings/tokens"


class Pin(Settings):
    """What was fetched of one source."""

    revision: str | None = None
    files: dict[str, str] = Field(default_factory=dict)  # name in the folder of weights -> sha256


class Lock(Settings):
    """The content of `models.lock.json`: pins by repository or address."""

    sources: dict[str, Pin] = Field(default_factory=dict)


@dataclass(frozen=True)
class Download:
    """A file to bring."""

    url: str
    path: Path
    sha256: str | None = None  # that it must have, where it is known
    stale: str | None = None  # of the file of an earlier revision, which may be replaced
    size: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


def read_lock(weights: Path) -> Lock:
    """The lock of a folder of weights, an empty one where there is none; raises ModelError."""
    path = weights / LOCK
    try:
        return Lock.model_validate_json(path.read_bytes()) if path.is_file() else Lock()
    except (OSError, ValidationError):
        raise ModelError(f"cannot read {path}: delete it to fetch anew") from None


def fetch(
    preset: Preset, names: Iterable[str], on_model: Callable[[str, ModelFiles], None]
) -> None:
    """Bring models into the preset's folder of weights; what is complete there is only hashed.

    An interrupted download goes on where it stopped.

    Args:
        preset: Says where the models are published.
        names: The models to bring, of `preset.models`.
        on_model: Called before each model with its name and files.

    Raises:
        ModelError: There is no such model; or, with what to do, a source cannot be reached, wants
            its licence accepted, or gives other bytes than before.
    """
    import httpx2

    for name in names:
        if name not in preset.models:
            raise ModelError(f"no model {name!r}: choose from {', '.join(preset.models)}")
        files = preset.models[name]
        if files.source is None:
            continue
        on_model(name, files)
        lock = read_lock(preset.weights)
        fetch_one = _from_hub if files.repo else _from_address
        try:
            pin = fetch_one(preset.weights, files, lock.sources.get(files.source, Pin()))
        except (OSError, httpx2.HTTPError) as error:
            raise ModelError(_explain(files, error)) from None
        _write_lock(preset.weights, Lock(sources={**lock.sources, files.source: pin}))


def difference(weights: Path, pin: Pin, hashes: Mapping[Path, str] | None = None) -> str | None:
    """The first file that is not as its pin says, in words; `hashes` need not be computed again."""
    for name, pinned in pin.files.items():
        path = weights / name
        if not path.is_file():
            return f"{path} is gone since it was fetched"
        sha256 = (hashes or {}).get(path) or file_sha256(path)
        if sha256 != pinned:
            return (
                f"{path} has sha256 {sha256[:16]}, {LOCK} says {pinned[:16]}: "
                "delete the file and fetch it again"
            )
    return None


def _write_lock(weights: Path, lock: Lock) -> None:
    part = weights / f"{LOCK}.part"
    part.write_text(json.dumps(lock.model_dump(), indent=1, sort_keys=True) + "\n")
    part.replace(weights / LOCK)


def _from_hub(weights: Path, files: ModelFiles, pin: Pin) -> Pin:
    """Fetch a repository's files at one commit; where it is offline, from the hub's own cache."""
    from huggingface_hub import HfApi, constants, hf_hub_url, snapshot_download
    from huggingface_hub.utils import build_hf_headers, filter_repo_objects

    assert files.repo is not None
    path = weights / files.path
    folder = path.parent if path.suffix else path
    asked, patterns = files.revision or pin.revision, list(files.files) or None
    if pin.files and asked == pin.revision and difference(weights, pin) is None:
        return pin
    if constants.is_offline_mode():
        cached = Path(
            snapshot_download(
                files.repo, revision=asked, allow_patterns=patterns, local_files_only=True
            )
        )
        shutil.copytree(cached, folder, dirs_exist_ok=True)  # follows the cache's links
        revision = cached.name
        names = [file.relative_to(cached).as_posix() for file in visible_files(cached)]
    else:
        info = HfApi().model_info(files.repo, revision=asked, files_metadata=True)
        revision, published = info.sha, {file.rfilename: file for file in info.siblings or []}
        names = list(filter_repo_objects(list(published), allow_patterns=patterns))
        same = revision == pin.revision
        for name in names:
            file, path = published[name], folder / name
            before = pin.files.get(path.relative_to(weights).as_posix())
            _download(
                Download(
                    hf_hub_url(files.repo, name, revision=revision), path,
                    sha256=file.lfs.sha256 if file.lfs else before if same else None,
                    stale=None if same else before, size=file.size, headers=build_hf_headers(),
                )
            )  # fmt: skip
    paths = [folder / name for name in names]
    hashes = {path.relative_to(weights).as_posix(): file_sha256(path) for path in paths}
    return Pin(revision=revision, files=hashes)


def _from_address(weights: Path, files: ModelFiles, pin: Pin) -> Pin:
    """Fetch one file from its address."""
    assert files.url is not None
    path, before = weights / files.path, pin.files.get(files.path)
    _download(Download(files.url, path, files.sha256 or before, stale=before))
    return Pin(files={files.path: file_sha256(path)})


def _download(file: Download) -> None:
    """Bring a file unless it is there, going on where an earlier attempt stopped.

    huggingface_hub's own downloads go on within a process only: they drop what they have when it
    ends. Raises ModelError for a file of another hash, there or fetched.
    """
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.file_download import http_get

    path = file.path
    if path.is_file():
        sha256 = file_sha256(path)
        if sha256 == file.sha256 or (file.sha256 is None and sha256 != file.stale):
            return
        if sha256 != file.stale:
            raise ModelError(
                f"{path} has sha256 {sha256[:16]}, expected is {str(file.sha256)[:16]}: "
                "move it away and fetch again"
            )
    of_address = hashlib.sha256(file.url.encode()).hexdigest()[:8]  # and so of this revision
    part = path.with_name(f".{path.name}.{of_address}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with part.open("ab") as stream:
            start = stream.tell()
            http_get(
                file.url, stream, resume_size=start, headers=dict(file.headers),
                expected_size=file.size,
            )  # fmt: skip
    except HfHubHTTPError as error:
        if error.response.status_code == 416:  # more bytes than the file has now: another file
            part.unlink()
        raise
    if file.sha256 and (sha256 := file_sha256(part)) != file.sha256:
        part.unlink()
        raise ModelError(
            f"{file.url} gave a file of sha256 {sha256[:16]}, expected was {file.sha256[:16]}: "
            "fetch it again"
        )
    part.replace(path)


def _explain(files: ModelFiles, error: Exception) -> str:
    """What a person can do about a failed fetch, in one line."""
    from huggingface_hub import errors

    name, page = files.source, files.home_page
    match error:
        case errors.GatedRepoError():
            return (
                f"{name} is gated: accept its licence ({files.licence}) at {page}, "
                f"make a token at {TOKENS}, set HF_TOKEN to it, and fetch again"
            )
        case errors.RevisionNotFoundError():
            return f"{name} has no revision {files.revision}: see {page}"
        case errors.RepositoryNotFoundError():
            return f"{name} is not on the hub, or HF_TOKEN does not open it: see {page}"
        case errors.OfflineModeIsEnabled() | errors.LocalEntryNotFoundError():
            return (
                f"{name} is not in the hub's cache and cannot be reached (HF_HUB_OFFLINE?): "
                f"go online, or put its files at {files.path} in the folder of weights"
            )
        case _:
            reason = str(error).strip().splitlines()[0]
            return f"cannot fetch {name}: {reason}; run the same command again to go on"
