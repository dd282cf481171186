"""A command that an agent has us run, opened as a terminal of Jupyter by its stock routes."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psutil
import pytest
from jupyter_server.auth.authorizer import Authorizer
from tornado.httpclient import HTTPClientError


@pytest.fixture
def jp_server_config(jp_server_config: dict[str, Any]) -> dict[str, Any]:
    jp_server_config["ServerApp"]["jpserver_extensions"]["jupyter_server_terminals"] = True
    return jp_server_config


@pytest.fixture
def chat(drive: Any, jp_asyncio_loop: Any) -> Any:
    return jp_asyncio_loop.run_until_complete(drive.open("a.chat", agent="delegating"))


class Tab:
    """A terminal tab, as JupyterLab has one."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self.text = ""

    async def sees(self, wanted: str) -> None:
        async with asyncio.timeout(20):
            while wanted not in self.text:
                message = await self._socket.read_message()
                assert message is not None, f"closed after {self.text!r}"
                kind, *content = json.loads(message)
                self.text += content[0] if kind == "stdout" else f"<{kind}>"

    async def send(self, *message: object) -> None:
        await self._socket.write_message(json.dumps(message))

    async def close(self) -> None:
        self._socket.close()
        while self._socket.protocol is not None and await self._socket.read_message() is not None:
            pass


@pytest.fixture
def terminals(jp_asyncio_loop: Any, jp_fetch: Any, jp_ws_fetch: Any) -> Iterator[Any]:
    tabs: list[Tab] = []

    class Terminals:
        async def names(self) -> list[str]:
            response = await jp_fetch("api", "terminals")
            return [model["name"] for model in json.loads(response.body)]

        async def open(self, name: str) -> Tab:
            tabs.append(tab := Tab(await jp_ws_fetch("terminals", "websocket", name)))
            return tab

        async def delete(self, name: str) -> int:
            return int((await jp_fetch("api", "terminals", name, method="DELETE")).code)

    yield Terminals()
    for tab in tabs:
        jp_asyncio_loop.run_until_complete(tab.close())


async def begun(chat: Any, script: str, *, says: str = "ready") -> str:
    """Have the agent run a script with `sh -c`, and return its terminal's id once it has said so."""
    await chat.submit(f"/terminal exec sh -c {shlex.quote(script)}")
    text = ""

    def has_said(event: dict[str, Any]) -> bool:
        nonlocal text
        text += event["data"]["data"] if event["kind"] == "terminal_output" else ""
        return says in text

    return str((await chat.until(has_said))["data"]["terminal_id"])


def running(line: str) -> bool:
    """Whether a process of this command line runs."""
    return line.split() in [process.info["cmdline"] for process in psutil.process_iter(["cmdline"])]


async def test_a_running_command_is_watched_and_typed_into_and_its_end_is_told(chat: Any, terminals: Any) -> None:
    name = await begun(chat, "printf 'ready\\r\\nline\\n'; read x; echo \"got $x\"; read x; exit 3")
    assert re.fullmatch(r"term_\w+", name)
    assert await terminals.names() == [name]
    tab = await terminals.open(name)
    await tab.sees("line\r\n")
    assert tab.text == "<setup>ready\r\nline\r\n", "each line end has one carriage return"
    await tab.send("stdin", "häl")
    await tab.send("stdin", "lo\r")
    await tab.sees("got hällo\r\n")
    await tab.send("stdin", "\r")
    await tab.sees("[exit status 3]\r\n<disconnect>")
    await chat.until_kind("turn_ended")
    assert chat.of("terminal_exited")[-1]["exit_code"] == 3
    assert await terminals.names() == []
    with pytest.raises(HTTPClientError, match="404"):
        await terminals.open(name)


async def test_closing_a_tab_does_not_end_the_command_and_another_shows_the_same(chat: Any, terminals: Any) -> None:
    name = await begun(chat, "echo ready; read x; echo on; exec sleep 60")
    first, second = await terminals.open(name), await terminals.open(name)
    await second.sees("ready")
    await first.close()
    await second.send("stdin", "\r")
    await second.sees("on")
    await second.close()
    third = await terminals.open(name)
    await third.sees("on")
    assert not chat.of("terminal_exited")
    assert await terminals.names() == [name]
    await terminals.delete(name)


async def test_the_terminal_has_the_size_of_its_smallest_tab(chat: Any, terminals: Any) -> None:
    code = (
        "import os, signal; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH}); print('ready', flush=True);"
        "[print(*os.get_terminal_size(), flush=True) for _ in iter(lambda: signal.sigwait({signal.SIGWINCH}), 0)]"
    )
    name = await begun(chat, f"exec python3 -c {shlex.quote(code)}")
    wide, narrow = await terminals.open(name), await terminals.open(name)
    await wide.send("set_size", 50, 200, 1000, 2000)
    await wide.sees("200 50")
    await narrow.send("set_size", 60, 80, 1000, 2000)
    await wide.sees("80 50")
    await narrow.close()
    await wide.send("set_size", 50, 201, 1000, 2000)
    await wide.sees("201 50")
    await wide.send("set_size", 0, 0)
    await wide.send("set_size", "x", None)
    await wide.send("set_size", 51, 201)
    await wide.sees("201 51")
    await terminals.delete(name)


async def test_shutting_it_down_ends_the_command_with_its_tree_and_never_blocks_the_loop(
    chat: Any, terminals: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await begun(
        chat, "trap '' TERM HUP; sleep 4321 & (setsid sleep 4322 &); echo ready; while :; do wait; sleep 5; done"
    )
    slept: list[float] = []
    sleep = time.sleep

    def noted(seconds: float) -> None:
        if threading.current_thread() is threading.main_thread():
            slept.append(seconds)
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", noted)
    tab = await terminals.open(name)
    assert await terminals.delete(name) == 204
    await tab.sees("[ended by SIGKILL]\r\n<disconnect>")
    assert not running("sleep 4321") and not running("sleep 4322")
    assert await terminals.names() == []
    await chat.until_kind("turn_ended")
    assert chat.of("terminal_exited")[-1]["signal"] == "SIGKILL"
    assert slept == []


async def test_all_terminals_are_shut_down_at_once_ours_among_them(
    chat: Any, drive: Any, terminals: Any, jp_fetch: Any
) -> None:
    other = await drive.open("b.chat", agent="delegating")
    names = [await begun(chat, "echo ready; exec sleep 60"), await begun(other, "echo ready; exec sleep 60")]
    stock = json.loads((await jp_fetch("api", "terminals", method="POST", body="{}")).body)["name"]
    assert await terminals.names() == [*names, stock]
    await asyncio.gather(*(terminals.delete(name) for name in (*names, stock)))
    for conversation in (chat, other):
        await conversation.until_kind("turn_ended")
        assert conversation.of("terminal_exited")[-1]["signal"] == "SIGTERM"


async def test_culling_of_idle_terminals_spares_a_command_that_runs(chat: Any, drive: Any, terminals: Any) -> None:
    name = await begun(chat, "echo ready; exec sleep 60")
    manager = drive.server.web_app.settings["terminal_manager"]
    manager.cull_inactive_timeout = 60
    manager.terminals[name].last_activity = datetime(2020, 1, 1, tzinfo=UTC)
    await manager._cull_terminals()
    assert await terminals.names() == [name]
    assert not chat.of("terminal_exited")
    await terminals.delete(name)


async def test_when_the_server_stops_nothing_of_ours_is_left_to_jupyters_own_end_of_terminals(
    chat: Any, drive: Any, terminals: Any
) -> None:
    name = await begun(chat, "echo ready; exec sleep 4323")
    [extension] = drive.server.extension_manager.extension_apps["jupyter_acp"]
    manager = drive.server.web_app.settings["terminal_manager"]
    closing = asyncio.ensure_future(extension.tabs.close())
    ending = asyncio.ensure_future(manager.terminate_all())  # fails on a name that has gone since it looked
    await asyncio.gather(closing, ending)
    assert name not in await terminals.names()
    assert running("sleep 4323"), "its session ends it, or goes on with it"


async def test_who_may_not_have_terminals_has_none_of_these_either(
    chat: Any, drive: Any, terminals: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoTerminals(Authorizer):
        def is_authorized(self, handler: Any, user: Any, action: str, resource: str) -> bool:
            return resource != "terminals"

    name = await begun(chat, "echo ready; exec sleep 60")
    settings = drive.server.web_app.settings
    with monkeypatch.context() as patch:
        patch.setitem(settings, "authorizer", NoTerminals(parent=drive.server))
        for call in (terminals.names(), terminals.open(name), terminals.delete(name)):
            with pytest.raises(HTTPClientError, match="403"):
                await call
    await terminals.delete(name)


class TestWithoutTerminals:
    @pytest.fixture
    def jp_server_config(self, jp_server_config: dict[str, Any]) -> dict[str, Any]:
        jp_server_config["ServerApp"]["terminals_enabled"] = False
        return jp_server_config

    async def test_a_command_runs_as_ever(self, chat: Any) -> None:
        await chat.run("/terminal echo done; exit 4")
        assert chat.of("terminal_exited")[-1]["exit_code"] == 4


class TestByPipe:
    @pytest.fixture
    def jp_server_config(self, jp_server_config: dict[str, Any]) -> dict[str, Any]:
        jp_server_config["AcpExtension"]["delegated_commands"] = "pipe"
        return jp_server_config

    async def test_a_command_runs_without_a_terminal_and_none_is_listed(self, chat: Any, terminals: Any) -> None:
        name = await begun(chat, "test -t 0 || test -t 1 || echo ready; exec sleep 60")
        assert await terminals.names() == []
        with pytest.raises(HTTPClientError, match="404"):
            await terminals.open(name)
        await chat.call("POST", "interrupt", body={})
        await chat.until_kind("turn_ended")
        assert chat.of("terminal_exited")[-1]["signal"] == "SIGTERM"
