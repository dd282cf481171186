"""What a test looks at besides the events: processes, and what the agent says of itself; and how it answers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import psutil


def mode(summary: dict[str, Any]) -> object:
    """What the agent said last of its mode."""
    return {option["id"]: option["currentValue"] for option in summary["config_options"]}["mode"]


def tree(pid: int) -> list[psutil.Process]:
    """A process and all that it started."""
    top = psutil.Process(pid)
    return [top, *top.children(recursive=True)]


def alive(pid: int) -> bool:
    """A process that runs; one that only waits to be reaped does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def running(path: Path) -> list[psutil.Process]:
    """The processes of a command that was started with `echo $$ > path; ...`."""
    async with asyncio.timeout(30):
        while not path.exists() or not path.read_text().endswith("\n"):  # noqa: ASYNC110  # only a file says it
            await asyncio.sleep(0.02)
    return tree(int(path.read_text()))


async def answer(chat: Any, kind: str) -> dict[str, Any]:
    """Wait for the next question and choose the option of a kind; the question."""
    question: dict[str, Any] = (await chat.until_kind("permission_requested"))["data"]
    option = next(option for option in question["options"] if option["kind"] == kind)
    await chat.call("POST", "permissions", question["id"], body={"option_id": option["optionId"]})
    return question
