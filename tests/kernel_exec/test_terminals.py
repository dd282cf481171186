"""ACP v1 terminals with real commands: wire in, wire out, and the events of the log."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from jupyter_acp.events import JsonObject, Kind
from jupyter_acp.exceptions import BadRequest, Conflict, ExecutorError, NotFound, PathOutside, RequestError
from jupyter_acp.kernel_exec.base import Command, Run
from jupyter_acp.kernel_exec.local import LocalExecutor
from jupyter_acp.kernel_exec.terminals import ClientTerminals

from . import alive


class Log:
    def __init__(self) -> None:
        self.events: list[tuple[Kind, JsonObject]] = []
        self.started: dict[str, Command] = {}
        self._changed = asyncio.Event()

    def emit(self, kind: Kind, data: JsonObject) -> None:
        self.events.append((kind, data))
        self._changed.set()

    def start(self, identity: str, command: Command) -> None:
        self.started[identity] = command

    def of(self, kind: Kind) -> list[JsonObject]:
        return [data for found, data in self.events if found is kind]

    async def says(self, wanted: str) -> None:
        while wanted not in "".join(data["data"] for data in self.of(Kind.TERMINAL_OUTPUT)):
            self._changed.clear()
            await self._changed.wait()


Test = Callable[[ClientTerminals, Log], Awaitable[None]]


def run(root: Path, test: Test, *, how: Run = "terminal", limit: int = 64) -> None:
    async def limited() -> None:
        executor, log = LocalExecutor(root), Log()
        terminals = ClientTerminals(executor, log.emit, run=how, started=log.start, limit=limit)
        try:
            await asyncio.wait_for(test(terminals, log), 20)
        finally:
            await terminals.close()
            await executor.stop()

    before = len(os.listdir("/dev/fd"))
    asyncio.run(limited())
    assert len(os.listdir("/dev/fd")) == before


@pytest.mark.parametrize("how", ["terminal", "pipe"])
def test_a_terminal_from_create_to_release(tmp_path: Path, how: Run) -> None:
    async def test(terminals: ClientTerminals, log: Log) -> None:
        created = await terminals.handle(
            "terminal/create",
            {
                "sessionId": "s",
                "command": "sh",
                "args": ["-c", 'printf "$A in $PWD"; exit 3'],
                "env": [{"name": "A", "value": "é"}],
                "cwd": str(tmp_path),
                "outputByteLimit": 1000,
            },
        )
        assert list(created) == ["terminalId"]
        assert await terminals.handle("terminal/wait_for_exit", created) == {"exitCode": 3, "signal": None}
        assert await terminals.handle("terminal/output", created) == {
            "output": f"é in {tmp_path}",
            "truncated": False,
            "exitStatus": {"exitCode": 3, "signal": None},
        }
        assert await terminals.handle("terminal/release", created) == {}
        id = created["terminalId"]
        assert log.of(Kind.TERMINAL_OUTPUT) == [{"terminal_id": id, "data": f"é in {tmp_path}"}]
        assert log.of(Kind.TERMINAL_EXITED) == [{"terminal_id": id, "exit_code": 3, "signal": None}]
        assert log.events[-1][0] is Kind.TERMINAL_EXITED
        with pytest.raises(NotFound):
            await terminals.output(created)
        assert list(log.started) == ([id] if how == "terminal" else [])

    run(tmp_path, test, how=how)


def test_a_command_without_args_is_a_line_for_the_shell(tmp_path: Path) -> None:
    async def test(terminals: ClientTerminals, log: Log) -> None:
        created = await terminals.create({"command": "printf a && printf b", "args": []})
        await terminals.wait_for_exit(created)
        assert (await terminals.output(created))["output"] == "ab"

    run(tmp_path, test)


def test_output_is_cut_from_its_start_at_a_character(tmp_path: Path) -> None:
    async def test(terminals: ClientTerminals, log: Log) -> None:
        created = await terminals.create({"command": "printf '€€€€x'", "outputByteLimit": 6})
        await terminals.wait_for_exit(created)
        answer = await terminals.output(created)
        assert (answer["output"], answer["truncated"]) == ("€x", True)
        assert log.of(Kind.TERMINAL_OUTPUT)[0]["data"] == "€€€€x", "the log has its own limit"

    run(tmp_path, test)


def test_a_killed_terminal_keeps_its_id_and_answers_its_waiters(tmp_path: Path) -> None:
    async def test(terminals: ClientTerminals, log: Log) -> None:
        created = await terminals.create({"command": "trap '' TERM; echo ready; while :; do sleep 0.1; done"})
        await log.says("ready")
        assert "exitStatus" not in await terminals.output(created)
        waiter = asyncio.ensure_future(terminals.wait_for_exit(created))
        await terminals.kill(created)
        assert await waiter == {"exitCode": None, "signal": "SIGKILL"}
        assert (await terminals.output(created))["output"] == "ready\n"
        assert await terminals.kill(created) == {}
        assert len(log.of(Kind.TERMINAL_EXITED)) == 1

    run(tmp_path, test)


def test_releasing_kills_and_still_answers_who_waits(tmp_path: Path) -> None:
    async def test(terminals: ClientTerminals, log: Log) -> None:
        created = await terminals.create({"command": "sleep", "args": ["60"]})
        waiter = asyncio.ensure_future(terminals.wait_for_exit(created))
        await asyncio.sleep(0)
        await terminals.release(created)
        assert (await waiter)["signal"] == "SIGKILL"

    run(tmp_path, test)


@pytest.mark.parametrize("method", ["output", "wait_for_exit", "kill", "release"])
@pytest.mark.parametrize("params", [{}, {"terminalId": "never"}, {"terminalId": 7}, {"terminalId": ["x"]}])
def test_an_id_that_nobody_created_is_a_clear_error(tmp_path: Path, method: str, params: JsonObject) -> None:
    async def test(terminals: ClientTerminals, log: Log) -> None:
        with pytest.raises(NotFound, match="no terminal"):
            await terminals.handle(f"terminal/{method}", params)

    run(tmp_path, test)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"command": " "},
        {"command": 1},
        {"command": "x", "args": "y"},
        {"command": "x", "args": [1]},
        {"command": "x", "cwd": 1},
        {"command": "x", "env": {"A": "b"}},
        {"command": "x", "env": [{"name": "A"}]},
        {"command": "x", "env": [None]},
        {"command": "x", "outputByteLimit": -1},
        {"command": "x", "outputByteLimit": "1"},
        {"command": "x", "outputByteLimit": True},
    ],
)
def test_malformed_parameters_are_the_agents_mistake(tmp_path: Path, params: JsonObject) -> None:
    async def test(terminals: ClientTerminals, log: Log) -> None:
        with pytest.raises(BadRequest):
            await terminals.create(params)
        assert log.events == []

    run(tmp_path, test)


@pytest.mark.parametrize("how", ["terminal", "pipe"])
def test_what_cannot_start_or_starts_outside_leaves_no_terminal(tmp_path: Path, how: Run) -> None:
    async def test(terminals: ClientTerminals, log: Log) -> None:
        with pytest.raises(ExecutorError, match="not found"):
            await terminals.create({"command": "no-such-program", "args": ["x"]})
        with pytest.raises(PathOutside):
            await terminals.create({"command": "true", "cwd": "/"})
        with pytest.raises(RequestError):
            await terminals.handle("terminal/resize", {})
        assert log.events == []
        assert log.started == {}

    run(tmp_path, test, how=how)


@pytest.mark.parametrize("how", ["terminal", "pipe"])
def test_stop_ends_all_and_what_ended_ones_left_behind(tmp_path: Path, how: Run) -> None:
    async def test(terminals: ClientTerminals, log: Log) -> None:
        running = await terminals.create({"command": "sleep 60"})
        ended = await terminals.create({"command": "trap '' HUP; sleep 60 & echo $!"})
        await terminals.wait_for_exit(ended)
        left = int((await terminals.output(ended))["output"])
        assert alive(left)
        await terminals.kill_all()
        assert not alive(left)
        assert (await terminals.wait_for_exit(running))["signal"] == "SIGTERM"
        created = await terminals.create({"command": "echo again"})
        assert (await terminals.wait_for_exit(created))["exitCode"] == 0

    run(tmp_path, test, how=how)


def test_a_command_that_starts_during_stop_is_stopped_too(tmp_path: Path) -> None:
    async def test(terminals: ClientTerminals, log: Log) -> None:
        creating = asyncio.ensure_future(terminals.create({"command": "sleep 60"}))
        await asyncio.sleep(0)  # it is starting now
        await terminals.kill_all()
        assert (await terminals.wait_for_exit(await creating))["signal"] in ("SIGTERM", "SIGKILL")

    run(tmp_path, test)


def test_after_close_nothing_runs_and_nothing_starts(tmp_path: Path) -> None:
    async def test(terminals: ClientTerminals, log: Log) -> None:
        creating = asyncio.ensure_future(terminals.create({"command": "sleep 60"}))
        await asyncio.sleep(0)
        created = await terminals.create({"command": "sleep 60"})
        await terminals.close()
        await terminals.close()
        with pytest.raises(NotFound):
            await terminals.output(created)
        with pytest.raises(Conflict):
            await terminals.create({"command": "true"})
        assert [await asyncio.gather(creating, return_exceptions=True)]

    run(tmp_path, test)


def test_ended_terminals_make_room_and_running_ones_do_not(tmp_path: Path) -> None:
    async def test(terminals: ClientTerminals, log: Log) -> None:
        first = await terminals.create({"command": "sleep 60"})
        second = await terminals.create({"command": "true"})
        await terminals.wait_for_exit(second)
        third = await terminals.create({"command": "sleep 60"})
        with pytest.raises(NotFound):
            await terminals.output(second)
        with pytest.raises(Conflict):
            await terminals.create({"command": "true"})
        assert "exitStatus" not in await terminals.output(first) | await terminals.output(third)

    run(tmp_path, test, limit=2)
