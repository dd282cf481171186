"""The way to kernels of a Jupyter server or a kernel gateway: HTTP, one WebSocket per kernel, and messages on it.

How messages are packed is jupyter_client's and jupyter_server's. (The latter's own gateway client is one per process,
configured for a server that keeps all its kernels elsewhere, and knows no unix sockets.)
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

from jupyter_client.session import msg_header
from jupyter_server.services.kernels.connection.base import (
    deserialize_binary_message,
    deserialize_msg_from_ws_v1,
    serialize_binary_message,
    serialize_msg_to_ws_v1,
)
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.netutil import Resolver
from tornado.simple_httpclient import SimpleAsyncHTTPClient
from tornado.websocket import WebSocketClientConnection, websocket_connect

from jupyter_acp.events import JsonObject
from jupyter_acp.exceptions import ExecutorError

Channel: TypeAlias = Literal["shell", "control", "stdin", "iopub"]

START = 60.0  # seconds for a kernel to start and answer
_V1 = "v1.kernel.websocket.jupyter.org"
_LARGEST = 256 << 20  # bytes of one message: a rich output may be large


class KernelGone(ExecutorError):
    """The kernel has died, was restarted or shut down, or its server cannot be reached any more."""


class ConnectionLost(ExecutorError):
    """The connection broke off before the reply came; there is, or will be, another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelServer:
    """A Jupyter server or kernel gateway.

    `token` is its token, or the file that it is in, which is read for each request; `sock` the path of its unix socket,
    if it listens on one: `url` then only gives the base path.
    """

    url: str
    token: str | Path = field(default="", repr=False)
    sock: str | None = None

    async def call(self, method: str, path: str, body: JsonObject | None = None) -> Any:
        """The JSON that `path` below the server's URL answers. KernelGone for 404, else ExecutorError."""
        client = SimpleAsyncHTTPClient(force_instance=True, resolver=self._resolver())
        try:
            request = self._request("http", path, method=method)
            if method == "POST":
                request.body = json.dumps(body or {}).encode()
            response = await client.fetch(request, raise_error=False)
        except (OSError, HTTPClientError) as exc:  # the latter where it does not answer in time
            raise ExecutorError(f"{self.url} cannot be reached: {exc}") from exc
        finally:
            client.close()
        if response.code == 404:
            raise KernelGone(f"{self.url} has no {path}")
        if response.code >= 300:
            raise ExecutorError(f"{self.url} refuses {method} {path}: {response.code} {_message(response.body)}")
        return json.loads(response.body) if response.body else None

    async def connect(self, path: str) -> WebSocketClientConnection:
        """A WebSocket, which speaks the newer protocol where both sides know it."""
        connecting = asyncio.ensure_future(
            websocket_connect(
                self._request("ws", path),
                subprotocols=[_V1],
                resolver=self._resolver(),
                max_message_size=_LARGEST,
                ping_interval=20,  # a link that is dead but not closed is noticed
            )
        )
        try:
            connection = await asyncio.shield(connecting)
        except asyncio.CancelledError:
            connecting.add_done_callback(_let_go)
            raise
        if self.sock is None and connection.protocol is not None:
            connection.protocol.set_nodelay(True)
        return connection

    def _resolver(self) -> Resolver | None:
        return _UnixResolver(self.sock) if self.sock else None

    def _request(self, scheme: str, path: str, method: str = "GET") -> HTTPRequest:
        parts = urlsplit(self.url)
        secure = "s" if parts.scheme == "https" else ""
        # a unix socket has no host, and Jupyter Server takes requests for unknown names to be attacks
        host = "localhost" if self.sock else parts.netloc
        try:
            token = self.token if isinstance(self.token, str) else self.token.read_text().strip()
        except OSError as exc:
            raise ExecutorError(f"the token of {self.url} cannot be read: {exc.strerror}") from exc
        return HTTPRequest(
            f"{scheme}{secure}://{host}{parts.path.rstrip('/')}/{path}",
            method=method,
            headers={"Authorization": f"token {token}"} if token else {},
            connect_timeout=START,
            request_timeout=START,
            follow_redirects=False,  # to a login page: the token was refused
        )


@dataclass(frozen=True, slots=True)
class Message:
    """A kernel message; `parent` is the id of the request that it belongs to, or empty."""

    channel: str
    type: str
    session: str
    parent: str
    content: JsonObject
    buffers: list[bytes]


def header(identity: str, type: str, session: str) -> JsonObject:
    """The header of a message of ours."""
    made = msg_header(identity, type, "", session)
    return {**made, "date": made["date"].isoformat()}


def pack(
    socket_: WebSocketClientConnection,
    channel: Channel,
    header: JsonObject,
    content: JsonObject,
    buffers: Sequence[bytes],
) -> bytes:
    """A message as the connection's protocol has it."""
    if socket_.selected_subprotocol == _V1:
        parts = [json.dumps(part).encode() for part in (header, {}, {}, content)]
        return bytes(serialize_msg_to_ws_v1([*parts, *buffers], channel))  # type: ignore[no-untyped-call]
    message = {"channel": channel, "header": header, "parent_header": {}, "metadata": {}, "content": content}
    return bytes(serialize_binary_message({**message, "buffers": list(buffers)}))  # type: ignore[no-untyped-call]


def unpack(socket_: WebSocketClientConnection, raw: str | bytes) -> Message:
    """What came, as a message."""
    if isinstance(raw, bytes) and socket_.selected_subprotocol == _V1:
        channel, parts = deserialize_msg_from_ws_v1(raw)  # type: ignore[no-untyped-call]
        header, parent, _metadata, content = (json.loads(part) for part in parts[:4])
        buffers = parts[4:]
    else:
        message = json.loads(raw) if isinstance(raw, str) else _binary(raw)
        channel, header, parent, content = (message[k] for k in ("channel", "header", "parent_header", "content"))
        buffers = message.get("buffers", [])
    return Message(
        channel, header["msg_type"], header.get("session", ""), parent.get("msg_id", ""), content, list(buffers)
    )


def _binary(raw: bytes) -> JsonObject:
    return dict(deserialize_binary_message(raw))  # type: ignore[no-untyped-call]


def acknowledge(connection: WebSocketClientConnection) -> None:
    """At once: a Jupyter server has no TCP_NODELAY, and would wait 40 ms with its next message. Holds for one read."""
    protocol = connection.protocol
    if hasattr(socket, "TCP_QUICKACK") and protocol is not None and protocol.stream is not None:
        with suppress(OSError):  # a unix socket
            protocol.stream.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def _let_go(connecting: asyncio.Future[WebSocketClientConnection]) -> None:
    if not connecting.cancelled() and connecting.exception() is None:
        hang_up(connecting.result())


def hang_up(connection: WebSocketClientConnection) -> None:
    """Close it, its descriptor at once."""
    protocol = connection.protocol
    connection.close()
    # tornado would keep the descriptor until the server closes its end, and by then the loop may have stopped
    if protocol is not None and protocol.stream is not None:
        protocol.stream.close()


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return ""


class _UnixResolver(Resolver):
    """Leads every name to one unix socket."""

    def initialize(self, path: str) -> None:
        self._sock = path

    async def resolve(self, host: str, port: int, family: int = socket.AF_UNSPEC) -> list[tuple[int, Any]]:
        """The one address that there is."""
        return [(socket.AF_UNIX, self._sock)]
