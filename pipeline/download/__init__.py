"""Fetching what clips are made of.

Addresses that break, archives that cannot be trusted, disks that fill up.
"""

from pipeline.download.archive import ArchiveError, ArchiveLimits, Contents, extract
from pipeline.download.transfer import (
    Fetcher,
    Remote,
    ReplacedError,
    TransferError,
    TransferSettings,
)
from pipeline.download.units import (
    Choice,
    UnitResult,
    archive_folder,
    check_space,
    fetch_archive,
    fetch_file,
    manifest_of,
    sweep,
)

__all__ = [
    "ArchiveError",
    "ArchiveLimits",
    "Choice",
    "Contents",
    "Fetcher",
    "Remote",
    "ReplacedError",
    "TransferError",
    "TransferSettings",
    "UnitResult",
    "archive_folder",
    "check_space",
    "extract",
    "fetch_archive",
    "fetch_file",
    "manifest_of",
    "sweep",
]
