"""Tests through the whole stack."""

from pathlib import Path


def alive(pid: int) -> bool:
    """A process that runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):  # the latter where it goes while it is read
        return False
