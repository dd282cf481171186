"""JSON-RPC 2.0 in newline-delimited JSON, over one link. Not here: what the methods mean (agent.py, the handler).

Its one rule: the agent's lines are dispatched synchronously, in the order they were written, and no line may end the
connection except one that is too long. https://agentclientprotocol.com/protocol/transports
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Mapping
from typing import Protocol, TypeAlias

from .events import JsonObject, encode
from .exceptions import AgentError, AgentExited, AgentProtocolError, AgentRequestError

log = logging.getLogger(__name__)

RequestId: TypeAlias = str | int

INVALID_REQUEST, INVALID_PARAMS, INTERNAL_ERROR, REQUEST_CANCELLED = -32600, -32602, -32603, -32800
MAX_LINE = 64 << 20

_EXCERPT = 400
_DEPTH = 200
_TURN_SECONDS = 0.002
_TURN_LINES = 32
_FLOOD_SECONDS = 0.02
"""An agent that has kept us busy for so long without a pause is a flood: it gets half of the time, the rest is for
Stop and for everybody else's requests. Its pipe holds it back meanwhile."""
"""How long lines are dispatched before the event loop gets its turn, looked at after so many of them: a request to the
server takes about ten turns of the loop, and waits so long in each."""

_scan = json.JSONDecoder(strict=False, parse_constant=lambda _: None).scan_once  # type: ignore[attr-defined]  # typeshed leaves it out
_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<lone>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)"
)


class Exit(Protocol):
    """How an agent ended (runner_link.AgentExit)."""

    @property
    def code(self) -> int | None: ...
    @property
    def signal(self) -> int | None: ...
    @property
    def stderr_tail(self) -> str: ...


class Link(Protocol):
    """What carries the bytes: a RunnerLink."""

    @property
    def position(self) -> int: ...
    @property
    def exit(self) -> Exit | None: ...
    async def read(self) -> bytes | None: ...
    async def send(self, number: int, data: bytes) -> None: ...


class Handler(Protocol):
    """Who is told what the agent says. All but `drain` are synchronous; `connection.position` is where they stand."""

    def notification(self, method: str, params: JsonObject) -> None: ...

    def request(self, id: RequestId, method: str, params: JsonObject) -> None:
        """Answered later by `respond` or `respond_error`."""

    def bad_line(self, reason: str, excerpt: str) -> None:
        """Something that is no message; it was skipped."""

    async def drain(self) -> None:
        """Waits while the handler has too much in hand; the agent's pipe fills meanwhile."""

    def closed(self, error: AgentError) -> None:
        """Once, after every pending request has failed with `error`."""


class Connection:
    """One agent's connection.

    Attributes
    ----------
    position
        Offset in the agent's output of the end of the last line that was dispatched whole. A held answer is not yet.
    number
        The highest message number given out so far.
    """

    def __init__(self, link: Link, handler: Handler, *, next_number: int = 1, max_line: int = MAX_LINE) -> None:
        self._link = link
        self._handler = handler
        self._max_line = max_line
        self.position = link.position
        self.number = next_number - 1
        self._first = self._to_send = next_number
        self._outbox: dict[int, bytes] = {}
        self._sending = asyncio.Lock()
        self._pending: dict[RequestId, tuple[str, asyncio.Future[object], bool]] = {}
        self._held: asyncio.Event | None = None
        self._beyond = 0
        self._given_up: set[RequestId] = set()
        self._asked: set[RequestId] = set()
        self._refusals: set[asyncio.Task[None]] = set()
        self._error: AgentError | None = None
        self._busy_since = time.monotonic()

    # --- to the agent ------------------------------------------------------------------------------------------------

    def reserve(self) -> int:
        """The number of a message that is recorded first and sent then. What is not sent after all is `skip`ped."""
        self.number += 1
        return self.number

    async def skip(self, number: int) -> None:
        """Give a reserved number up: messages with higher ones wait for it no longer."""
        await self._hand_over(number, b"")

    async def request(
        self,
        method: str,
        params: Mapping[str, object],
        *,
        id: str | None = None,
        number: int | None = None,
        timeout: float | None = None,
        hold: bool = False,
    ) -> object:
        """Ask, and return the result. AgentRequestError where the agent answers with an error, AgentError otherwise.

        `id` defaults to one that no other message of this agent has. After `timeout` seconds the agent is told by
        `$/cancel_request` and AgentError is raised. `hold`: see `expect`.
        """
        number = self.reserve() if number is None else number
        id = f"r{number}" if id is None else id
        future = self.expect(id, method, hold=hold)
        try:
            async with asyncio.timeout(timeout):
                await self._send(number, {"id": id, "method": method, "params": params})
                return await future
        except TimeoutError as exc:
            self._given_up.add(id)
            await self.cancel_request(id)
            raise AgentError(f"the agent did not answer {method} within {timeout:g} s") from exc
        finally:
            if not future.done():
                # its answer may still come, and is nobody's
                self._given_up.add(id)
            self._pending.pop(id, None)

    def expect(self, id: str, method: str = "session/prompt", *, hold: bool = False) -> asyncio.Future[object]:
        """The answer to a request that is or was sent with `id`, maybe by an earlier coordinator.

        With `hold` it does not count as read, and nothing after it is, until `go_on`: where we die before what comes of
        it is recorded, the next coordinator reads it again.
        """
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        if self._error is not None:
            _fail(future, self._error)
        elif id in self._pending:
            raise ValueError(f"a request with the id {id!r} is pending already")
        else:
            self._given_up.discard(id)
            self._pending[id] = (method, future, hold)
        return future

    def go_on(self) -> None:
        """An answer that is held counts as read from now on. Idempotent, and nothing where none is held."""
        held, self._held = self._held, None
        if held is not None:
            self.position += self._beyond
            held.set()

    async def notify(self, method: str, params: Mapping[str, object], *, number: int | None = None) -> None:
        """Tell the agent something."""
        await self._send(number, {"method": method, "params": params})

    async def cancel_request(self, id: RequestId) -> None:
        """Ask the agent to end one of our requests early; its answer is still due.

        https://agentclientprotocol.com/protocol/cancellation
        """
        await self.notify("$/cancel_request", {"requestId": id})

    async def respond(self, id: RequestId, result: object, *, number: int | None = None) -> None:
        """Answer a request of the agent."""
        self._asked.discard(id)
        await self._send(number, {"id": id, "result": result})

    async def respond_error(self, id: RequestId, code: int, message: str, *, number: int | None = None) -> None:
        """Refuse a request of the agent."""
        self._asked.discard(id)
        await self._send(number, {"id": id, "error": {"code": code, "message": message}})

    async def _send(self, number: int | None, message: JsonObject) -> None:
        data = encode({"jsonrpc": "2.0", **message}).encode() + b"\n"
        await self._hand_over(self.reserve() if number is None else number, data)

    async def _hand_over(self, number: int, data: bytes) -> None:
        """Send in the order of numbers: the runner takes none that is not above the last.

        One whose turn has not come is left to whoever sends the missing one.
        """
        if self._error is not None:
            raise self._error
        again = number < self._first
        if not again:
            self._outbox[number] = data
        async with self._sending:
            if again and data:
                await self._link.send(number, data)
            while (following := self._outbox.pop(self._to_send, None)) is not None:
                self._to_send += 1
                if following:
                    await self._link.send(self._to_send - 1, following)

    # --- from the agent ----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Read until the connection ends; whoever owns this task may cancel it to let go of the agent."""
        error = AgentError("the connection to the agent was closed")
        told = True
        try:
            await self._read()
            left = self._link.exit
            error = AgentExited(left.code, left.signal, left.stderr_tail) if left else AgentExited(None, None, "")
        except AgentError as exc:
            error = exc
        except asyncio.CancelledError:
            told = False
            raise
        except Exception as exc:
            log.exception("the agent's connection ends: its reader failed at offset %d", self.position)
            error = AgentError(f"internal error while reading from the agent: {exc!r}")
        finally:
            self._close(error)
            if told:
                self._handler.closed(error)

    def _close(self, error: AgentError) -> None:
        self._error = error
        pending, self._pending = self._pending, {}
        for _, future, _ in pending.values():
            if not future.done():
                _fail(future, error)
        for task in self._refusals:
            task.cancel()

    async def _read(self) -> None:
        begun: list[bytes] = []
        size = 0
        while True:
            asked = time.monotonic()
            if (chunk := await self._link.read()) is None:
                break
            if (now := time.monotonic()) - asked > _TURN_SECONDS:
                self._busy_since = now
            lines = chunk.split(b"\n")
            size += len(lines[0])
            if size > self._max_line:
                raise AgentProtocolError(f"the agent wrote a line of more than {self._max_line:,} bytes")
            if len(lines) == 1:
                begun.append(chunk)
            else:
                begun.append(lines[0])
                lines[0] = b"".join(begun) if len(begun) > 1 else begun[0]
                rest = lines.pop()
                begun, size = ([rest], len(rest)) if rest else ([], 0)
                if size > self._max_line:
                    raise AgentProtocolError(f"the agent wrote a line of more than {self._max_line:,} bytes")
                await self._dispatch(lines)
            await self._handler.drain()
        if begun:
            self.position -= 1  # the last line has no newline
            await self._dispatch([b"".join(begun)])

    async def _dispatch(self, lines: list[bytes]) -> None:
        notification, scan = self._handler.notification, _scan
        turn_ends = time.monotonic() + _TURN_SECONDS
        for count, line in enumerate(lines, 1):
            try:
                text = line.decode()
                if b"\\u" in line:
                    text = _without_lone_surrogates(text)
                message, end = scan(text, 0)
                # many brackets are no fault; deep ones are, since what is written out later would recurse as deeply
                plain = end == len(text) and (end < _DEPTH or text.count("{") + text.count("[") < _DEPTH)
            except (ValueError, StopIteration, RecursionError):
                plain = False
            answers, held = False, None
            if plain and type(message) is dict and "id" not in message and type(message.get("params")) is dict:
                method = message.get("method")
                if type(method) is str:
                    notification(method, message["params"])
                else:
                    self._bad("a message without a method", line)
            elif line and not line.isspace():
                # what was said before is on its way to people before anything else is done
                await self._handler.drain()
                answers = self._odd(line)
                held = self._held
            if held is not None:
                self._beyond = len(line) + 1
                await held.wait()
                continue
            self.position += len(line) + 1
            if answers:
                # whoever waits for this answer goes on before the lines that follow it are handled
                await asyncio.sleep(0)
            elif count % _TURN_LINES == 0 and time.monotonic() >= turn_ends:
                now = time.monotonic()
                await asyncio.sleep(_TURN_SECONDS if now - self._busy_since > _FLOOD_SECONDS else 0)
                turn_ends = time.monotonic() + _TURN_SECONDS

    def _odd(self, line: bytes) -> bool:
        """All but plain notifications. Whether an answer was among it."""
        text = line.decode(errors="replace").strip()
        if "\\u" in text:
            text = _without_lone_surrogates(text)
        try:
            message, end = _scan(text, 0)
        except RecursionError:
            self._bad("JSON that is nested too deeply", line)
            return False
        except (ValueError, StopIteration):
            self._bad("not JSON", line)
            return False
        if end != len(text):
            self._bad("more than one JSON value", line)
        elif _too_deep(message):
            self._bad("JSON that is nested too deeply", line)
        elif type(message) is list and message:
            answers = [self._message(member, line) for member in message]
            return any(answers)
        else:
            return self._message(message, line)
        return False

    def _message(self, message: object, line: bytes) -> bool:
        """Tell which kind of message it is, as tolerantly as sense allows. Whether it was an answer."""
        if not isinstance(message, dict):
            self._bad("JSON, but not an object", line)
        elif "method" in message:
            self._call(message, line)
        elif "id" not in message:
            self._bad("a message without a method", line)
        else:
            return self._answer(message, line)
        return False

    def _call(self, message: JsonObject, line: bytes) -> None:
        # `id: null` is how some serialisers write a notification
        id, method, params = message.get("id"), message["method"], message.get("params")
        if params is None:
            params = {}
        if id is not None and type(id) not in (str, int):
            self._bad("a request whose id is neither text nor a whole number", line)
        elif type(method) is not str or type(params) is not dict:
            self._bad("a call whose method is no text or whose params are no object", line)
            if id is not None:
                self._refuse(id, INVALID_PARAMS if type(method) is str else INVALID_REQUEST, "malformed call")
        elif id is None:
            self._handler.notification(method, params)
        elif id in self._asked:
            # one answer will do for both: they cannot be told apart
            self._bad("a request whose id is in use", line)
        elif type(id) is int and not -(1 << 63) <= id < 1 << 63:
            self._bad("a request whose id is out of range", line)
            self._refuse(id, INVALID_REQUEST, "id out of range")
        else:
            self._asked.add(id)
            self._handler.request(id, method, params)

    def _answer(self, message: JsonObject, line: bytes) -> bool:
        id, error = message["id"], message.get("error")
        waiting = self._pending.pop(id, None) if type(id) in (str, int) else None
        if waiting is None:
            if type(id) in (str, int) and id in self._given_up:
                self._given_up.discard(id)
            else:
                self._bad("an answer to nothing that was asked", line)
            return False
        method, future, hold = waiting
        if future.done():
            return False
        if hold:
            self._held = asyncio.Event()
        if error is None:
            # JavaScript leaves an undefined result out: that is null
            future.set_result(message.get("result"))
        else:
            _fail(future, _request_error(method, error))
        return True

    def _bad(self, reason: str, line: bytes) -> None:
        self._handler.bad_line(reason, line[:_EXCERPT].decode(errors="replace"))

    def _refuse(self, id: RequestId, code: int, message: str) -> None:
        task = asyncio.create_task(self.respond_error(id, code, message), name="acp-refusal")
        self._refusals.add(task)
        task.add_done_callback(self._refused)

    def _refused(self, task: asyncio.Task[None]) -> None:
        self._refusals.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            log.info("a malformed request could not be refused: %s", exc)


def _fail(future: asyncio.Future[object], error: AgentError) -> None:
    future.set_exception(error)
    future.exception()  # read once, so that one nobody waits for any more is not logged as forgotten


def _request_error(method: str, error: object) -> AgentRequestError:
    if not isinstance(error, dict):
        return AgentRequestError(method, INTERNAL_ERROR, str(error))
    code, message = error.get("code"), error.get("message")
    return AgentRequestError(
        method,
        code if type(code) is int else INTERNAL_ERROR,
        message if isinstance(message, str) else encode(message),
        error.get("data"),
    )


def _without_lone_surrogates(text: str) -> str:
    return _ESCAPE.sub(_paired, text) if "\\ud" in text or "\\uD" in text else text


def _paired(escape: re.Match[str]) -> str:
    return "\\ufffd" if escape["lone"] else escape[0]


def _too_deep(value: object) -> bool:
    level, depth = [value], 0
    while level and depth < _DEPTH:
        depth += 1
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent if isinstance(parent, list) else ())
            if isinstance(child, dict | list)
        ]
    return bool(level)
