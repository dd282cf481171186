"""Tests through the whole stack."""

import asyncio
from collections.abc import Callable
from pathlib import Path


def alive(pid: int) -> bool:
    """A process that runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):  # the latter where it goes while it is read
        return False


async def until(holds: Callable[[], bool]) -> None:
    """Return once it does: of the end of a process, and of a folder that it removes as its last act, nobody is told."""
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
