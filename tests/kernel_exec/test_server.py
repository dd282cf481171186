"""What is of the server executor alone: its server's life, its token, and what a server or a coordinator may send."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import pytest
from stack.process import TOKEN
from tornado import web
from tornado.httpclient import HTTPRequest
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.websocket import WebSocketClientConnection, WebSocketClosedError, WebSocketHandler, websocket_connect

from jupyter_acp.exceptions import ExecutorError
from jupyter_acp.kernel_exec.base import Exit
from jupyter_acp.kernel_exec.server import WINDOW, ServerExecutor

from . import alive, until
from .conftest import Place, ProjectServer
from .test_contract import Listener, sleeping

LIMITED = 30


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(test(), LIMITED)

    asyncio.run(limited())


@pytest.fixture
def served(tcp_server: ProjectServer) -> Place:
    """A server that other tests use too, its project empty."""
    return Place.behind(tcp_server)


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[ProjectServer]:
    """A server that may be killed."""
    with closing(ProjectServer(tmp_path, unix=False)) as server:
        server.ready()
        yield server


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_that_goes_takes_its_commands_along_and_whoever_asks_is_told(
    mortal: ProjectServer, how: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def test(here: Any) -> None:
        said = Listener()
        command = await here.spawn("sleep 61 & echo $! $$; exec sleep 60", on_output=said.output, on_exit=said.exit)
        await said.says("\n")
        pids = [int(word) for word in said.text.split()]
        waiting = asyncio.ensure_future(command.wait())
        assert mortal.process is not None
        mortal.process.send_signal(how)
        if how == signal.SIGKILL:
            with pytest.raises(ExecutorError, match="lost"):
                await waiting
        else:
            await waiting
        assert said.exits == [Exit(code=None, signal="SIGKILL")] == [command.exit]
        await until(lambda: not any(alive(pid) for pid in pids))
        await asyncio.to_thread(mortal.process.wait)
        assert await here.poll() == 1
        for ask in (
            lambda: here.spawn("true"),
            lambda: here.read_text_file("a"),
            lambda: here.write_text_file("a", ""),
        ):
            with pytest.raises(ExecutorError, match="cannot be reached"):
                await ask()
        with pytest.raises(ExecutorError, match="has ended"):
            await command.write(b"x")
        await command.kill()
        await command.close()

    Place.behind(mortal).run(test)
    assert TOKEN not in caplog.text + mortal.log()


def test_starting_waits_for_a_server_that_does_not_answer_yet_and_says_why_it_gave_up(tmp_path: Path) -> None:
    with closing(ProjectServer(tmp_path, unix=True)) as server:

        async def test() -> None:
            hasty = server.executor(start_timeout=0.2)
            with pytest.raises(ExecutorError, match=r"cannot be reached: .*No such file.* \(waited 0.2 s\)"):
                await hasty.start()
            patient = server.executor()
            starting = asyncio.ensure_future(patient.start())
            server.spawn()
            await starting
            assert await patient.poll() is None
            await patient.stop()
            await hasty.stop()

        run(test)


def test_a_wrong_token_is_an_error_at_once_that_does_not_tell_it(served: Place, tmp_path: Path) -> None:
    async def test(here: Any) -> None:
        for ask in (lambda: here.start(), lambda: here.read_text_file("a"), lambda: here.spawn("true")):
            with pytest.raises(ExecutorError, match="refuses our token") as refused:
                await ask()
            assert "guessed" not in str(refused.value)
        assert await here.poll() == 1

    served.run(test, start=False, token="guessed")
    (tmp_path / "token").write_text("guessed\n")
    served.run(test, start=False, token=tmp_path / "token")


def test_a_token_that_cannot_be_sent_is_an_error(served: Place, tmp_path: Path) -> None:
    (tmp_path / "broken").write_text("a\r\nX-Other: header")

    async def test(here: Any) -> None:
        with pytest.raises(ExecutorError, match="token"):
            await here.start()

    served.run(test, start=False, token=tmp_path / "nothing")
    served.run(test, start=False, token=tmp_path / "broken")


@pytest.mark.parametrize("url", ["ftp://h/", "http://", "http://u:p@h/", "http://h/?token=t", "http://h/#t", "h"])
def test_an_address_that_is_none_or_has_a_secret_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        ServerExecutor(url, "t")


def test_names_that_are_not_text_are_the_files_own(served: Place) -> None:
    name = b"caf\xe9 \x01".decode(errors="surrogateescape")

    async def test(here: Any) -> None:
        await here.write_text_file(name, "x")
        assert await here.read_text_file(name) == "x"
        with pytest.raises(ExecutorError, match="surrogates"):
            await here.read_text_file("\ud800")
        command = await here.spawn(["cat", name], run="pipe")
        await command.wait()
        assert command.output()[0] == "x"

    served.run(test)


def test_fifty_commands_at_once_keep_their_output_apart(served: Place) -> None:
    async def test(here: Any) -> None:
        async def one(number: int) -> None:
            command = await here.spawn(f"for i in 1 2 3; do printf '{number} '; done; exit {number}", run="pipe")
            assert (await command.wait()).code == number
            assert command.output()[0] == f"{number} " * 3

        await asyncio.gather(*(one(number) for number in range(50)))

    served.run(test)


# what a coordinator may send


@asynccontextmanager
async def connected(server: ProjectServer) -> AsyncIterator[WebSocketClientConnection]:
    """A socket for a command, without the executor."""
    url = f"ws://127.0.0.1:{server.port}/api/acp/project-side/commands"
    socket = await websocket_connect(HTTPRequest(url, headers={"Authorization": f"token {TOKEN}"}))
    stream = socket.protocol.stream if socket.protocol else None
    try:
        yield socket
    finally:
        socket.close()
        if stream is not None:
            stream.close()


def asked(command: str | list[str], **changes: Any) -> str:
    request = {"command": command, "run": "pipe", "cwd": None, "env": {}, "sandbox": None, "more": WINDOW}
    return json.dumps(request | changes)


def test_a_coordinator_that_goes_without_a_word_leaves_nothing_behind(served: Place, tcp_server: ProjectServer) -> None:
    async def test() -> None:
        line = "trap '' TERM HUP; setsid sleep 61 & echo $$ > pid; echo ready; while :; do sleep 1; done"
        async with connected(tcp_server) as socket:
            await socket.write_message(asked(line))
            assert await socket.read_message() == '{"started":true}'
            assert await socket.read_message() == b"ready\n"
            assert sleeping(served.root)
        await until(lambda: not sleeping(served.root))

    run(test)


SENSELESS = [
    "",
    "[]",
    "{}",
    "\0",
    "[" * 100_000,
    b"binary",
    asked("true", run="kernel"),
    asked("true", cwd=3),
    asked("true", env=[["A", "b"]]),
    asked("true", env={"A": 1}),
    asked([1]),
    asked("true", sandbox={}),
    asked("true", sandbox=False),
    asked("true", sandbox={"workspace": None}),
    asked("true", sandbox={"workspace": None, "network": "no"}),
    asked("true", sandbox={"workspace": 1, "network": True}),
    asked("true", sandbox={"workspace": None, "network": True, "project": "/"}),
    asked("true", more=-1),
    asked("true", more=1.5),
    asked("true", more=True),
    asked("true", project="other"),
]


@pytest.mark.parametrize("message", SENSELESS, ids=range(len(SENSELESS)))
def test_a_request_that_makes_no_sense_runs_nothing(served: Place, tcp_server: ProjectServer, message: Any) -> None:
    if isinstance(message, str):
        message = message.replace('"true"', '"touch ran"')

    async def test() -> None:
        async with connected(tcp_server) as socket:
            await socket.write_message(message, binary=isinstance(message, bytes))
            assert await socket.read_message() is None
            assert socket.close_code == 1008
        assert not (served.root / "ran").exists()

    run(test)


@pytest.mark.parametrize(
    "message",
    [
        "x",
        b"x",
        "{}",
        '{"more": -1}',
        '{"more": null}',
        '{"call": 1}',
        '{"call": 1, "kill": 0, "write": ""}',
        '{"call": 1, "fly": 1}',
        '{"call": 1, "kill": "soon"}',
        '{"call": 1, "kill": NaN}',
        '{"call": 1, "kill": 1e9}',
        '{"call": 1, "resize": [1, 2, 3]}',
        '{"call": 1, "resize": ["a", 1]}',
        '{"call": 1, "resize": 7}',
        '{"call": 1, "write": "%"}',
        '{"call": 1, "write": 7}',
        asked("true"),
    ],
)
def test_a_frame_that_makes_no_sense_ends_the_command(served: Place, tcp_server: ProjectServer, message: Any) -> None:
    async def test() -> None:
        async with connected(tcp_server) as socket:
            await socket.write_message(asked("echo $$ > pid; echo ready; exec sleep 61", run="terminal"))
            while await socket.read_message() != b"ready\n":
                pass
            await socket.write_message(message, binary=isinstance(message, bytes))
            while await socket.read_message() is not None:
                pass
            assert socket.close_code == 1008
            await until(lambda: not sleeping(served.root))

    run(test)


def test_a_coordinator_that_lets_all_come_and_reads_nothing_holds_the_command_back(
    served: Place, tcp_server: ProjectServer
) -> None:
    def peak() -> int:
        assert tcp_server.process is not None
        status = Path(f"/proc/{tcp_server.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) << 10

    async def test() -> None:
        before = peak()
        async with connected(tcp_server) as socket:
            await socket.write_message(asked("echo $$ > pid; exec cat /dev/zero"))
            for _ in range(400):
                await socket.write_message(json.dumps({"more": 1 << 40}))
                await asyncio.sleep(0.001)
            assert sleeping(served.root)
            assert peak() - before < 16 << 20
        await until(lambda: not sleeping(served.root))

    run(test)


def test_stop_does_not_wait_behind_what_was_typed_or_printed(served: Place) -> None:
    async def test(here: Any) -> None:
        said = Listener()
        command = await here.spawn("echo ready; exec sleep 61", on_output=said.output)
        await said.says("ready")
        typing = asyncio.ensure_future(command.write(b"x" * 1_000_000))
        await asyncio.wait([typing], timeout=0.1)
        assert not typing.done()
        async with asyncio.timeout(20):
            await command.kill(grace=0)
        with pytest.raises(ExecutorError):
            await typing
        assert command.exit == Exit(code=None, signal="SIGKILL")

    served.run(test)


# what a server may send


class Hostile:
    """A server that answers as a test says, and keeps what it was sent."""

    def __init__(self) -> None:
        self.answer: Callable[[web.RequestHandler], None] = lambda handler: None
        self.frames: list[str | bytes] = []
        self.requests: list[str] = []
        self.url = ""


@asynccontextmanager
async def hostile() -> AsyncIterator[Hostile]:
    told = Hostile()

    class Page(web.RequestHandler):
        def prepare(self) -> None:
            told.requests.append(self.request.path)

        def get(self, path: str) -> None:
            told.answer(self)

        put = get

    class Socket(WebSocketHandler):
        async def on_message(self, message: Any) -> None:
            with suppress(WebSocketClosedError):
                for frame in told.frames if message.startswith('{"command"') else ():
                    await self.write_message(frame, binary=isinstance(frame, bytes))

    [listening] = bind_sockets(0, "127.0.0.1")
    server = HTTPServer(web.Application([("/api/acp/project-side/commands", Socket), ("/(.*)", Page)]))
    server.add_socket(listening)
    told.url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
    try:
        yield told
    finally:
        server.stop()
        await server.close_all_connections()


def test_the_token_follows_no_redirection() -> None:
    async def test() -> None:
        async with hostile() as there, hostile() as elsewhere:
            there.answer = lambda handler: handler.redirect(elsewhere.url + "api/acp/project-side")
            executor = ServerExecutor(there.url, TOKEN)
            with pytest.raises(ExecutorError, match="status 302"):
                await executor.start()
            await executor.stop()
            assert there.requests and not elsewhere.requests

    run(test)


@pytest.mark.parametrize(
    "body", [b"", b"\xff", b"[]", b"null", b"<html>", b"[" * 100_000, b'{"reason": "failed"}', b'{"reason": []}']
)
@pytest.mark.parametrize("status", [200, 400, 500])
def test_an_answer_that_makes_no_sense_is_an_error(body: bytes, status: int) -> None:
    async def test() -> None:
        async with hostile() as there:

            def answer(handler: web.RequestHandler) -> None:
                handler.set_status(status)
                handler.finish(body)

            there.answer = answer
            executor = ServerExecutor(there.url, TOKEN)
            with pytest.raises(ExecutorError):
                await executor.start()
            assert await executor.poll() == 1
            if status != 200 or body == b"\xff":
                with pytest.raises(ExecutorError):
                    await executor.read_text_file("a")
            await executor.stop()

    run(test)


def test_an_answer_without_an_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jupyter_acp.kernel_exec.server_link._MAX_BODY", 1 << 20)
    monkeypatch.setattr("jupyter_acp.kernel_exec.server_link.CALL", 1.0)

    async def test() -> None:
        async with hostile() as there:
            executor = ServerExecutor(there.url, TOKEN)
            there.answer = lambda handler: handler.finish(b"x" * (2 << 20))
            with pytest.raises(ExecutorError):
                await executor.read_text_file("a")
            await executor.stop()

    run(test)


@pytest.mark.parametrize(
    "frames",
    [
        ["x"],
        ["[]"],
        ["{}"],
        ["[" * 100_000],
        ['{"error": 7}'],
        ['{"error": {"reason": [], "message": {}}}'],
        ['{"answer": []}'],
        ["x" * (5 << 20)],
    ],
    ids=range(8),
)
def test_a_server_that_makes_no_sense_starts_nothing(frames: list[str | bytes]) -> None:
    async def test() -> None:
        async with hostile() as there:
            there.frames = frames
            executor = ServerExecutor(there.url, TOKEN)
            exits: list[Exit] = []
            with pytest.raises(ExecutorError):
                await executor.spawn("true", on_exit=exits.append)
            await executor.stop()
            assert not exits

    run(test)


@pytest.mark.parametrize(
    "frame",
    [
        '{"exited": 7}',
        '{"exited": {"code": null, "signal": null}}',
        '{"exited": {"code": 1, "signal": "SIGKILL"}}',
        '{"exited": {"code": true, "signal": null}}',
        '{"exited": {"code": "1", "signal": null}}',
        '{"answer": 7, "error": 1}',
        "nonsense",
    ],
)
def test_a_server_that_stops_making_sense_has_lost_the_command(frame: str) -> None:
    async def test() -> None:
        async with hostile() as there:
            there.frames = ['{"started": true}', b"output", frame]
            executor = ServerExecutor(there.url, TOKEN)
            command = await executor.spawn("true")
            with pytest.raises(ExecutorError, match="makes no sense"):
                await command.wait()
            assert command.output() == ("output", False)
            assert command.exit == Exit(code=None, signal="SIGKILL")
            await executor.stop()

    run(test)


def test_output_that_nobody_asked_for_is_kept_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jupyter_acp.kernel_exec.server._KILL_WITHIN", 0.2)

    async def test() -> None:
        async with hostile() as there:
            there.frames = ['{"started": true}', *[b"x" * (1 << 20)] * 64, b"end"]
            executor = ServerExecutor(there.url, TOKEN, output_limit=1000)
            stuck = asyncio.Event()
            tracemalloc.start(1)
            seen: list[int] = []

            async def listen(text: str, truncated: bool) -> None:
                seen.append(len(text))
                await stuck.wait()

            command = await executor.spawn("true", on_output=listen)
            async with asyncio.timeout(20):
                while not command.output()[0].endswith("end"):  # noqa: ASYNC110  # nothing is delivered while it is stuck
                    await asyncio.sleep(0.01)
            assert tracemalloc.get_traced_memory()[1] < 24 << 20
            tracemalloc.stop()
            stuck.set()
            with pytest.raises(ExecutorError, match="does not end"):
                await executor.stop()
            assert seen[0] <= 1 << 20

    run(test)


def test_the_first_output_is_heard_however_much_comes_right_after_it() -> None:
    async def test() -> None:
        async with hostile() as there:
            there.frames = [
                '{"started": true}',
                b"first",
                *[b"x" * (1 << 20)] * 2,
                '{"exited": {"code": 0, "signal": null}}',
            ]
            executor = ServerExecutor(there.url, TOKEN)
            said = Listener()
            command = await executor.spawn("true", on_output=said.output)
            await command.wait()
            assert said.text.startswith("first")
            command.let_go()
            await executor.stop()

    run(test)


def test_a_server_that_never_answers_does_not_hang_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (
        ("server_link.CALL", 0.5),
        ("server.CALL", 0.5),
        ("server._POLL", 0.2),
        ("server._KILL_WITHIN", 0.2),
    ):
        monkeypatch.setattr(f"jupyter_acp.kernel_exec.{name}", seconds)

    async def test() -> None:
        accepted: list[asyncio.StreamWriter] = []
        async with await asyncio.start_server(lambda reader, writer: accepted.append(writer), "127.0.0.1", 0) as silent:
            port = silent.sockets[0].getsockname()[1]
            executor = ServerExecutor(f"http://127.0.0.1:{port}/", TOKEN, start_timeout=0.5)
            assert await executor.poll() == 1
            for ask in (lambda: executor.start(), lambda: executor.read_text_file("a"), lambda: executor.spawn("true")):
                with pytest.raises(ExecutorError, match="cannot be reached"):
                    await ask()
            await executor.stop()
            for writer in accepted:
                writer.close()
        async with hostile() as there:
            there.frames = ['{"started": true}']
            executor = ServerExecutor(there.url, TOKEN)
            command = await executor.spawn("true")
            for call in (command.resize(24, 80), command.kill(grace=0)):
                with pytest.raises(ExecutorError, match=r"answer|end"):
                    await call
            with pytest.raises(ExecutorError, match="does not end"):
                await executor.stop()
            with pytest.raises(ExecutorError):
                await command.wait()

    run(test)
