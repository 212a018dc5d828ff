"""A server on loopback with the mirror's layout, procedural clips, and faults to switch on."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pipeline.download.transfer import TransferSettings
from pipeline.procedural import sample_clip, write_clip

LABELS = ("playing drums", "chopping wood", "clapping")
QUICK = TransferSettings(retries=3, backoff_seconds=0.01, stall_seconds=0.3, connect_seconds=5)
ARCHIVE = "train/k700_train_000.tar.gz"


@dataclass
class Faults:
    """What a server does wrong.

    `left` are the requests for an archive that are still to be spoiled.
    """

    left: int = 0
    drop_at: Callable[[int], int] | None = (
        None  # bytes sent before the connection is cut, by length
    )
    status: int = 0
    retry_after: str = ""
    announce: int = 0  # bytes announced beyond those there are
    ranges: bool = True
    stall: bool = False
    drip: bool = False
    replace_with: bytes | None = None  # another archive, after the first spoiled answer
    validators: bool = True


@dataclass
class Mirror:
    """Files by path, faults, and a log of (path, Range header, bytes sent)."""

    files: dict[str, bytes]
    faults: Faults = field(default_factory=Faults)
    log: list[tuple[str, str | None, int]] = field(
        default_factory=list[tuple[str, str | None, int]]
    )
    at_once: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    released: threading.Event = field(default_factory=threading.Event)

    def start(self) -> str:
        """Serve in a thread; the base address."""
        mirror = self

        class Handler(_Handler):
            served = mirror

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        base = f"http://127.0.0.1:{self._server.server_address[1]}/kinetics/700_2020/"
        for path in self.files:
            if path.endswith("path.txt"):
                self.files[path] = self.files[path].replace(b"BASE", base.encode())
        return base

    def stop(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    def fetched(self, part: str) -> int:
        """Bytes sent of files whose path holds `part`."""
        return sum(size for path, _, size in self.log if part in path)


class _Handler(BaseHTTPRequestHandler):
    served: Mirror
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        with self.served.lock:
            self.served.at_once += 1
            self.served.most_at_once = max(self.served.most_at_once, self.served.at_once)
        try:
            self._answer(body=True)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with self.served.lock:
                self.served.at_once -= 1

    def _answer(self, body: bool) -> None:
        served, faults = self.served, self.served.faults
        path = self.path.removeprefix("/kinetics/700_2020/").replace("%20", " ")
        spoiled = False
        with served.lock:
            content = served.files.get(path)
            if body and ".tar" in path and faults.left > 0:
                faults.left -= 1
                spoiled = True
        if content is None:
            self._plain(404)
            return
        if spoiled and faults.status:
            self._plain(faults.status, faults.retry_after)
            return
        self._send(path, content, body, spoiled)
        if spoiled and faults.replace_with is not None:
            served.files[path] = faults.replace_with

    def _plain(self, status: int, retry_after: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        if retry_after:
            self.send_header("Retry-After", retry_after)
        self.end_headers()

    def _send(self, path: str, content: bytes, body: bool, spoiled: bool) -> None:
        faults = self.served.faults
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        asked = self.headers.get("Range")
        start = 0
        if asked and faults.ranges and self.headers.get("If-Range", tag) == tag:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
        if start >= len(content) and start:
            self._plain(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if faults.validators:
            self.send_header("ETag", tag)
            self.send_header("Last-Modified", formatdate(0, usegmt=True))
        extra = faults.announce if ".tar" in path else 0
        self.send_header("Content-Length", str(len(content) - start + extra))
        self.end_headers()
        if not body:
            return
        rest = content[start:]
        cut = len(rest)
        if spoiled and faults.drop_at is not None:
            cut = min(cut, faults.drop_at(len(rest)))
        if spoiled and (faults.stall or faults.drip):
            cut = min(cut, 3000)
        self.wfile.write(rest[:cut])
        self.wfile.flush()
        if spoiled:
            self._dawdle(rest[cut:])
        self.served.log.append((path, asked, cut))
        if cut < len(rest) or extra:
            self.close_connection = True

    def _dawdle(self, rest: bytes) -> None:
        """Send nothing more, or a byte now and then.

        Until the server stops or the other side gives up.
        """
        if self.served.faults.stall:
            self.served.released.wait(10)
        if self.served.faults.drip:
            for i in range(len(rest)):
                if self.served.released.wait(0.05):
                    return
                self.wfile.write(rest[i : i + 1])


def tar_of(members: Mapping[str, bytes], compress: bool = True) -> bytes:
    """An archive of these members, in order."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return gzip.compress(out.getvalue(), 1) if compress else out.getvalue()


def clip_files(folder: Path, n: int = 3) -> list[bytes]:
    """A few real clips."""
    paths = [folder / f"{seed}.mp4" for seed in range(n)]
    for seed, path in enumerate(paths):
        write_clip(sample_clip(seed, 1.0), path)
    return [path.read_bytes() for path in paths]


def layout(folder: Path, base: str = "BASE") -> dict[str, bytes]:
    """Files of the mirror.

    Train in class folders, val flat in a plain tar with absolute names, test unlabelled.
    """
    contents = clip_files(folder)
    files: dict[str, bytes] = {}
    header = "label,youtube_id,time_start,time_end,split\n"
    rows: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    members: dict[str, dict[str, bytes]] = {}
    for number, label in enumerate(LABELS):
        for k, content in enumerate(contents):
            id_ = f"-{number}{k}cdefghij"[:11].ljust(11, "x")
            rows["train"].append(f"{label},{id_},{k},{k + 10},train\n")
            name = f"{label}/{id_}_{k:06d}_{k + 10:06d}.mp4"
            members.setdefault(f"train/k700_train_{number:03d}.tar.gz", {})[name] = content
    for split in ("val", "test"):
        for k, content in enumerate(contents):
            id_ = f"{split}{k}".ljust(11, "_")
            rows[split].append(
                f"{LABELS[k] if split == 'val' else ''},{id_},{k},{k + 10},{split}\n"
            )
            prefix = "/data/val/" if split == "val" else "test/"
            members.setdefault(f"{split}/k700_{split}_000.tar.gz", {})[
                f"{prefix}{id_}_{k:06d}_{k + 10:06d}.mp4"
            ] = content
    rows["train"].append(f"{LABELS[0]},gone_video_,5,15,train\n")  # a row without video
    members["train/k700_train_001.tar.gz"] |= {
        "chopping wood/no_row_here_000001_000011.mp4": contents[0],  # a video without row
        "chopping wood/._no_row_here_000001_000011.mp4": b"left by another system",
        "readme.txt": b"hello",
    }
    for path, held in members.items():
        files[path] = tar_of(held, compress=not path.startswith("val"))
    for split, lines in rows.items():
        files[f"annotations/{split}.csv"] = (header + "".join(lines)).encode()
        listed = sorted(path for path in members if path.startswith(split))
        files[f"{split}/k700_2020_{split}_path.txt"] = "".join(
            f"{base}{path}\n" for path in listed
        ).encode()
    return files


def tree(root: Path) -> dict[str, str]:
    """Hash of every visible file below a folder."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*.mp4"))
        if ".partial" not in path.parts
    }
