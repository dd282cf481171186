"""The process of a project's egress proxy. It outlives the coordinator, as agents do: what they ask of a model goes on.

It is started by `link`, which then speaks with it on its control socket: lines of JSON, one controller at a time, a
newer one takes over. Standard library only, without the package around it (`daemons`).

To it: `{"take": {version, ...}}`, what is in force from now on; `{"limit": tokens}`; `{"stop": true}`.
From it: `{"taken": {version}}` in answer to `take`; `{"log": [level, text]}`; `{"left": true}` to a controller
that another one has followed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final

from .. import unixsockets
from ..events import JsonObject
from .providers import Providers
from .proxy import EgressProxy

LOOK: Final = 5.0  # seconds between two looks whether anybody needs us
KEPT_LINES: Final = 1000  # of the log, while nobody listens
LINE: Final = 1 << 20  # bytes, as `link` has it
UNREAD: Final = 1 << 20  # bytes that a controller has not read: it is let go

_logger = logging.getLogger("jupyter_acp.egress")


class EgressProcess:
    """A proxy and who controls it.

    Parameters
    ----------
    specification
        `{version, socket, control, usage_file, project, root, providers, limit, idle_timeout}`: see `EgressProxy`;
        `providers` as they are configured; `idle_timeout` in seconds without a controller and a request, after which
        it ends.
    """

    def __init__(self, specification: JsonObject) -> None:
        self._version = specification["version"]
        self._idle_timeout = float(specification["idle_timeout"])
        self._control = Path(specification["control"])
        self._proxy = EgressProxy(
            Path(specification["socket"]),
            Providers.load(specification["providers"]),
            Path(specification["usage_file"]),
            project=specification["project"],
            root=Path(specification["root"]),
            limit=specification["limit"],
        )
        self._identity: tuple[int, int] | None = None
        self._server: asyncio.Server | None = None
        self._controller: asyncio.StreamWriter | None = None
        self._left = time.monotonic()
        self._unheard: deque[bytes] = deque(maxlen=KEPT_LINES)
        self._stop = asyncio.Event()
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen, for agents and for a controller. OSError."""
        await self._proxy.start()
        listener = unixsockets.listen(self._control, mode=0o600)
        facts = self._control.stat()
        self._identity = facts.st_dev, facts.st_ino
        self._server = await asyncio.start_unix_server(self._connected, sock=listener, limit=LINE)

    def stop(self) -> None:
        """Have `run` return."""
        self._stop.set()

    async def run(self) -> None:
        """Return once it is told to stop, or nobody needs it any more."""
        while not self._stop.is_set() and self._is_needed():
            with suppress(TimeoutError):
                async with asyncio.timeout(min(LOOK, self._idle_timeout)):
                    await self._stop.wait()
        if self._server is not None:
            self._server.close()
        await self._proxy.stop()
        if self._is_there():
            self._control.unlink(missing_ok=True)
        if self._controller is not None:  # its lines until now
            self._controller.close()
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(1):
                    await self._controller.wait_closed()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def log(self, level: int, text: str) -> None:
        """Tell the controller, this one or the next."""
        line = json.dumps({"log": [level, text]}).encode() + b"\n"
        writer = self._controller
        if writer is not None and writer.transport.get_write_buffer_size() > UNREAD:
            writer.transport.abort()
            self._leave(writer)
            writer = None
        if writer is None:
            self._unheard.append(line)
        else:
            writer.write(line)

    def _is_there(self) -> bool:
        """Whether who looks for us finds us: a newer process may be in our place, or all of it removed."""
        try:
            facts = self._control.stat()
        except OSError:
            return False
        return (facts.st_dev, facts.st_ino) == self._identity

    def _is_needed(self) -> bool:
        quiet = self._proxy.quiet_since
        if quiet is None or (self._controller is not None and self._is_there()):
            return True
        return self._is_there() and time.monotonic() - max(quiet, self._left) < self._idle_timeout

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer), name="egress controller")
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                self._told(json.loads(line), writer)
        except (OSError, ValueError):
            pass  # a controller of another kind, or one that was killed in the middle of a line
        finally:
            self._leave(writer)
            writer.close()

    def _told(self, message: JsonObject, writer: asyncio.StreamWriter) -> None:
        if "stop" in message:
            self.stop()
        elif "limit" in message:
            self._proxy.limit = message["limit"]
        elif "take" in message:
            taken = message["take"]
            writer.write(json.dumps({"taken": {"version": self._version}}).encode() + b"\n")
            if taken["version"] != self._version:
                return
            if self._controller is not None:
                self._controller.write(b'{"left": true}\n')
                self._controller.close()
            self._controller = writer
            self._proxy.providers = Providers.load(taken["providers"])
            self._proxy.root = Path(taken["root"])
            self._proxy.limit = taken["limit"]
            self._idle_timeout = float(taken["idle_timeout"])
            writer.writelines(self._unheard)
            self._unheard.clear()

    def _leave(self, writer: asyncio.StreamWriter) -> None:
        if self._controller is writer:
            self._controller = None
            self._left = time.monotonic()


class _ToController(logging.Handler):
    def __init__(self, process: EgressProcess) -> None:
        super().__init__()
        self._process = process

    def emit(self, record: logging.LogRecord) -> None:
        self._process.log(record.levelno, self.format(record))


async def _live(specification: JsonObject) -> None:
    """From the report on stdout to the end."""
    process = EgressProcess(specification)
    _logger.setLevel(logging.INFO)
    _logger.addHandler(_ToController(process))
    try:
        await process.start()
    except OSError as exc:
        os.write(1, json.dumps({"error": str(exc)}).encode())
        return
    os.write(1, json.dumps({"pid": os.getpid()}).encode())
    _silence(0, 1, 2)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, process.stop)
    await process.run()


def _silence(*descriptors: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in descriptors:
        os.dup2(null, descriptor)


def main() -> None:
    """Become a daemon that no terminal and no server takes along, and be the proxy that stdin specifies."""
    specification = json.loads(sys.stdin.buffer.read())
    os.chdir("/")
    os.umask(0o077)
    if os.fork():
        os._exit(0)
    os.setsid()
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    asyncio.run(_live(specification))
