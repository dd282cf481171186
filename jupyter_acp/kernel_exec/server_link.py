"""The way to a project's server: HTTP and one WebSocket per command, by TCP or by a unix socket.

Whoever uses a project could put something else in its server's place. So the token is sent only after `peer` has agreed
to the process at the other end, what comes from there is bounded, and no redirection is followed.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote, urlencode, urlsplit

from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.httputil import HTTPHeaders
from tornado.iostream import IOStream
from tornado.netutil import Resolver
from tornado.simple_httpclient import SimpleAsyncHTTPClient
from tornado.tcpclient import TCPClient
from tornado.websocket import WebSocketClientConnection, WebSocketClosedError

from jupyter_acp.events import JsonObject
from jupyter_acp.exceptions import ExecutorError, PathOutside
from jupyter_acp.kernel_exec.base import FileMissing

ROUTE = "api/acp/project-side"
REASONS: dict[str, type[ExecutorError]] = {
    "file_missing": FileMissing,
    "path_outside": PathOutside,
    "failed": ExecutorError,
}
"""What went wrong over there, by the name that it has on the way; the most exact first."""

CONNECT = 5.0  # seconds
CALL = 60.0
MAX_WORDS = 2000
_PING = 60.0  # a connection that is gone without a word is given up after twice that
_RETRY = 0.05
_MAX_BODY = 64 << 20
_MAX_FRAME = 4 << 20

Peer: TypeAlias = Callable[[socket.socket], None]
"""Raises ExecutorError where a connected socket leads to somebody who must not have the token."""


class Unreachable(ExecutorError):
    """The project's server does not answer, or not any more."""


class ServerLink:
    """One project's server.

    Parameters
    ----------
    url
        The server's base URL.
    token
        Its token, or the file that it is in, which is read for each call.
    unix_socket
        The unix socket that it listens on; `url` then only gives the base path.
    peer
        Asked about each connection before anything is sent over it.
    version
        The version of our extension that must be there; None: any.
    """

    def __init__(
        self,
        url: str,
        token: str | Path,
        *,
        unix_socket: str | None = None,
        peer: Peer = lambda sock: None,
        version: str | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc or "@" in parts.netloc:
            raise ValueError("the URL of a project's server is http(s)://host/..., without a password")
        if parts.query or parts.fragment:
            raise ValueError("the URL of a project's server has no query: the token is given apart")
        self.url, self.unix_socket = url.rstrip("/"), unix_socket
        self._secure = "s" if parts.scheme == "https" else ""
        # a unix socket has no host, and Jupyter Server takes requests for unknown names to be attacks
        self._base = f"://{'localhost' if unix_socket else parts.netloc}{parts.path.rstrip('/')}/{ROUTE}"
        self._token = token
        self._version = version
        self._peer = peer
        self._client: SimpleAsyncHTTPClient | None = None
        self._closing: set[asyncio.Future[Any]] = set()

    @property
    def place(self) -> str:
        """Where the server is, for a person."""
        return self.unix_socket or self.url

    async def greet(self, timeout: float | None = None) -> None:
        """Return where a project can be asked for things. Unreachable, or ExecutorError where that makes no sense."""
        body = await self.fetch("GET", "", {}, timeout=timeout)
        try:
            version = json_object(body)["version"]
        except (KeyError, ValueError) as exc:
            raise ExecutorError(f"{self.place}: that is no project's server") from exc
        if self._version not in (None, version):
            raise ExecutorError(
                f"the project has jupyter_acp {str(version)[:40]} and this server {self._version}: "
                "build the project's image again"
            )

    async def wait(self, timeout: float) -> None:
        """As `greet`; waits for a server that does not answer yet. One that refuses is not asked again."""
        reason: Exception = self.unreachable(TimeoutError("it does not answer"))
        try:
            async with asyncio.timeout(timeout):
                while True:
                    try:
                        return await self.greet()
                    except Unreachable as exc:
                        reason = exc
                    await asyncio.sleep(_RETRY)
        except TimeoutError as exc:
            raise Unreachable(f"{reason} (waited {timeout:g} s)") from exc

    async def fetch(
        self,
        method: str,
        path: str,
        query: Mapping[str, bytes] | None = None,
        body: bytes | None = None,
        timeout: float | None = None,
    ) -> bytes:
        """The body of the answer. Unreachable; else ExecutorError, of the kind that the answer names."""
        request = self._request("http", path + ("?" + urlencode(query, quote_via=quote) if query else ""))
        request.method, request.request_timeout = method, timeout or CALL
        request.body = body  # type: ignore[assignment]  # a property, which takes None as well
        if self._client is None:
            self._client = SimpleAsyncHTTPClient(
                force_instance=True, max_clients=100, max_body_size=_MAX_BODY, max_buffer_size=_MAX_BODY
            )
            self._client.tcp_client = self._door()
        answering = self._client.fetch(request, raise_error=False)
        try:
            response = await asyncio.shield(answering)
        except asyncio.CancelledError:
            answering.add_done_callback(hear)  # tornado would log as an error that nobody waits for it
            raise
        except ExecutorError:
            raise
        except (HTTPClientError, OSError, ValueError) as exc:
            raise self.unreachable(exc) from exc
        if response.code >= 300:
            raise self._refused(response.code, response.body)
        return response.body

    async def connect(self, path: str) -> WebSocketClientConnection:
        """A WebSocket. As `fetch`."""
        # the end of a unix socket is always told
        ping = None if self.unix_socket else _PING
        # as tornado's websocket_connect does, which knows no door
        connecting = _Connection(self._door(), self._request("ws", path), ping).connect_future
        try:
            return await asyncio.shield(connecting)
        except asyncio.CancelledError:
            self._closing.add(connecting)
            connecting.add_done_callback(self._closing.discard)
            connecting.add_done_callback(_hang_up_later)
            raise
        except HTTPClientError as exc:
            raise (self.unreachable(exc) if exc.code == 599 else self._refused(exc.code, b"")) from exc
        except (OSError, ValueError, WebSocketClosedError) as exc:
            raise self.unreachable(exc) from exc

    async def close(self) -> None:
        """Let go. It may be used again. Idempotent."""
        if self._closing:
            await asyncio.wait(self._closing, timeout=CONNECT)
        if self._client is not None:
            self._client.close()
            self._client = None

    def unreachable(self, exc: Exception) -> Unreachable:
        """The error that says so."""
        return Unreachable(f"{self.place}: the project's server cannot be reached: {exc}")

    def _door(self) -> _Door:
        return _Door(self._peer, resolver=UnixResolver(self.unix_socket) if self.unix_socket else None)

    def _request(self, scheme: str, path: str) -> HTTPRequest:
        return HTTPRequest(
            f"{scheme}{self._secure}{self._base}{path}",
            headers=HTTPHeaders({"Authorization": f"token {self._read_token()}"}),
            connect_timeout=CONNECT,
            request_timeout=CALL,
            follow_redirects=False,  # the token is for nobody else
            decompress_response=False,
            validate_cert=True,
        )

    def _read_token(self) -> str:
        try:
            token = self._token if isinstance(self._token, str) else self._token.read_text("ascii").strip()
        except (OSError, ValueError) as exc:
            raise ExecutorError(f"{self.place}: its token cannot be read: {exc}") from exc
        if not token.isascii() or not token.isprintable():
            raise ExecutorError(f"{self.place}: its token has characters that no token has")
        return token

    def _refused(self, status: int, body: bytes) -> ExecutorError:
        with suppress(ValueError):
            told = json_object(body)
            if str(told.get("reason")) in REASONS:
                return error_from(told)
        if status in (401, 403):
            return ExecutorError(f"{self.place}: the project's server refuses our token")
        if status == 404:
            return ExecutorError(f"{self.place}: this server serves no project (AcpExtension.serve_project)")
        if status in (502, 503, 504):
            return Unreachable(f"{self.place}: the project's server cannot be reached: status {status}")
        return ExecutorError(f"{self.place}: the project's server answered with status {status}")


class UnixResolver(Resolver):
    """Leads every name to one unix socket."""

    def initialize(self, path: str) -> None:
        self._path = path

    async def resolve(self, host: str, port: int, family: int = socket.AF_UNSPEC) -> list[tuple[int, Any]]:
        """The one address that there is."""
        return [(socket.AF_UNIX, self._path)]


class _Door(TCPClient):
    """Connects, and asks about the other end before anybody sends anything."""

    def __init__(self, peer: Peer, *, resolver: Resolver | None) -> None:
        super().__init__(resolver=resolver)
        self._peer = peer

    async def connect(self, *args: Any, **kwargs: Any) -> IOStream:
        """As TCPClient's."""
        stream = await super().connect(*args, **kwargs)
        try:
            self._peer(stream.socket)
        except BaseException:
            stream.close()
            raise
        return stream


class _Connection(WebSocketClientConnection):
    """A WebSocket through a door."""

    def __init__(self, door: _Door, request: HTTPRequest, ping: float | None) -> None:
        self._door = door
        super().__init__(request, ping_interval=ping, ping_timeout=ping, max_message_size=_MAX_FRAME)

    async def run(self) -> None:
        """Of tornado's connections to servers: connect, send the request."""
        self.tcp_client.close()
        self.tcp_client = self._door
        await super().run()


def error_to(exc: ExecutorError) -> JsonObject:
    """An error as it goes over the wire."""
    reason = next(name for name, kind in REASONS.items() if isinstance(exc, kind))
    return {"message": str(exc), "reason": reason}


def error_from(told: object) -> ExecutorError:
    """The error that came over the wire; a TypeError where that is none."""
    if not isinstance(told, dict):
        raise TypeError("an error is an object")
    return REASONS.get(str(told.get("reason")), ExecutorError)(str(told.get("message"))[:MAX_WORDS])


def json_object(text: str | bytes) -> JsonObject:
    """A JSON object; ValueError for anything else."""
    try:
        told = json.loads(text)
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc
    if not isinstance(told, dict):
        raise ValueError("not an object")
    return told


def hear(sent: asyncio.Future[Any]) -> None:
    """Take note of an error, which somebody else is told."""
    if not sent.cancelled():
        sent.exception()


def hang_up(connected: WebSocketClientConnection) -> None:
    """End a WebSocket at once."""
    protocol = connected.protocol
    connected.close()
    # tornado would keep the descriptor until the other side closes its end
    if protocol is not None and protocol.stream is not None:
        protocol.stream.close()


def _hang_up_later(connecting: asyncio.Future[WebSocketClientConnection]) -> None:
    if not connecting.cancelled() and connecting.exception() is None:
        hang_up(connecting.result())
