"""Paths as people type them."""

from pathlib import Path
from urllib.parse import unquote

from warehouse.errors import FoleyError


def path_of(text: str) -> Path:
    """A path as it is typed, or as file managers give it: file:///home/me/my%20clip.mp4.

    Raises FoleyError for an address of another kind.
    """
    kind, slashes, place = text.partition("://")
    if not slashes or not kind.isalnum():
        return Path(text)
    if kind.lower() != "file" or not place.removeprefix("localhost").startswith("/"):
        raise FoleyError(f"{text} is no file on this machine: fetch it, and give its path")
    return Path(unquote(place.removeprefix("localhost"), errors="surrogateescape"))
