"""podman, by its command line. The only module that knows it.

Nothing is ever pulled, and nothing that podman says of a container is kept: who needs to know asks again.
https://docs.podman.io/en/latest/Commands.html
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from jupyter_acp.events import JsonObject
from jupyter_acp.exceptions import ExecutorError

LABEL = "jupyter-acp"
"""Of every container of ours: its value is the coordinator's that made it."""

CALL = 60.0  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A container, as podman described it a moment ago."""

    id: str
    name: str
    running: bool
    status: str
    image: str
    labels: Mapping[str, str]


class Podman:
    """The podman of this account."""

    def __init__(self, program: str = "podman") -> None:
        self._program = program

    async def call(self, *arguments: str, timeout: float = CALL, errors_too: bool = False) -> str:
        """What it prints, with `errors_too` all of it. ExecutorError with its words where it fails, or is not there."""
        try:
            process = await asyncio.create_subprocess_exec(
                self._program,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT if errors_too else asyncio.subprocess.PIPE,
            )
        except OSError as exc:
            raise ExecutorError(f"podman cannot be run: {exc.strerror}") from exc
        communicating = asyncio.ensure_future(process.communicate())
        try:
            async with asyncio.timeout(timeout):
                out, err = await asyncio.shield(communicating)
        except TimeoutError as exc:
            raise ExecutorError(f"podman {arguments[0]} did not end within {timeout:g} s") from exc
        finally:
            if not communicating.done():
                with suppress(ProcessLookupError):
                    process.kill()
                await asyncio.gather(communicating, return_exceptions=True)
        if process.returncode:
            words = (err or out).decode(errors="replace").strip()[-1000:]
            raise ExecutorError(f"podman {arguments[0]}: {words or f'status {process.returncode}'}")
        return out.decode(errors="replace")

    async def inspect(self, name: str) -> Found | None:
        """A container by name or id; None where there is none."""
        if not await self._exists("container", name):
            return None
        with suppress(ValueError, LookupError):
            [told] = json.loads(await self.call("container", "inspect", name))
            return Found(
                id=told["Id"],
                name=told["Name"],
                running=bool(told["State"]["Running"]),
                status=_status(told["State"]),
                image=told["Image"],
                labels=told["Config"]["Labels"] or {},
            )
        return None

    async def image(self, name: str) -> str:
        """The id of a local image. ExecutorError where there is none."""
        if not await self._exists("image", name):
            raise ExecutorError(f"there is no image {name} here; containers/build.sh builds one")
        return (await self.call("image", "inspect", "--format", "{{.Id}}", name)).strip()

    async def named(self, label: str, value: str | None = None) -> list[str]:
        """The names of all containers with a label, and if given with this value, running or not."""
        wanted = label if value is None else f"{label}={value}"
        return (await self.call("ps", "--all", "--filter", f"label={wanted}", "--format", "{{.Names}}")).split()

    async def create(self, *options: str, image: str, command: tuple[str, ...]) -> tuple[str, int]:
        """Make one with its mounts: its id, and a process that waits in it. Nothing else runs until `start`."""
        id = (await self.call("create", "--pull=never", *options, image, *command)).strip()
        await self.call("init", id)
        return id, int(await self.call("container", "inspect", "--format", "{{.State.Pid}}", id))

    async def start(self, id: str) -> None:
        """Have the command of a container that was created run."""
        await self.call("start", id)

    async def remove(self, name: str) -> None:
        """End a container at once, and remove it with all that is of it. Idempotent."""
        await self.call("rm", "--force", "--ignore", "--time", "0", "--volumes", name)

    async def logs(self, name: str, lines: int = 200) -> str:
        """The end of what a container has printed."""
        return await self.call("logs", "--tail", str(lines), name, errors_too=True)

    async def _exists(self, kind: str, name: str) -> bool:
        try:
            await self.call(kind, "exists", name)
        except ExecutorError as exc:
            if str(exc) == f"podman {kind}: status 1":
                return False
            raise
        return True


def _status(state: JsonObject) -> str:
    """For a person."""
    if state.get("Running"):
        return "running"
    if state.get("OOMKilled"):
        return "ended for want of memory"
    return f"{state.get('Status', 'gone')} with status {state.get('ExitCode', '?')}"
