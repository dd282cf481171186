"""The coordinator's hold on the egress proxy of a project, which is a process of its own (`process`)."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jupyter_acp import __version__

from .. import daemons, unixsockets
from ..events import JsonObject
from ..exceptions import ExecutorError
from .providers import Providers
from .usage import UsageFile

log = logging.getLogger("jupyter_acp.egress")

ANSWER: Final = 5.0  # seconds for a process to answer, or to end
SHORTEST: Final = 1.0  # seconds until a process that has died is started once more
LONGEST: Final = 60.0
CONTROL: Final = "egress-control.sock"
_LINE: Final = 1 << 20  # bytes, as `process` has it
_STOP: Final = b'{"stop": true}\n'


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressSettings:
    """What is the same for the proxies of all projects.

    `environment` is what the process has of the server's. `idle_timeout`: seconds without a coordinator and a request,
    after which the process ends.
    """

    providers: Providers
    environment: Mapping[str, str]
    idle_timeout: float = 86400.0


class EgressLink:
    """The proxy of one project, which is there from `start` to `stop`, and in between also where this process is not.

    Parameters
    ----------
    folder
        Where its sockets are; the attribute of that name is the one in it that the project's containers are given.
    usage_file
        Where the tokens used are counted.
    project, root, limit
        See `EgressProxy`.
    """

    def __init__(
        self, folder: Path, settings: EgressSettings, usage_file: Path, *, project: str, root: Path, limit: int = 0
    ) -> None:
        self.folder = folder / "e"
        self.providers = settings.providers
        self._control = folder / CONTROL
        self._settings = settings
        self._usage = UsageFile(usage_file)
        self._usage_file = usage_file
        self._project = project
        self._root = root
        self._limit = limit
        self._one = asyncio.Lock()
        self._writer: asyncio.StreamWriter | None = None
        self._pid = 0
        self._following: asyncio.Task[None] | None = None
        self._again: asyncio.Task[None] | None = None

    def usage(self) -> JsonObject:
        """What people are shown: `{tokens_today, token_limit}`."""
        return {"tokens_today": self._usage.today(), "token_limit": self._limit}

    def set_limit(self, tokens: int) -> None:
        """From now on; see `EgressProxy`."""
        self._limit = tokens
        if self._writer is not None:
            self._writer.write(json.dumps({"limit": tokens}).encode() + b"\n")

    async def start(self) -> None:
        """Have the proxy listen: the one that does already, or a new one. Idempotent. ExecutorError."""
        async with self._one:
            if self._writer is None:
                await self._begin()

    async def stop(self) -> None:
        """End it, an earlier coordinator's too, and what is under way in it. Idempotent."""
        await self._give_up_starting()
        async with self._one:
            writer, following = self._writer, self._following
            self._writer = self._following = None
            if writer is None or following is None:
                await end(self._control)
                return
            writer.write(_STOP)
            done, _ = await asyncio.wait([following], timeout=ANSWER)
            if not done:
                _kill(self._pid)
            await _hang_up(writer, following)

    async def let_go(self) -> None:
        """It goes on without us; the next coordinator takes it. Idempotent."""
        await self._give_up_starting()
        async with self._one:
            writer, following = self._writer, self._following
            self._writer = self._following = None
            if writer is not None and following is not None:
                await _hang_up(writer, following)

    async def _begin(self) -> None:
        try:
            if not await self._take():
                await self._launch()
                if not await self._take():
                    raise daemons.NotStarted("its process ended at once")
        except (OSError, daemons.NotStarted) as exc:
            raise ExecutorError(f"the way to model providers cannot be opened: {exc}") from exc

    async def _take(self) -> bool:
        """Become the controller of a process that is there; False where there is none that will do."""
        try:
            reader, writer, pid = await _connect(self._control)
        except OSError:
            return False
        try:
            async with asyncio.timeout(ANSWER):
                writer.write(json.dumps({"take": self._terms()}).encode() + b"\n")
                taken = json.loads(await reader.readline())["taken"]
                if taken["version"] == __version__:
                    self._writer, self._pid = writer, pid
                    self._following = asyncio.create_task(self._follow(reader, writer), name="egress log")
                    return True
                writer.write(_STOP)
                await reader.read()
        except (OSError, TimeoutError, ValueError):
            _kill(pid)  # it hangs, or has just died
        finally:
            if self._writer is not writer:
                writer.transport.abort()
        return False

    async def _launch(self) -> None:
        """Start the process; the next `_take` finds it, and so does `end`."""
        self._control.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        specification = {
            **self._terms(),
            "socket": str((self.folder / "egress.sock").absolute()),
            "control": str(self._control.absolute()),
            "usage_file": str(self._usage_file.absolute()),
            "project": self._project,
        }
        await daemons.launch("jupyter_acp.egress.process", specification=specification, env=self._settings.environment)

    def _terms(self) -> JsonObject:
        return {
            "version": __version__,
            "providers": self._settings.providers.configured,
            "root": str(self._root),
            "limit": self._limit,
            "idle_timeout": self._settings.idle_timeout,
        }

    async def _follow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass its log on, until it ends, or somebody else has taken it."""
        taken = False
        try:
            while line := await reader.readline():
                said = json.loads(line)
                if "log" in said:
                    level, text = said["log"]
                    log.log(level, "%s", text)
                taken = taken or "left" in said
        except (OSError, ValueError):
            pass
        if self._writer is not writer:
            return  # as we wanted
        writer.transport.abort()
        self._writer = self._following = None
        if taken:
            log.warning("project=%s another server has taken its way to model providers", self._project)
        else:
            log.warning("project=%s its way to model providers has died; it is opened again", self._project)
            self._again = asyncio.create_task(self._open_again(), name="egress again")

    async def _open_again(self) -> None:
        delay = SHORTEST
        while True:
            try:
                return await self.start()
            except ExecutorError as exc:
                log.error("project=%s %s", self._project, exc)
            await asyncio.sleep(delay)
            delay = min(2 * delay, LONGEST)

    async def _give_up_starting(self) -> None:
        again, self._again = self._again, None
        if again is not None:
            again.cancel()
            await asyncio.gather(again, return_exceptions=True)


async def end(control: Path) -> None:
    """End the process whose control socket this is, and return once it has ended. None there: nothing is done."""
    try:
        reader, writer, pid = await _connect(control)
    except OSError:
        return
    try:
        async with asyncio.timeout(ANSWER):
            writer.write(_STOP)
            await reader.read()
    except (OSError, TimeoutError):
        _kill(pid)
    finally:
        writer.transport.abort()


async def _connect(control: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, int]:
    """A connection, and the number of the process at its other end; 0 where the system does not say it. OSError."""
    sock = await unixsockets.connect(control)
    pid = 0
    if hasattr(socket, "SO_PEERCRED"):
        pid, _, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    reader, writer = await asyncio.open_unix_connection(sock=sock, limit=_LINE)
    return reader, writer, pid


async def _hang_up(writer: asyncio.StreamWriter, following: asyncio.Task[None]) -> None:
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    writer.close()


def _kill(pid: int) -> None:
    if pid > 0:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
