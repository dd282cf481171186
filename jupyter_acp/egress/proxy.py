"""The egress proxy of a project: its container calls model providers through it, and has none of the keys.

It listens on a unix socket that only this project gets. What `rules` admits goes to the provider's URL with the
key added; nothing else goes anywhere. One request per connection, both ways as a stream: what the provider says is
passed on as it comes, and a reader that is slow holds it back. Who goes away takes the other side along, so that Stop
ends the model's work.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import ssl
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Final

from .. import unixsockets
from ..events import JsonObject
from ..exceptions import KeyUnusable
from .http import (
    LARGEST_HEAD,
    PIECE,
    Framing,
    Head,
    Header,
    MessageError,
    chunk,
    head_bytes,
    read_body,
    read_request,
    read_response,
    response_framing,
)
from .providers import Provider, Providers
from .rules import Outgoing, Refused, admit, check_size
from .tokens import TokenReader
from .upstream import UpstreamError, connect
from .usage import UsageFile

log = logging.getLogger(__name__)

AT_ONCE: Final = 64  # requests of a project
HEAD_TIMEOUT: Final = 30.0  # seconds until a request has said what it wants
STALLED: Final = 600.0  # seconds in which a client takes or gives nothing
SILENCE: Final = 1800.0  # seconds in which a provider says nothing: models think long
LINGER: Final = 2.0  # seconds for who still sends what was refused

_NOT_FOR_CLIENTS = re.compile(r"set-cookie2?|alt-svc|proxy-.*")


class EgressProxy:
    """The proxy of one project.

    Parameters
    ----------
    socket
        Where it listens. Everybody may connect who can reach it, so its folder is this project's alone.
    providers
        Whom it calls.
    usage_file
        Where the tokens used are counted.
    project
        Id of the project, for the log.
    root
        The project's folder, which keys must not be in.
    limit
        Tokens that the project may use in a day (UTC); 0: no limit. Can be changed at any time.
    """

    def __init__(
        self, socket: Path, providers: Providers, usage_file: Path, *, project: str, root: Path, limit: int = 0
    ) -> None:
        self.limit = limit
        self.project = project
        self.root = root
        self.providers = providers
        self.used = UsageFile(usage_file)
        self.tls: ssl.SSLContext
        self.folder = socket.parent
        self._path = socket
        self._identity: tuple[int, int] | None = None
        self._starting = asyncio.Lock()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._quiet_since = time.monotonic()

    @property
    def quiet_since(self) -> float | None:
        """When the last request ended (`time.monotonic`); None while one is under way."""
        return None if self._tasks else self._quiet_since

    async def start(self) -> None:
        """Listen. Idempotent. A socket that is there is replaced: whoever's it was, this project is ours now.

        OSError.
        """
        async with self._starting:
            if self._server is not None:
                return
            self.tls = await asyncio.to_thread(ssl.create_default_context)
            if not self.folder.is_dir():
                self.folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                self.folder.mkdir(exist_ok=True)
                self.folder.chmod(0o755)  # the container's account is another one, as for the socket
            listener = unixsockets.listen(self._path, mode=0o666, backlog=AT_ONCE)
            facts = self._path.stat()
            self._identity = facts.st_dev, facts.st_ino
            self._server = await asyncio.start_unix_server(
                self._connected, sock=listener, limit=LARGEST_HEAD, start_serving=False
            )
            await self._server.start_serving()

    async def stop(self) -> None:
        """End what is under way, and listen no more."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await server.wait_closed()
        with suppress(OSError):
            facts = self._path.stat()
            if (facts.st_dev, facts.st_ino) == self._identity:  # not that of who came after us
                self._path.unlink()

    def usage(self) -> JsonObject:
        """What people are shown: `{tokens_today, token_limit}`."""
        return {"tokens_today": self.used.today(), "token_limit": self.limit}

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # not even told why where there are so many: file descriptors are for all projects
        if self._server is None or len(self._tasks) >= 2 * AT_ONCE:
            writer.transport.abort()
            return
        exchange = _Exchange(self, reader, writer, busy=len(self._tasks) >= AT_ONCE)
        task = asyncio.create_task(exchange.run(), name=f"egress of {self.project}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._quiet_since = time.monotonic()


class _Gone(Exception):
    """The client has closed its connection, or takes nothing more of it."""


class _BrokenOff(Exception):
    """The provider has, in the middle of its answer."""


class _Exchange:
    """One connection: a request, its answer, and a line in the log."""

    def __init__(
        self, proxy: EgressProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, busy: bool
    ) -> None:
        self._proxy = proxy
        self._reader = reader
        self._writer = writer
        self._busy = busy
        self._asked = "-"
        self._status = 0
        self._sent = 0
        self._received = 0
        self._tokens = 0
        writer.transport.set_write_buffer_limits(high=0)  # what is not taken is not fetched either

    async def run(self) -> None:
        """All of it. Whatever comes of it, the connection is closed."""
        started = time.monotonic()
        end = "interrupted"
        try:
            end = await self._serve()
        except Refused as exc:
            end = exc.type
            await self._refuse(exc)
        except _Gone:
            end = "client gone"
        except _BrokenOff:
            end = "provider broke off"
        except Exception:  # of this request: the project's others go on
            log.exception("project=%s %s", self._proxy.project, self._asked)
        finally:
            self._writer.transport.abort() if end else self._writer.close()
            self._proxy.used.add(self._tokens)
            log.info(
                "project=%s %s %s sent=%d received=%d ms=%.0f tokens=%d%s",
                self._proxy.project,
                self._asked,
                self._status or "-",
                self._sent,
                self._received,
                (time.monotonic() - started) * 1000,
                self._tokens,
                f" ({end})" if end else "",
            )

    async def _serve(self) -> str:
        if self._busy:
            raise Refused(503, "busy", f"This project makes {AT_ONCE} requests to models already; try again later.")
        try:
            async with asyncio.timeout(HEAD_TIMEOUT):
                head = await read_request(self._reader)
            if head is None:
                raise _Gone
            request = self._admit(head)
        except TimeoutError as exc:
            raise Refused(408, "timeout", "The request did not come in time.") from exc
        except MessageError as exc:
            raise Refused(exc.status, "invalid_request", str(exc)) from exc
        except (OSError, asyncio.IncompleteReadError) as exc:
            raise _Gone from exc
        credential = self._credential(request.provider)
        if head.all("expect"):
            await self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            answer, upstream = await connect(request.provider, self._proxy.tls)
        except UpstreamError as exc:
            raise self._unreachable(request, exc, exc.status) from exc
        try:
            upstream.transport.set_write_buffer_limits(high=0)
            await self._relay(request, credential, answer, upstream)
        finally:
            upstream.transport.abort()
        return ""

    def _admit(self, head: Head) -> Outgoing:
        """What is asked for, if it may be. Refused, MessageError."""
        method, target, _ = head.start
        self._asked = f"{method} {target.partition('?')[0][:200]}"
        request = admit(head, self._proxy.providers)
        used, limit = self._proxy.used.today(), self._proxy.limit
        if 0 < limit <= used:
            raise Refused(
                429,
                "token_limit",
                f"This project has used {used} tokens of models today. Its limit is {limit} a day, from 0:00 UTC on.",
            )
        return request

    def _credential(self, provider: Provider) -> Header:
        try:
            return provider.credential(self._proxy.root)
        except KeyUnusable as exc:
            log.error("project=%s provider=%s %s", self._proxy.project, provider.id, exc)
            message = f"The key for '{provider.id}' cannot be used; the server's log says why."
            raise Refused(503, "key_unusable", message) from exc

    async def _relay(
        self, request: Outgoing, credential: Header, answer: asyncio.StreamReader, upstream: asyncio.StreamWriter
    ) -> None:
        sending = asyncio.create_task(self._send(request, credential, upstream), name="egress request")
        receiving = asyncio.create_task(self._receive(request, answer), name="egress answer")
        try:
            await asyncio.wait({sending, receiving}, return_when=asyncio.FIRST_COMPLETED)
            await (receiving if receiving.done() else sending)
        finally:
            for task in (sending, receiving):
                task.cancel()
            await asyncio.gather(sending, receiving, return_exceptions=True)

    async def _send(self, request: Outgoing, credential: Header, upstream: asyncio.StreamWriter) -> None:
        """Pass the request on, then wait until the client is gone; always ends by an exception."""
        length: list[Header] = []
        if request.framing == "chunked":
            length = [("Transfer-Encoding", "chunked")]
        elif request.framing or request.method in ("POST", "PUT", "PATCH"):
            length = [("Content-Length", str(request.framing))]
        own = [
            ("Host", request.provider.authority),
            credential,
            ("Accept-Encoding", "identity"),
            ("Connection", "close"),
        ]
        # a provider that closes early has its reasons, which come with its answer
        with suppress(OSError):
            upstream.write(head_bytes(f"{request.method} {request.target} HTTP/1.1", [*own, *request.headers, *length]))
            async with aclosing(self._body(request.framing)) as pieces:
                async for piece in pieces:
                    upstream.write(chunk(piece) if request.framing == "chunked" else piece)
                    await upstream.drain()
            if request.framing == "chunked":
                upstream.write(chunk(b""))
            await upstream.drain()
        with suppress(OSError):
            while await self._reader.read(PIECE):
                pass  # there is one request per connection: what comes after it is nobody's
        raise _Gone

    async def _body(self, framing: Framing) -> AsyncGenerator[bytes, None]:
        """The request's body. Refused, _Gone."""
        try:
            async with aclosing(_in_time(read_body(self._reader, framing), STALLED)) as pieces:
                async for piece in pieces:
                    self._sent += len(piece)
                    check_size(self._sent)
                    yield piece
        except MessageError as exc:
            raise Refused(exc.status, "invalid_request", str(exc)) from exc
        except TimeoutError as exc:
            raise Refused(408, "timeout", "The body of the request did not come in time.") from exc
        except (OSError, asyncio.IncompleteReadError) as exc:
            raise _Gone from exc

    async def _receive(self, request: Outgoing, upstream: asyncio.StreamReader) -> None:
        """Pass the answer on. Counts its tokens, also where it does not come to its end."""
        tokens = TokenReader()
        whole = False
        try:
            async with asyncio.timeout(SILENCE):
                head = await read_response(upstream)
            framing = response_framing(head, request.method)
        except TimeoutError as exc:
            raise self._unreachable(request, exc, 504) from exc
        except (OSError, MessageError, asyncio.IncompleteReadError) as exc:
            raise self._unreachable(request, exc, 502) from exc
        except asyncio.CancelledError:
            if request.method == "POST":  # it may think about it already
                self._tokens = tokens.estimate(self._sent)
            raise
        try:
            await self._answer(request, head, framing, upstream, tokens)
            whole = True
        finally:
            if request.method == "POST" and head.start[1][0] == "2":
                self._tokens = self._cost(head, tokens, whole)

    def _cost(self, head: Head, tokens: TokenReader, whole: bool) -> int:
        """What the answer has said, or about that where it did not, or not yet."""
        stream = any(value.startswith("text/event-stream") for value in head.all("content-type"))
        if whole and (tokens.tokens is not None or not (stream or head.all("content-encoding"))):
            return tokens.tokens or 0
        return max(tokens.tokens or 0, tokens.estimate(self._sent))

    async def _answer(
        self, request: Outgoing, head: Head, framing: Framing, upstream: asyncio.StreamReader, tokens: TokenReader
    ) -> None:
        _, status, reason = head.start
        headers = [(name, value) for name, value in head.passed_on() if not _NOT_FOR_CLIENTS.fullmatch(name.lower())]
        if isinstance(framing, str):
            headers.append(("Transfer-Encoding", "chunked"))
        elif request.method != "HEAD" and status not in ("204", "304"):
            headers.append(("Content-Length", str(framing)))
        self._status = int(status)
        start = f"HTTP/1.1 {status} {reason if reason.isprintable() else ''}"
        await self._write(head_bytes(start, [*headers, ("Connection", "close")]))
        try:
            async with aclosing(_in_time(read_body(upstream, framing), SILENCE)) as pieces:
                async for piece in pieces:
                    tokens.feed(piece)
                    self._received += len(piece)
                    await self._write(chunk(piece) if isinstance(framing, str) else piece)
        except (OSError, MessageError, asyncio.IncompleteReadError) as exc:
            raise _BrokenOff from exc
        if isinstance(framing, str):
            await self._write(chunk(b""))

    async def _write(self, data: bytes) -> None:
        """Returns once the client's side has taken it. _Gone."""
        self._writer.write(data)
        try:
            async with asyncio.timeout(STALLED):
                await self._writer.drain()
        except OSError as exc:  # or it takes nothing for all that time
            raise _Gone from exc

    async def _refuse(self, refused: Refused) -> None:
        if self._status:
            return  # half an answer is out: it breaks off
        self._status = refused.status
        body = json.dumps({"error": {"message": str(refused), "type": refused.type}}).encode()
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ]
        if refused.status < 500:
            headers.append(("x-should-retry", "false"))  # the clients of OpenAI and Anthropic would, after a 429
        with suppress(_Gone, OSError):  # a TimeoutError is one
            start = f"HTTP/1.1 {refused.status} {HTTPStatus(refused.status).phrase}"
            await self._write(head_bytes(start, headers) + body)
            # to close on who still sends would have the answer thrown away
            self._writer.write_eof()
            async with asyncio.timeout(LINGER):
                while await self._reader.read(PIECE):
                    pass

    def _unreachable(self, request: Outgoing, exc: Exception, status: int) -> Refused:
        log.warning("project=%s provider=%s cannot be reached: %s", self._proxy.project, request.provider.id, exc)
        type = "provider_timeout" if status == 504 else "provider_unreachable"
        return Refused(status, type, f"The model provider '{request.provider.id}' cannot be reached: {exc}.")


async def _in_time(pieces: AsyncGenerator[bytes, None], seconds: float) -> AsyncGenerator[bytes, None]:
    """The same pieces; TimeoutError where the next one does not come in time."""
    while True:
        try:
            async with asyncio.timeout(seconds):
                piece = await anext(pieces)
        except StopAsyncIteration:
            return
        yield piece
