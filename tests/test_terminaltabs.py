"""What a terminal tab is sent: line ends, and no more than it takes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from jupyter_acp.kernel_exec.local import LocalExecutor
from jupyter_acp.terminaltabs import TYPED, WAITING, LineEnds, TerminalTabs


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_a_line_end_has_one_carriage_return_wherever_the_text_is_cut(size: int) -> None:
    text = "a\nb\r\n\n\r\nc\r\rd\r\n"
    lines = LineEnds()
    shown = [lines.shown(text[start : start + size]) for start in range(0, len(text), size)]
    assert lines.shown("") == ""
    assert "".join(shown) == "a\r\nb\r\n\r\n\r\nc\r\rd\r\n"


class Socket:
    """A tab whose browser takes nothing until it is told to; the part of a WebSocket of tornado that is used."""

    def __init__(self) -> None:
        self.text = ""
        self.is_stuck = False
        self._changed = asyncio.Event()
        self.died = asyncio.Event()
        self.ws_connection = SimpleNamespace(
            is_closing=lambda: False, stream=SimpleNamespace(writing=lambda: self.is_stuck)
        )

    def on_pty_read(self, text: str) -> None:
        self.text += text
        self._changed.set()

    def on_pty_died(self) -> None:
        self.died.set()

    async def sees(self, wanted: str) -> None:
        while wanted not in self.text:
            self._changed.clear()
            await self._changed.wait()


def test_a_tab_that_takes_nothing_holds_neither_the_command_back_nor_more_than_a_little(tmp_path: Path) -> None:
    async def test() -> None:
        manager = SimpleNamespace(terminals={})
        here, tabs = LocalExecutor(tmp_path), TerminalTabs(lambda: manager)
        command = await here.spawn("read x; seq 1 1000000; touch done; read x")
        tabs.add("term_a", command)
        socket = Socket()
        socket.is_stuck = True
        manager.terminals["term_a"].clients.append(socket)
        await command.write(b"\n")
        while not (tmp_path / "done").exists():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert socket.text == ""
        socket.is_stuck = False
        await command.write(b"\n")
        await socket.died.wait()
        assert socket.text.startswith("\r\n[… output was left out …]\r\n")
        assert socket.text.endswith("\r\n1000000\r\n\r\n\r\n[exit status 0]\r\n")
        assert len(socket.text) < 2 * WAITING
        await command.wait()
        await tabs.close()
        await here.stop()

    asyncio.run(asyncio.wait_for(test(), 60))


def test_what_is_typed_for_a_command_that_does_not_read_is_kept_up_to_a_limit(tmp_path: Path) -> None:
    kept = TYPED * 2 // 3
    line = (
        "stty raw -echo; echo ready; while ! test -e go; do sleep 0.02; done;"
        f" head -c {kept} | tr -d x | wc -c; head -c 1"
    )

    async def test() -> None:
        manager = SimpleNamespace(terminals={})
        here, tabs = LocalExecutor(tmp_path), TerminalTabs(lambda: manager)
        tabs.add("term_a", await here.spawn(line))
        terminal, socket = manager.terminals["term_a"], Socket()
        terminal.clients.append(socket)
        await socket.sees("ready")
        for key in "xyx":
            await asyncio.to_thread(terminal.ptyproc.write, key * kept)
        (tmp_path / "go").touch()
        await socket.sees("\r\n0\r\n")
        await asyncio.to_thread(terminal.ptyproc.write, "z")
        await socket.died.wait()
        assert socket.text.endswith("\r\n0\r\nz\r\n[exit status 0]\r\n")
        await tabs.close()
        await here.stop()

    asyncio.run(asyncio.wait_for(test(), 60))
