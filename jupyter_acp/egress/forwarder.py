"""Inside a project's container: a port of its loopback leads to the egress proxy, for agents know no unix sockets.

It moves bytes and knows nothing of them.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

HOST: Final = "127.0.0.1"

_PIECE: Final = 64 << 10  # bytes that are moved at once
_AT_ONCE: Final = 128  # connections; the project's server has more to do with its file descriptors
_LINGER: Final = 10.0  # seconds for an agent that still sends after the proxy has said all


class Forwarder:
    """Listens on a port of the loopback (0: any, `port` says which) and connects each caller to a unix socket."""

    def __init__(self, port: int, socket_path: Path) -> None:
        self.port = port
        self._path = socket_path
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. OSError where the port is taken."""
        self._server = await asyncio.start_server(self._connected, HOST, self.port, limit=_PIECE, start_serving=False)
        self.port = self._server.sockets[0].getsockname()[1]
        await self._server.start_serving()

    async def stop(self) -> None:
        """Cut every connection, and listen no more."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await server.wait_closed()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None or len(self._tasks) >= _AT_ONCE:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._forward(reader, writer), name="egress forwarder")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answers, proxy = await asyncio.open_unix_connection(self._path, limit=_PIECE)
        except OSError as exc:
            log.warning("egress: the proxy to the model providers is not there: %s: %s", self._path, exc)
            writer.transport.abort()
            return
        there = asyncio.create_task(_pump(reader, proxy), name="egress request")
        back = asyncio.create_task(_pump(answers, writer), name="egress answer")
        try:
            await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
            if back.done():
                await asyncio.wait({there}, timeout=_LINGER)
            elif there.exception() is None:
                # the agent has closed its side: the proxy knows, and does what it thinks right
                await asyncio.wait({back})
        finally:
            for task in (there, back):
                task.cancel()
            await asyncio.gather(there, back, return_exceptions=True)
            proxy.transport.abort()
            writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Move what comes until it ends, no faster than it is taken, then say that it has ended."""
    writer.transport.set_write_buffer_limits(high=0)
    while piece := await reader.read(_PIECE):
        writer.write(piece)
        await writer.drain()
    with suppress(OSError):
        writer.write_eof()
