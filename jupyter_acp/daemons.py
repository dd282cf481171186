"""Starting the processes of ours that outlive the server: with neither site nor the package around them, so quickly."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from .events import JsonObject

_BARE: Final = """import importlib, sys, types
package = sys.modules["jupyter_acp"] = types.ModuleType("jupyter_acp")
package.__path__ = [sys.argv[1]]
importlib.import_module(sys.argv[2]).main(*sys.argv[3:])"""
_LIBRARIES: Final = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


class NotStarted(Exception):
    """There is no such process now; the text says why."""


async def launch(module: str, *arguments: str, specification: JsonObject, env: Mapping[str, str]) -> JsonObject:
    """Run `main(*arguments)` of a module, which reads its specification on stdin, becomes a daemon, and reports.

    Returns its report, a JSON object that has no `error`. Raises NotStarted with the error, or with what it said on
    stderr instead. `env` is its environment, with what a Python may need to find its own libraries. Cancelling it ends
    nothing, and waits for the report too: the caller can look for the daemon then.
    """
    launching = asyncio.ensure_future(_launch(module, arguments, specification, env))
    try:
        return await asyncio.shield(launching)
    except asyncio.CancelledError:
        await asyncio.gather(launching, return_exceptions=True)
        raise


async def _launch(
    module: str, arguments: Sequence[str], specification: JsonObject, env: Mapping[str, str]
) -> JsonObject:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", "-E", "-X", "utf8", "-c", _BARE, str(Path(__file__).parent), module),
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**{name: os.environ[name] for name in _LIBRARIES if name in os.environ}, **env},
        start_new_session=True,
    )
    # stderr is closed to us only when the daemon has its own, so this waits for the report
    out, err = await process.communicate(json.dumps(specification).encode())
    try:
        report: JsonObject = json.loads(out)
    except ValueError as exc:
        raise NotStarted(f"a process of jupyter_acp could not start: {err.decode(errors='replace')[-2000:]}") from exc
    if "error" in report:
        raise NotStarted(report["error"])
    return report
