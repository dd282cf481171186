"""Executors. A package, so that its modules may be named as those of other folders."""

import asyncio
from collections.abc import Callable


def alive(pid: int) -> bool:
    """A zombie is not alive; it waits for a parent that may not come."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def until(holds: Callable[[], bool]) -> None:
    """Return once it does; the end of another's process tells nobody."""
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
