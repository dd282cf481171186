"""A provider of models, a project's egress proxy and its callers, each on sockets of their own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_acp import unixsockets
from jupyter_acp.egress.link import EgressLink, EgressSettings
from jupyter_acp.egress.providers import Providers
from jupyter_acp.egress.proxy import EgressProxy

KEY = "sk-planted-0123456789"


@dataclass
class Seen:
    """A request as the provider got it."""

    start: str
    headers: dict[str, list[str]]
    body: bytearray = field(default_factory=bytearray)
    reader: asyncio.StreamReader = field(default_factory=asyncio.StreamReader, repr=False)

    async def gone(self) -> None:
        """Return once whoever asked has closed the connection."""
        async with asyncio.timeout(10):
            with suppress(ConnectionError):
                assert await self.reader.read() == b""


Answer = Callable[[Seen, asyncio.StreamWriter], Awaitable[None]]


def says(body: object, *, status: str = "200 OK", kind: str = "application/json", more: str = "") -> Answer:
    """An answer that is there at once."""

    async def answer(request: Seen, writer: asyncio.StreamWriter) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{more}Content-Length: {len(data)}\r\n\r\n"
        writer.write(head.encode() + data)
        await writer.drain()

    return answer


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def event(data: object) -> bytes:
    """A chunk with one event of a stream."""
    text = b"data: %b\n\n" % json.dumps(data).encode()
    return b"%x\r\n%b\r\n" % (len(text), text)


class Upstream:
    """A provider, who answers every request in the way of `answer`."""

    def __init__(self) -> None:
        self.answer: Answer = says({"ok": True})
        self.seen: list[Seen] = []
        self._server: asyncio.Server
        self._open: set[asyncio.Task[None]] = set()

    async def start(self, **options: Any) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=1 << 20, **options)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        await self._server.wait_closed()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers: dict[str, list[str]] = {}
            for line in head[1:-2]:
                name, _, value = line.partition(": ")
                headers.setdefault(name.lower(), []).append(value)
            self.seen.append(request := Seen(head[0], headers, reader=reader))
            if "transfer-encoding" in headers:
                while size := int(await reader.readline(), 16):
                    request.body += (await reader.readexactly(size + 2))[:-2]
                await reader.readline()
            else:
                request.body += await reader.readexactly(int(headers.get("content-length", ["0"])[0]))
            await self.answer(request, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()


class Caller:
    """One connection to the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.head = ""

    async def read_head(self) -> int:
        """The status of the answer, once its head is there."""
        self.head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        return int(self.head.split(" ")[1])

    async def read_chunk(self) -> bytes:
        """The next chunk, b"" for the end. IncompleteReadError where it breaks off."""
        line = await self.reader.readuntil(b"\r\n")
        return (await self.reader.readexactly(int(line, 16) + 2))[:-2]

    async def read_body(self) -> bytes:
        """All of it, by its length or its chunks."""
        if "transfer-encoding: chunked" not in self.head.lower():
            return await self.reader.read()
        pieces = []
        while piece := await self.read_chunk():
            pieces.append(piece)
        assert await self.reader.read() == b""
        return b"".join(pieces)


@dataclass
class World:
    """What a test has."""

    upstream: Upstream
    proxy: EgressProxy
    socket: Path
    key_file: Path
    usage_file: Path
    root: Path

    def link(self, folder: Path, *, idle_timeout: float = 600.0, limit: int = 0, **environment: str) -> EgressLink:
        """A proxy of its own, in a process of its own; whoever starts it stops it."""
        settings = EgressSettings(providers=self.proxy.providers, environment=environment, idle_timeout=idle_timeout)
        return EgressLink(folder, settings, self.usage_file, project="p1", root=self.root, limit=limit)

    @asynccontextmanager
    async def call(self, request: bytes) -> AsyncGenerator[Caller, None]:
        """A connection on which that is said."""
        reader, writer = await asyncio.open_unix_connection(sock=await unixsockets.connect(self.socket))
        try:
            writer.write(request)
            async with asyncio.timeout(30):
                yield Caller(reader, writer)
        finally:
            writer.transport.abort()

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of an answer."""
        async with self.call(request) as caller:
            return await caller.read_head(), await caller.read_body()

    async def refused(self, request: bytes) -> tuple[int, str]:
        """Status and type of a refusal; the provider has heard nothing of it."""
        before = len(self.upstream.seen)
        status, body = await self.ask(request)
        error = json.loads(body)["error"]
        assert set(error) == {"message", "type"} and error["message"].endswith(".") and KEY not in body.decode()
        assert len(self.upstream.seen) == before
        return status, error["type"]


def post(path: str, body: bytes = b"{}", *headers: str) -> bytes:
    """A request as an agent sends it."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1:4141", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


@asynccontextmanager
async def world(tmp_path: Path, **entry: object) -> AsyncGenerator[World, None]:
    """A provider `openai` at `/v1`, and the proxy of the project `p1` that leads to it."""
    upstream = Upstream()
    await upstream.start()
    key_file = tmp_path / "key"
    key_file.touch(0o600)
    key_file.write_text(f"{KEY}\n")
    (root := tmp_path / "project").mkdir(exist_ok=True)
    configured = {"url": f"http://127.0.0.1:{upstream.port}/v1", "key_file": str(key_file), **entry}
    providers = Providers.load({"openai": configured})
    assert providers.problems == []
    socket = tmp_path / "egress" / "egress.sock"
    usage_file = tmp_path / "state" / "usage.json"
    proxy = EgressProxy(socket, providers, usage_file, project="p1", root=root)
    await proxy.start()
    try:
        yield World(upstream, proxy, socket, key_file, usage_file, root)
    finally:
        await proxy.stop()
        await upstream.stop()
