"""One address as one stream of bytes, however often the connection breaks on the way.

A broken transfer goes on with Range and If-Range, so that bytes are not fetched twice and two
versions of a file are never mixed; what the libraries do instead was measured in the project's
notes: silence, a restart, or a mixture.
"""

import contextlib
import random
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

import requests
import urllib3

from warehouse.errors import FoleyError

_CHUNK = 1 << 18  # bytes asked for at a time
_BROKEN = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)
#: Statuses after which it is worth another try.
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_LEAST = 1 << 16  # bytes that an attempt must bring to count as progress


T = TypeVar("T")


class TransferError(FoleyError):
    """An address could not be fetched; one line that says which, and why."""


class ReplacedError(TransferError):
    """The file on the server became another one meanwhile: what came before is of no use."""


@dataclass(frozen=True)
class TransferSettings:
    """How patient a transfer is. `retries` are tries in a row that bring next to nothing."""

    retries: int = 6
    backoff_seconds: float = 1.0
    longest_wait_seconds: float = 120.0
    connect_seconds: float = 15.0
    stall_seconds: float = 30.0
    slowest_bytes_per_second: int = 1024
    per_host: int = 4


@dataclass(frozen=True)
class Remote:
    """What a server says of a file: bytes in all (None if it does not say), and its version."""

    length: int | None
    version: str | None


class Fetcher:
    """Fetches addresses, at most `per_host` of a host at once. Safe to use from many threads."""

    def __init__(self, settings: TransferSettings | None = None) -> None:
        self.settings = settings or TransferSettings()
        self._hosts: dict[str, threading.BoundedSemaphore] = {}
        self._lock = threading.Lock()
        self._local = threading.local()

    def __getstate__(self) -> dict[str, object]:
        return {"settings": self.settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    def look(self, url: str) -> Remote:
        """What the server says of the file, without fetching it. Raises TransferError."""
        for attempt in self._attempts(url):
            with self._turn(url):
                try:
                    with self._request("HEAD", url) as response:
                        if response.status_code not in _AGAIN:
                            return _remote(_checked(url, response))
                        attempt(f"HTTP {response.status_code}", response)
                except _BROKEN as error:
                    attempt(_why(error))
        raise AssertionError("the last attempt raises")

    def text(self, url: str) -> str:
        """A small text file. Raises TransferError."""
        content = self.anew(lambda: b"".join(self.stream(url)))
        return content.decode("utf-8-sig", errors="replace")

    def anew(self, work: Callable[[], T]) -> T:
        """What `work` gives, which is done again where the server's file was replaced meanwhile."""
        for _ in range(self.settings.retries):
            with contextlib.suppress(ReplacedError):
                return work()
        return work()

    def stream(self, url: str, on_open: Callable[[Remote], None] | None = None) -> Generator[bytes]:
        """The file's bytes, in order, each once. `on_open` hears first what the server says of it.

        Raises ReplacedError if the server began to give another file, TransferError if it could not
        be fetched whole.
        """
        remote, done = None, 0
        for attempt in self._attempts(url):
            start = done
            try:
                with self._turn(url), self._request("GET", url, done, remote) as response:
                    if response.status_code in _AGAIN:
                        attempt(f"HTTP {response.status_code}", response)
                        continue
                    skip = _placed(url, response, done, remote)
                    if remote is None:
                        remote = _remote(response)
                        if on_open is not None:
                            on_open(remote)
                    for piece in self._pieces(url, response):
                        fresh = piece[skip:]
                        skip -= len(piece) - len(fresh)
                        done += len(fresh)
                        if fresh:
                            yield fresh
                if remote.length is None or done == remote.length:
                    return
                attempt(f"it ended after {done} of {remote.length} bytes", progress=done - start)
            except _BROKEN as error:
                attempt(_why(error), progress=done - start)

    def _pieces(self, url: str, response: requests.Response) -> Iterator[bytes]:
        """What arrives, as it arrives; a drip is a stall, however regular."""
        began, count = time.monotonic(), 0
        while True:
            piece = response.raw.read1(_CHUNK)
            if not piece:
                return
            yield piece
            count += len(piece)
            passed = time.monotonic() - began
            if passed > self.settings.stall_seconds:
                if count < passed * self.settings.slowest_bytes_per_second:
                    raise TimeoutError(f"{url} gives {count / passed:.0f} bytes a second")
                began, count = time.monotonic(), 0

    def _attempts(self, url: str) -> Iterator[Callable[..., None]]:
        """Yields what to call when an attempt fails: it waits, or raises after the last."""
        settings, failed = self.settings, 0

        def fail(why: str, response: requests.Response | None = None, progress: int = 0) -> None:
            nonlocal failed
            failed = 1 if progress >= _LEAST else failed + 1
            if failed > settings.retries:
                raise TransferError(f"{url}: {why}, after {settings.retries} more tries")
            wait = settings.backoff_seconds * 2 ** (failed - 1) * random.uniform(0.5, 1)  # noqa: S311
            time.sleep(min(max(wait, _retry_after(response)), settings.longest_wait_seconds))

        while True:
            yield fail

    def _request(
        self, method: str, url: str, start: int = 0, remote: Remote | None = None
    ) -> requests.Response:
        if not hasattr(self._local, "session"):  # a connection a thread, kept open between files
            self._local.session = requests.Session()
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
            if remote and remote.version:
                headers["If-Range"] = remote.version
        patience = (self.settings.connect_seconds, self.settings.stall_seconds)
        session: requests.Session = self._local.session
        return session.request(
            method, url, headers=headers, stream=True, timeout=patience, allow_redirects=True
        )

    @contextmanager
    def _turn(self, url: str) -> Generator[None]:
        with self._lock:
            host = address(url).netloc
            turn = self._hosts.setdefault(host, threading.BoundedSemaphore(self.settings.per_host))
        with turn:
            yield


def _placed(url: str, response: requests.Response, done: int, before: Remote | None) -> int:
    """How many of the bytes that come were had before; raises ReplacedError for another file."""
    if response.status_code == 206:
        given = response.headers.get("Content-Range", "")
        if not given.startswith(f"bytes {done}-"):
            raise ReplacedError(
                f"{url}: asked for bytes from {done}, the server gives {given or 'no range'}"
            )
        total = given.rpartition("/")[2]
        if before and before.length is not None and total.isdigit() and int(total) != before.length:
            raise ReplacedError(f"{url}: it was {before.length} bytes long and now is {total}")
        return 0
    if response.status_code == 416:
        raise ReplacedError(f"{url}: the server has no byte {done}, though it announced more")
    now = _remote(_checked(url, response))
    if done and (before is None or now.version is None or now != before):
        raise ReplacedError(f"{url}: it was replaced on the server during the transfer")
    return done


def _checked(url: str, response: requests.Response) -> requests.Response:
    if response.status_code != 200:
        raise TransferError(f"{url}: HTTP {response.status_code} {response.reason or ''}".rstrip())
    return response


def _remote(response: requests.Response) -> Remote:
    headers = response.headers
    length, tag = headers.get("Content-Length", ""), headers.get("ETag", "")
    weak = tag.startswith("W/")  # a weak one does not promise the same bytes
    return Remote(
        int(length) if length.isdigit() else None,
        (None if weak else tag) or headers.get("Last-Modified"),
    )


def _retry_after(response: requests.Response | None) -> float:
    """Seconds that the server asks to wait, by number or by date."""
    asked = response.headers.get("Retry-After", "") if response is not None else ""
    if asked.isdigit():
        return float(asked)
    try:
        return max(0.0, parsedate_to_datetime(asked).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0


def address(url: str) -> SplitResult:
    """The parts of an address that can be fetched. Raises TransferError for any other."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname:
            return parts
    raise TransferError(f"{url}: no address that can be fetched, give one with http:// or https://")


def _why(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
