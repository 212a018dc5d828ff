"""The one error that a person is meant to read."""

import errno
from collections.abc import Generator
from contextlib import contextmanager

_REASONS = {
    errno.ENOSPC: "the disk is full: free some space and run again",
    errno.EDQUOT: "the disk quota is used up: free some space and run again",
    errno.EROFS: "the file system is read-only: mount it writable or choose another --home",
    errno.EACCES: "permission denied: make it readable and writable for this user",
    errno.EPERM: "operation not permitted: make it readable and writable for this user",
    **dict.fromkeys(
        (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP),
        "the file system has no such thing (a home needs locks and renames): choose another --home",
    ),
    errno.EMFILE: "too many open files: raise the limit (ulimit -n)",
    errno.EISDIR: "a folder has that name: move it elsewhere",
}


class FoleyError(Exception):
    """A mistake or a condition that a person can mend: one line with what, where, what to do."""

    def __str__(self) -> str:
        """The message, in one line whatever it quotes."""
        return " ".join(super().__str__().split())


def was_interrupted(error: BaseException) -> bool:
    """Whether this is what DuckDB makes of a signal, such as Ctrl-C, during a query."""
    return isinstance(error, RuntimeError) and "Query interrupted" in str(error)


@contextmanager
def clear_os_errors(doing: str) -> Generator[None, None, None]:
    """Turn refusals of the operating system (full disk, no permission) into a FoleyError."""
    try:
        yield
    except OSError as exc:
        reason = _REASONS.get(exc.errno or 0)
        if reason is None:
            raise
        raise FoleyError(f"cannot {doing}: {reason}") from exc
