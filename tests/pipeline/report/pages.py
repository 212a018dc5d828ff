"""Results as a run has them, and a page as a browser has it."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from typing import Any

import av
import numpy as np

RESULTS: dict[str, Any] = {
    "held_out_clips": 37,
    "sync": {
        "true": {"f1_60ms": 0.91234, "f1_100ms": 0.95671, "mae_ms": 13.71},
        "other": {"f1_60ms": 0.20123, "f1_100ms": 0.31777, "mae_ms": 48.9},
        "none": {"f1_60ms": 0.15555, "f1_100ms": 0.2222, "mae_ms": None, "onsets": 101},
    },
    "v_loss": {"true": 0.51237, "null": 0.6021, "other": 0.71113},
    "prompt_swap": {"material_accuracy": 0.9459, "f1_60ms": 0.8888},
    "funnel": [
        {
            "stage": "probe",
            "passed": 318,
            "rejected": 4,
            "failed": 6,
            "reasons": {"truncated": 6, "no sound track": 4},
        },
        {
            "stage": "silence",
            "passed": 311,
            "rejected": 7,
            "failed": 0,
            "reasons": {"silent all through": 7},
        },
    ],
    "curation": {
        "true": {"kept": 309, "dropped": 11},
        "noise": {"kept": 3, "dropped": 13, "score": "pq", "auc": 0.98765},
    },
    "seconds": {
        "render": 14.26,
        "curate": 52.77,
        "train": 128.4,
        "evaluate": 41.0,
        "report": 2.3,
        "total": 238.73,
    },
    "seed": 1234,
    "versions": {"python": "3.11.9", "torch": "2.11.0"},
    "machine": {"system": "Linux", "cores": 2, "memory": {"gib": 7.75}},
    "commit": "0123abcd",
}


VOID = {"meta", "link", "input", "br", "img", "hr"}


class Page(HTMLParser):
    """What a browser would make of the page.

    Its elements, the text of each `data` element, and all text.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.figures: list[tuple[str, str]] = []
        self.text = ""
        self.raw: dict[str, str] = {"style": "", "script": ""}
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.elements.append((tag, values))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "data":
            self.figures.append((values["value"], ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in self.raw:
            self.raw[self._open[-1]] += data
            return
        self.text += data
        if self._open and self._open[-1] == "data":
            value, text = self.figures[-1]
            self.figures[-1] = (value, text + data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for v in value.values() for leaf in leaves(v)]
    return [leaf for v in value for leaf in leaves(v)] if isinstance(value, list) else [value]


def decoded(uri: str) -> bytes:
    assert uri.startswith("data:")
    return base64.b64decode(uri.split(",", 1)[1], validate=True)


def samples_of(flac: bytes) -> np.ndarray:
    """Samples [C, S] in -1..1 of a FLAC file."""
    with av.open(io.BytesIO(flac), "r") as source:
        stream = source.streams.audio[0]
        frames = [
            frame.to_ndarray().reshape(-1, stream.channels).T for frame in source.decode(stream)
        ]
    return np.concatenate(frames, axis=1) / 32767
