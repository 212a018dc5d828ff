"""What is asked of a server after a broken answer, and which of its answers are believed.

The server says what it is told, answer by answer, and notes what it was asked.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

import pytest

from pipeline.download.transfer import (
    Fetcher,
    Remote,
    ReplacedError,
    TransferError,
    TransferSettings,
)

QUICK = TransferSettings(retries=2, backoff_seconds=0.001, stall_seconds=0.3, connect_seconds=5)
MUCH = 1 << 16  # bytes that count as progress
CONTENT = bytes(range(251)) * 1200
STRONG, WEAK, DATE = '"abc"', 'W/"abc"', "Thu, 01 Jan 2026 00:00:00 GMT"


@dataclass(frozen=True)
class Answer:
    """A status with headers, and the bytes that come before the connection is cut or ends."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    pause: float = 0.0  # seconds between pieces of 100 bytes


def whole(cut: int | None = None, **headers: str) -> Answer:
    """All of the content is announced, `cut` bytes of it come."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(200, CONTENT[:cut], {"Content-Length": str(len(CONTENT)), **headers})


def rest(
    start: int, cut: int | None = None, total: object = len(CONTENT), **headers: str
) -> Answer:
    """The content from a byte on, of which bytes up to `cut` come."""
    given = {
        "Content-Range": f"bytes {start}-{len(CONTENT) - 1}/{total}",
        "Content-Length": str(len(CONTENT) - start),
    }
    return Answer(206, CONTENT[start:cut], given | headers)


@dataclass
class Server:
    """Answers in order, and the headers of what was asked."""

    answers: list[Answer] = field(default_factory=list[Answer])
    asked: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    url: str = ""

    def stream(self, *answers: Answer, settings: TransferSettings = QUICK, **more: Any) -> bytes:
        self.answers, self.asked = list(answers), []
        return b"".join(Fetcher(settings).stream(self.url, **more))


@pytest.fixture
def server() -> Iterator[Server]:
    served = Server()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            served.asked.append(dict(self.headers.items()))
            answer = served.answers.pop(0)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.close_connection = True
            if self.command == "HEAD":
                return
            size = 100 if answer.pause else max(1, len(answer.body))
            try:
                for begin in range(0, len(answer.body), size):
                    self.wfile.write(answer.body[begin : begin + size])
                    self.wfile.flush()
                    if answer.pause:
                        time.sleep(answer.pause)
            except OSError:
                pass  # the other side gave up

        def do_HEAD(self) -> None:
            self.do_GET()

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{http.server_address[1]}/file"
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    yield served
    http.shutdown()
    http.server_close()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between tries, which nobody waits for."""
    waited: list[float] = []
    monkeypatch.setattr("pipeline.download.transfer.time.sleep", waited.append)
    return waited


@pytest.mark.parametrize(
    ("headers", "version"),
    [
        ({"ETag": STRONG}, STRONG),
        ({"ETag": STRONG, "Last-Modified": DATE}, STRONG),
        ({"ETag": WEAK, "Last-Modified": DATE}, DATE),
        ({"Last-Modified": DATE}, DATE),
        ({"ETag": WEAK}, None),
        ({}, None),
    ],
)
def test_the_rest_is_asked_for_of_the_same_version(
    server: Server, headers: dict[str, str], version: str | None
) -> None:
    """A weak tag promises no bytes (RFC 9110, 8.8.1): it is never sent with a range."""
    got = server.stream(whole(1000, **headers), rest(1000, 5000), rest(5000))
    assert got == CONTENT
    assert [asked.get("Range") for asked in server.asked] == [None, "bytes=1000-", "bytes=5000-"]
    assert [asked.get("If-Range") for asked in server.asked] == [None, version, version]
    assert {asked["Accept-Encoding"] for asked in server.asked} == {"identity"}


@pytest.mark.parametrize("cuts", [[1], [1000], [len(CONTENT) - 1], [7, 300, 299_999]])
def test_a_file_that_comes_again_from_its_start_goes_on_where_it_was(
    server: Server, cuts: list[int]
) -> None:
    broken = [whole(cut, ETag=STRONG) for cut in cuts]
    assert server.stream(*broken, whole(ETag=STRONG)) == CONTENT


def test_a_replay_that_breaks_off_before_what_was_had_gives_no_byte_twice(server: Server) -> None:
    got = server.stream(whole(2000, ETag=STRONG), whole(500, ETag=STRONG), rest(2000))
    assert got == CONTENT
    assert server.asked[-1]["Range"] == "bytes=2000-"


OTHER = [
    (whole(ETag='"other"'), "it was replaced"),
    (whole(), "it was replaced"),  # it tells no version
    (Answer(200, CONTENT[:-1], {"Content-Length": "7", "ETag": STRONG}), "it was replaced"),
    (rest(999), "asked for bytes from 1000, the server gives bytes 999-"),
    (rest(1001), "asked for bytes from 1000, the server gives bytes 1001-"),
    (rest(10_000), "asked for bytes from 1000"),
    (rest(1000, total=len(CONTENT) + 1), f"was {len(CONTENT)} bytes long and now is"),
    (Answer(206, b"x"), "the server gives no range"),
    (Answer(416), "the server has no byte 1000"),
]


@pytest.mark.parametrize(("answer", "what"), OTHER)
def test_another_file_is_never_mixed_in(server: Server, answer: Answer, what: str) -> None:
    with pytest.raises(ReplacedError, match=what):
        server.stream(whole(1000, ETag=STRONG), answer)


def test_a_weak_tag_does_not_vouch_for_a_replay(server: Server) -> None:
    with pytest.raises(ReplacedError, match="it was replaced"):
        server.stream(whole(1000, ETag=WEAK), whole(ETag=WEAK))


@pytest.mark.parametrize("total", ["*", len(CONTENT)])
def test_a_total_that_is_not_told_is_no_contradiction(server: Server, total: object) -> None:
    assert server.stream(whole(1000), rest(1000, total=total)) == CONTENT


def test_tries_are_counted_anew_when_much_has_come(server: Server, waits: list[float]) -> None:
    cuts = [MUCH, 2 * MUCH, 3 * MUCH, 4 * MUCH]
    parts = [rest(start, end) for start, end in zip(cuts, [*cuts[1:], None], strict=True)]
    assert server.stream(whole(MUCH), *parts) == CONTENT  # four breaks where two tries are allowed
    assert len(waits) == 4
    assert max(waits) <= QUICK.backoff_seconds  # and each is the first of a row


@pytest.mark.parametrize("step", [0, 1, MUCH - 1])
def test_tries_that_bring_next_to_nothing_are_not(
    server: Server, waits: list[float], step: int
) -> None:
    ends = [MUCH, MUCH + step, MUCH + 2 * step, MUCH + 3 * step]
    parts = [rest(start, end) for start, end in pairwise(ends)]
    with pytest.raises(TransferError, match="after 2 more tries"):
        server.stream(whole(MUCH), *parts, rest(ends[-1]))
    assert len(server.asked) == 3
    first, second = waits
    low, high = QUICK.backoff_seconds / 2, QUICK.backoff_seconds
    assert low <= first <= high
    assert 2 * low <= second <= 2 * high


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(server: Server, waits: list[float], status: int) -> None:
    busy = Answer(status, headers={"Retry-After": "7", "Content-Length": "0"})
    assert server.stream(busy, whole(MUCH), busy, rest(MUCH)) == CONTENT
    assert [wait for wait in waits if wait > 1] == [7.0, 7.0]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 501])
def test_a_refusal_is_not_tried_again(server: Server, status: int) -> None:
    with pytest.raises(TransferError, match=f"HTTP {status}"):
        server.stream(Answer(status, headers={"Content-Length": "0"}))
    assert len(server.asked) == 1


def test_a_server_says_how_long_to_wait_within_reason(server: Server, waits: list[float]) -> None:
    def asked(retry_after: str) -> float:
        waits.clear()
        busy = Answer(503, headers={"Retry-After": retry_after, "Content-Length": "0"})
        server.stream(busy, whole())
        return waits[0]

    assert asked("3") == 3.0
    assert asked("99999") == QUICK.longest_wait_seconds
    due = int(time.time()) + 60
    left = asked(formatdate(due, usegmt=True))
    assert due - time.time() <= left <= 60
    for nothing in ("0", "soon", "", formatdate(time.time() - 60, usegmt=True)):
        assert asked(nothing) <= QUICK.backoff_seconds


def test_a_drip_is_a_stall_and_a_slow_stream_is_none(server: Server) -> None:
    slow = TransferSettings(
        retries=0, backoff_seconds=0.001, stall_seconds=1.0, slowest_bytes_per_second=2000
    )
    drip = Answer(200, CONTENT[:1000], {"Content-Length": "1000"}, pause=0.3)
    with pytest.raises(TransferError, match="bytes a second"):
        server.stream(drip, settings=slow)
    steady = Answer(200, CONTENT[:6000], {"Content-Length": "6000"}, pause=0.01)
    assert server.stream(steady, settings=slow) == CONTENT[:6000]


def test_it_is_said_once_what_the_server_says_of_the_file(server: Server) -> None:
    heard: list[Remote] = []
    headers = {"ETag": STRONG}
    server.stream(Answer(503), whole(1000, **headers), rest(1000), on_open=heard.append)
    assert heard == [Remote(len(CONTENT), STRONG)]
    server.answers = [Answer(500), whole(0, **headers)]
    assert Fetcher(QUICK).look(server.url) == Remote(len(CONTENT), STRONG)
    server.answers = [Answer(404)]
    with pytest.raises(TransferError, match="HTTP 404"):
        Fetcher(QUICK).look(server.url)


def test_a_file_of_unknown_length_ends_where_the_server_ends(server: Server) -> None:
    heard: list[Remote] = []
    assert server.stream(Answer(200, CONTENT), on_open=heard.append) == CONTENT
    assert heard == [Remote(None, None)]


def test_a_text_that_is_replaced_half_way_is_read_anew(server: Server) -> None:
    replaced = [whole(1000, ETag=STRONG), whole(ETag='"b"')]
    last = Answer(200, "\N{ZERO WIDTH NO-BREAK SPACE}the new".encode(), {"Content-Length": "10"})
    server.answers = [*replaced, *replaced, last]
    assert Fetcher(QUICK).text(server.url) == "the new"
    server.answers = replaced * 3
    with pytest.raises(ReplacedError):
        Fetcher(QUICK).text(server.url)


def test_a_stream_that_is_left_gives_its_turn_back(server: Server) -> None:
    fetcher = Fetcher(TransferSettings(per_host=1))
    for _ in range(2):
        server.answers = [whole()]
        stream: Generator[bytes] = fetcher.stream(server.url)
        next(stream)
        stream.close()
