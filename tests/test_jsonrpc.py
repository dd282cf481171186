from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from jupyter_acp.exceptions import AgentError, AgentExited, AgentProtocolError, AgentRequestError
from jupyter_acp.jsonrpc import Connection


class Exit:
    code, signal, stderr_tail = 3, None, "oops"


class Wire:
    """Both the link and the handler: what the agent writes is put in, what it is sent and what was heard comes out."""

    exit = Exit()
    position = 0

    def __init__(self) -> None:
        self.output: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.sent: list[tuple[int, Any]] = []
        self.heard: list[Any] = []
        self.error: AgentError | None = None

    def write(self, *messages: object) -> None:
        self.output.put_nowait(
            b"".join(m if isinstance(m, bytes) else json.dumps(m).encode() + b"\n" for m in messages)
        )

    async def read(self) -> bytes | None:
        return await self.output.get()

    async def send(self, number: int, data: bytes) -> None:
        self.sent.append((number, json.loads(data)))

    def notification(self, method: str, params: Any) -> None:
        self.heard.append((method, params))

    def request(self, id: Any, method: str, params: Any) -> None:
        self.heard.append((id, method, params))

    def bad_line(self, reason: str, excerpt: str) -> None:
        self.heard.append(reason)

    async def drain(self) -> None:
        pass

    def closed(self, error: AgentError) -> None:
        assert self.error is None
        self.error = error


def hear(*messages: object, **limits: int) -> tuple[Wire, Connection]:
    """Let a connection read these and then the agent's end."""

    async def run() -> tuple[Wire, Connection]:
        wire = Wire()
        connection = Connection(wire, wire, **limits)
        for message in messages:
            wire.write(message)
        wire.output.put_nowait(None)
        await asyncio.wait_for(connection.run(), 10)
        return wire, connection

    return asyncio.run(run())


def talk(scene: Callable[[Wire, Connection], Awaitable[None]]) -> Wire:
    async def run() -> Wire:
        wire = Wire()
        connection = Connection(wire, wire)
        reader = asyncio.create_task(connection.run())
        await asyncio.wait_for(scene(wire, connection), 10)
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        return wire

    return asyncio.run(run())


async def settled() -> None:
    """Let everything that can go on without outside help do so."""
    for _ in range(20):
        await asyncio.sleep(0)


OK = {"method": "ok", "params": {}}


@pytest.mark.parametrize(
    "line",
    [
        b"null\n",
        b"123\n",
        b'"hi"\n',
        b"[]\n",
        b"true\n",
        b"{}\n",
        b"Warning: no such thing\n",
        b"\xff\xfe\x00\n",
        b'{"method": "x"',
        b"[" * 100_000 + b"\n",
        b'{"method":"x","params":{"a":' + b"[" * 500 + b"]" * 500 + b"}}\n",
        b'{"method":"x","params":{"a":' + b"9" * 5000 + b"}}\n",
        b'{"method":5,"params":{}}\n',
        b'{"method":"x","params":[1]}\n',
        b'{"id":[],"method":"x"}\n',
        b'{"id":true,"method":"x"}\n',
        b'{"id":1.5,"result":1}\n',
        b'{"id":"never asked","result":1}\n',
        b'{"id":null,"error":{"code":-32700,"message":"?"}}\n',
        b'{"method":"x"}{"method":"y"}\n',
    ],
)
def test_a_line_that_is_no_message_is_reported_and_the_next_one_is_heard(line: bytes) -> None:
    line = line if line.endswith(b"\n") else line + b"\n"
    wire, connection = hear(line, OK)
    assert len(wire.heard) == 2 and isinstance(wire.heard[0], str)
    assert wire.heard[1] == ("ok", {})
    assert isinstance(wire.error, AgentExited)
    assert connection.position == len(line) + len(json.dumps(OK)) + 1


def test_members_of_a_batch_are_dispatched_in_order() -> None:
    wire, _ = hear([OK, {"id": 1, "method": "ask", "params": {}}, 5])
    assert wire.heard == [("ok", {}), (1, "ask", {}), "JSON, but not an object"]


def test_text_keeps_its_emoji_and_loses_its_lone_surrogates() -> None:
    wire, _ = hear(b'{"method":"m","params":{"a":"\\ud83d\\ude00 \\ud83d \\\\ud83d \\ude00","b":NaN}}\n')
    assert wire.heard == [("m", {"a": "\U0001f600 � \\ud83d �", "b": None})]


def test_bytes_that_are_no_utf8_inside_a_message_become_replacement_characters() -> None:
    wire, _ = hear(b'{"method":"m","params":{"a":"\xff"}}\n')
    assert wire.heard == [("m", {"a": "�"})]


def test_meta_stays_where_the_agent_put_it() -> None:
    params = {"sessionId": "a", "_meta": {"sessionId": "b", "update": 1}}
    wire, _ = hear({"method": "session/update", "params": params})
    assert wire.heard == [("session/update", params)]


def test_lines_are_found_however_the_bytes_are_cut() -> None:
    stream = b"".join(json.dumps({"method": "m", "params": {"n": n}}).encode() + b"\r\n\n" for n in range(20))
    for size in (1, 7, 64):
        wire, connection = hear(*(stream[i : i + size] for i in range(0, len(stream), size)))
        assert [params["n"] for _, params in wire.heard] == list(range(20))
        assert connection.position == len(stream)


def test_a_line_above_the_limit_ends_the_connection_and_one_below_does_not() -> None:
    long = b'{"method":"m","params":{"a":"' + b"x" * 5000 + b'"}}\n'
    wire, _ = hear(long[:100], long[100:3000], long[3000:], max_line=6000)
    assert len(wire.heard) == 1 and isinstance(wire.error, AgentExited)
    wire, _ = hear(long[:100], long[100:3000], long[3000:], max_line=4000)
    assert wire.heard == [] and isinstance(wire.error, AgentProtocolError)


def test_a_last_line_without_newline_is_heard() -> None:
    wire, connection = hear(json.dumps(OK).encode())
    assert wire.heard == [("ok", {})] and connection.position == len(json.dumps(OK))


def test_a_request_id_in_use_is_not_asked_again_until_it_was_answered() -> None:
    async def scene(wire: Wire, connection: Connection) -> None:
        ask = {"id": 0, "method": "ask"}
        wire.write(ask, ask)
        await settled()
        await connection.respond(0, None)
        wire.write(ask)
        await settled()

    wire = talk(scene)
    assert wire.heard == [(0, "ask", {}), "a request whose id is in use", (0, "ask", {})]


def test_a_malformed_request_is_refused_so_that_the_agent_does_not_wait() -> None:
    async def scene(wire: Wire, connection: Connection) -> None:
        wire.write({"id": 7, "method": "ask", "params": [1]}, {"id": 1 << 70, "method": "ask"})
        await settled()

    assert [m["error"]["code"] for _, m in talk(scene).sent] == [-32602, -32600]


def test_an_answer_comes_after_all_earlier_lines_and_before_any_later_one() -> None:
    async def scene(wire: Wire, connection: Connection) -> None:
        asking = asyncio.create_task(connection.request("go", {}))
        asking.add_done_callback(lambda task: wire.heard.append(task.result()))
        await asyncio.sleep(0)
        wire.write(OK, {"id": "r1", "result": "answer"}, OK)
        await asking
        await settled()

    heard = talk(scene).heard
    assert heard[0] == ("ok", {}) and set(map(str, heard)) == {"('ok', {})", "answer"}


def test_an_error_a_missing_result_and_silence_are_told_apart() -> None:
    async def scene(wire: Wire, connection: Connection) -> None:
        first, second = (asyncio.create_task(connection.request(name, {})) for name in "ab")
        await settled()
        wire.write({"id": "r1", "error": {"code": -32000, "message": "log in"}}, {"id": "r2"})
        with pytest.raises(AgentRequestError) as caught:
            await first
        assert caught.value.code == -32000 and await second is None
        with pytest.raises(AgentError, match="did not answer"):
            await connection.request("c", {}, timeout=0.01)
        wire.write({"id": "r3", "result": 1})
        await settled()

    wire = talk(scene)
    assert wire.sent[-1][1] == {"jsonrpc": "2.0", "method": "$/cancel_request", "params": {"requestId": "r3"}}
    assert wire.heard == []


def test_messages_leave_in_the_order_of_their_numbers_and_a_skipped_one_holds_up_none() -> None:
    async def scene(wire: Wire, connection: Connection) -> None:
        first, second = connection.reserve(), connection.reserve()
        await connection.notify("third", {})
        await connection.notify("second", {}, number=second)
        assert wire.sent == []
        await connection.skip(first)

    assert [(n, m["method"]) for n, m in talk(scene).sent] == [(2, "second"), (3, "third")]


@pytest.mark.parametrize("answer", [{"result": {"stopReason": "end_turn"}}, {"error": {"code": 1, "message": "no"}}])
def test_an_answer_that_is_held_counts_as_read_only_when_it_was_dealt_with_and_nothing_after_it_before(
    answer: dict[str, Any],
) -> None:
    before, held = json.dumps(OK).encode() + b"\n", json.dumps({"id": "p", **answer}).encode() + b"\n"

    async def scene(wire: Wire, connection: Connection) -> None:
        asked = connection.expect("p", hold=True)
        connection.go_on()  # nothing is held yet
        wire.write(before, held, OK)
        await asyncio.wait([asked])
        wire.write(OK)
        await settled()
        assert connection.position == len(before)
        assert wire.heard == [("ok", {})]
        connection.go_on()
        assert connection.position == len(before + held)
        await settled()
        assert connection.position == len(before + held) + 2 * len(before)
        assert len(wire.heard) == 3
        connection.go_on()
        assert connection.position == len(before + held) + 2 * len(before)

    talk(scene)


def test_when_the_agent_ends_every_pending_request_fails_and_new_ones_do_at_once() -> None:
    async def run() -> None:
        wire = Wire()
        connection = Connection(wire, wire)
        reader = asyncio.create_task(connection.run())
        asking = asyncio.create_task(connection.request("go", {}))
        old = connection.expect("old")
        await asyncio.sleep(0)
        wire.output.put_nowait(None)
        await reader
        for waiting in (asking, old, connection.request("more", {})):
            with pytest.raises(AgentExited) as caught:
                await waiting
            assert caught.value.stderr_tail == "oops"

    asyncio.run(run())


def test_a_fault_of_the_handler_closes_the_connection_instead_of_leaving_it_deaf(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Faulty(Wire):
        def notification(self, method: str, params: Any) -> None:
            raise ZeroDivisionError

    async def run() -> AgentError | None:
        wire = Faulty()
        wire.write(OK)
        await Connection(wire, wire).run()
        return wire.error

    assert "internal error" in str(asyncio.run(run())) and "ZeroDivisionError" in caplog.text
