"""One error for every way in which a media file can be bad, in place of the decoders' own."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from av.error import FFmpegError

from warehouse.errors import FoleyError


class MediaError(FoleyError):
    """A media file cannot be read or written: one line with the file and what is wrong with it."""

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        super().__init__(f"{printable(path)}: {what}")

    def __reduce__(self) -> tuple[type[MediaError], tuple[Path, str]]:
        return MediaError, (self.path, self.what)  # so that it can cross to another process


def printable(path: Path) -> str:
    """The path on one line; control characters and undecodable bytes are shown as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(path))


_SYSTEM = (OSError, EOFError, MemoryError)
_DECODERS = (*_SYSTEM, ArithmeticError, ValueError, LookupError, RuntimeError)


@contextmanager
def media_errors(path: Path, doing: str) -> Generator[None]:
    """Turn whatever a decoder raises on a bad file into a MediaError that says what was being done.

    PyAV raises its own errors and, on hostile files, plain ValueError, EOFError, UnicodeError,
    MemoryError and more.
    """
    try:
        yield
    except MediaError:
        raise
    except FFmpegError as error:
        raise MediaError(path, f"{doing}: {error.strerror or type(error).__name__}") from error
    except UnicodeEncodeError as error:
        raise MediaError(path, f"{doing}: its name, or its folder's, is not UTF-8") from error
    except _DECODERS as error:
        system = error.strerror if isinstance(error, OSError) else None
        reason = system or str(error) or type(error).__name__
        raise MediaError(path, f"{doing}: {reason.splitlines()[0]}") from error
