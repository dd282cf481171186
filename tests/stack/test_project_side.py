"""The project's side of an executor is there only where it was switched on."""

from __future__ import annotations

from typing import Any

import pytest

from jupyter_acp.exceptions import ExecutorError
from jupyter_acp.kernel_exec.server import ServerExecutor


async def test_a_server_that_was_not_told_to_serve_its_project_does_not(drive: Any, jp_base_url: str) -> None:
    for path in ("", "files", "commands"):
        assert (await drive.request("GET", "project-side", *[path] * bool(path), path="a"))[0] == 404
    server = drive.server
    executor = ServerExecutor(f"http://127.0.0.1:{server.port}{jp_base_url}", server.identity_provider.token)
    for ask in (executor.start, lambda: executor.read_text_file("a"), lambda: executor.spawn("true")):
        with pytest.raises(ExecutorError, match="serves no project"):
            await ask()
    assert await executor.poll() == 1
    await executor.stop()
