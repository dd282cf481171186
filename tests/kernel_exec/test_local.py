"""What is of the executor of this machine alone; `test_contract` has what every executor promises."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from . import alive, until
from .conftest import Place


def test_commands_start_again_after_the_process_that_starts_them_was_killed(local: Place) -> None:
    async def test(here: Any) -> None:
        first = await here.spawn("sleep 61")
        [keeper] = parents(first.pid)
        [spawner] = parents(keeper)
        for pid in (spawner, keeper):
            os.kill(pid, signal.SIGKILL)
        assert (await first.wait()).signal == "SIGKILL"
        await first.kill()
        assert not alive(first.pid)
        assert (await (await here.spawn("exit 3")).wait()).code == 3

    local.run(test)


def test_a_shell_that_is_killed_has_no_time_to_say_what_became_of_its_child(
    local: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill = os.kill

    def slowly(pid: int, number: int) -> None:
        kill(pid, number)
        time.sleep(0.01)  # as on a busy machine

    monkeypatch.setattr(os, "kill", slowly)

    async def test(here: Any) -> None:
        for _ in range(10):
            command = await here.spawn("trap '' TERM; echo ready; while :; do sleep 0.1; done")
            await until(lambda command=command: "ready" in command.output()[0])
            await command.kill(grace=0)
            assert command.output()[0] == "ready\n"

    local.run(test)


def parents(pid: int) -> list[int]:
    """Of a process: one."""
    with open(f"/proc/{pid}/stat") as file:
        return [int(file.read().rpartition(")")[2].split()[1])]
