"""A folder of files under an address: an object store, or wherever pyarrow opens it."""

import shutil
import zlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote
from uuid import uuid4

import pyarrow as pa

from warehouse.errors import FoleyError

_CHUNK = 8 << 20
_OF_ADDRESSES = "%:/?#[]@!$&'()*+,;="  # signs that an address may hold as they are (RFC 3986)


class Store:
    """A folder of files under an address, such as s3://bucket/foley or file:///mnt/foley."""

    def __init__(self, address: str) -> None:
        """Raises FoleyError for an address that pyarrow knows nothing of."""
        from pyarrow import fs

        self.address = address
        try:
            self._files, self._root = fs.FileSystem.from_uri(quote(address, _OF_ADDRESSES))
        except (OSError, ValueError, pa.ArrowException) as exc:
            kinds = "such as s3://bucket/folder, gs://bucket/folder or file:///folder"
            raise FoleyError(f"{address} is no address of a folder, {kinds} ({exc})") from exc
        #: On this machine; None elsewhere.
        self.folder = Path(self._root).resolve() if self._files.type_name == "local" else None
        self._selector: Any = fs.FileSelector(self._root, recursive=True, allow_not_found=True)

    def sizes(self) -> dict[str, int]:
        """Bytes of every file, by its path under the address."""
        found: Any = self._files.get_file_info(self._selector)
        start = len(self._root.rstrip("/")) + 1
        return {info.path[start:]: info.size for info in found if info.is_file}

    def put(self, source: BinaryIO, path: str) -> None:
        """Copy an open file there; an object store shows it once it is whole."""
        target = aside = f"{self._root}/{path}"
        if self.folder:  # where folders are more than names, and files are seen while they grow
            self._files.create_dir(target.rpartition("/")[0])
            aside = f"{target}.{uuid4().hex[:8]}.part"
        with self._files.open_output_stream(aside) as out:
            shutil.copyfileobj(source, out, _CHUNK)
        if aside != target:
            self._files.move(aside, target)

    def open(self, path: str) -> Any:
        """A file there, to read parts of."""
        return self._files.open_input_file(f"{self._root}/{path}")

    def get(self, path: str, sink: BinaryIO) -> None:
        """Copy a file from there into an open one."""
        with self._files.open_input_stream(f"{self._root}/{path}") as source:
            shutil.copyfileobj(source, sink, _CHUNK)

    def crc(self, path: str) -> str:
        """CRC-32 of a file there, as `warehouse.files.file_crc` gives it."""
        crc = 0
        with self._files.open_input_stream(f"{self._root}/{path}") as source:
            while chunk := source.read(_CHUNK):
                crc = zlib.crc32(chunk, crc)
        return f"{crc:08x}"


def offered(store: Store, only: Sequence[str] = ()) -> dict[str, int]:
    """Bytes of the files that a pull takes, by name; raises FoleyError where there are none."""
    with clear_store_errors(store.address):
        there = {name: size for name, size in store.sizes().items() if wanted_by(name, only)}
    if not there:
        what = f" that starts with {' or '.join(only)}" if only else ""
        raise FoleyError(
            f"there is nothing{what} in {store.address}: run foley push {store.address} first"
        )
    return there


def wanted_by(name: str, only: Sequence[str]) -> bool:
    """Whether a path starts with one of those that are asked for, if any are."""
    return not only or any(name.startswith(path.strip("/")) for path in only)


@contextmanager
def clear_store_errors(address: str) -> Generator[None]:
    """Faults of a store as one line."""
    try:
        yield
    except (OSError, pa.ArrowException) as exc:
        raise FoleyError(f"cannot copy from or to {address}: {exc}") from exc
