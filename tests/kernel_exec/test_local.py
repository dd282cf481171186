"""What is of the executor of this machine alone; `test_contract` has what every executor promises."""

from __future__ import annotations

import os
import signal
from typing import Any

from . import alive
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


def parents(pid: int) -> list[int]:
    """Of a process: one."""
    with open(f"/proc/{pid}/stat") as file:
        return [int(file.read().rpartition(")")[2].split()[1])]
