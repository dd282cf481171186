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
    pid: int
    running: bool
    status: str
    image: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """A container in which nothing runs yet.

    Attributes
    ----------
    id
        Podman's.
    pid
        A process that waits in there.
    warning
        What podman could not do of what it was asked for, in its words; "" where it did all of it.
    """

    id: str
    pid: int
    warning: str


class Podman:
    """The podman of this account."""

    def __init__(self, program: str = "podman") -> None:
        self._program = program

    async def call(self, *arguments: str, timeout: float = CALL, errors_too: bool = False) -> str:
        """What it prints, with `errors_too` all of it. ExecutorError with its words where it fails, or is not there."""
        status, out, err = await self._ended(*arguments, timeout=timeout, errors_too=errors_too)
        if status:
            raise _failed(arguments, status, out, err)
        return out

    async def _ended(self, *arguments: str, timeout: float = CALL, errors_too: bool = False) -> tuple[int, str, str]:
        """Its status and what it has printed, errors apart unless `errors_too`. ExecutorError where it cannot run."""
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
        assert process.returncode is not None
        return process.returncode, out.decode(errors="replace"), (err or b"").decode(errors="replace")

    async def inspect(self, name: str) -> Found | None:
        """A container by name or id; None where there is none."""
        if not await self._exists("container", name):
            return None
        with suppress(ValueError, LookupError):
            [told] = json.loads(await self.call("container", "inspect", name))
            return Found(
                id=told["Id"],
                name=told["Name"],
                pid=told["State"]["Pid"],
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

    async def named(self, *labels: str) -> list[str]:
        """The names of all containers with each of these labels (`name`, or `name=value`), running or not."""
        filters = [word for label in labels for word in ("--filter", f"label={label}")]
        return (await self.call("ps", "--all", *filters, "--format", "{{.Names}}")).split()

    async def create(self, *options: str, image: str, command: tuple[str, ...]) -> Created:
        """Make a container with its mounts; nothing runs before `start`."""
        arguments = ("create", "--pull=never", *options, image, *command)
        status, out, err = await self._ended(*arguments)
        if status:
            raise _failed(arguments, status, out, err)
        id = out.strip()
        await self.call("init", id)
        pid = int(await self.call("container", "inspect", "--format", "{{.State.Pid}}", id))
        return Created(id=id, pid=pid, warning=err.strip()[-1000:])

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
        arguments = (kind, "exists", name)
        status, out, err = await self._ended(*arguments)
        # whatever else it says: an ordinary user's podman may warn of something in the first call after a boot
        if status not in (0, 1):
            raise _failed(arguments, status, out, err)
        return status == 0


def _failed(arguments: tuple[str, ...], status: int, out: str, err: str) -> ExecutorError:
    return ExecutorError(f"podman {arguments[0]}: {(err or out).strip()[-1000:] or f'status {status}'}")


def _status(state: JsonObject) -> str:
    """For a person."""
    if state.get("Running"):
        return "running"
    if state.get("OOMKilled"):
        return "ended for want of memory"
    return f"{state.get('Status', 'gone')} with status {state.get('ExitCode', '?')}"
