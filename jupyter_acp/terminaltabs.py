"""Running commands as terminals of Jupyter, so that a person can open one in a tab, watch it, type into it and end it.

A command is put into the server's own terminal manager, under its terminal id, as an object that does what terminado
wants of a pseudo terminal. List, WebSocket and DELETE are Jupyter's stock routes, and so is who may use them: whoever
its authorizer lets have terminals. Where the server has none, nothing happens.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from .exceptions import ExecutorError
from .kernel_exec.base import Command, Exit, Tail, TextStream

log = logging.getLogger(__name__)

WAITING = 256 << 10  # bytes that wait for a tab which takes no more; before them output is left out
TYPED = 1 << 20  # bytes that wait for a command which does not read; what is typed beyond is lost, as in any terminal
PAUSE = 0.05  # seconds between two messages to a tab, at least


class TerminalTabs:
    """Keeps running commands in the terminal manager that `manager` gives; None: there are no terminals here."""

    def __init__(self, manager: Callable[[], Any | None]) -> None:
        self._manager = manager
        self._following: dict[str, asyncio.Task[None]] = {}

    def add(self, name: str, command: Command) -> None:
        """Have a command listed until it ends. It must run in a terminal."""
        if (manager := self._manager()) is not None:
            terminals = manager.terminals
            terminals[name] = terminal = _Terminal(name, command)
            self._following[name] = asyncio.create_task(self._follow(terminals, terminal), name=f"tab {name}")

    async def close(self) -> None:
        """Have none listed any more; the commands go on. At once, before anything is awaited. Idempotent."""
        following, self._following = self._following, {}
        if (manager := self._manager()) is not None:
            for name in following:
                manager.terminals.pop(name, None)
        for task in following.values():
            task.cancel()
        await asyncio.gather(*following.values(), return_exceptions=True)

    async def _follow(self, terminals: dict[str, Any], terminal: _Terminal) -> None:
        name = terminal.term_name
        try:
            with suppress(ExecutorError):  # let go of
                await terminal.command.wait()
        finally:
            if terminals.get(name) is terminal:
                del terminals[name]
            self._following.pop(name, None)
            await terminal.close()


class _Terminal:
    """What `terminado.management.PtyWithClients` is to the manager and to its sockets."""

    def __init__(self, name: str, command: Command) -> None:
        self.term_name = name
        self.command = command
        self.clients = _Screens(command)
        self.read_buffer: deque[str] = deque()  # each screen is given the tail by itself
        self.ptyproc = self  # a socket calls its `write`
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._size: tuple[int, int] | None = None
        self._typed = 0

    @property
    def last_activity(self) -> datetime:
        """Now: a command that runs is at work, and Jupyter's culling of idle terminals spares it."""
        return datetime.now(UTC)

    @last_activity.setter
    def last_activity(self, _: datetime) -> None:
        """Sockets set it."""

    def write(self, text: str) -> None:
        """Type. Called in a thread that all terminals share, so nothing is waited for."""
        self._loop.call_soon_threadsafe(self._type, text.encode(errors="replace"))

    def resize_to_smallest(self) -> None:
        """Give the command a size that all its tabs can show."""
        sizes = [socket.size for socket in self.clients if all(isinstance(side, int) for side in socket.size)]
        if sizes:
            size = min(rows for rows, _ in sizes), min(columns for _, columns in sizes)
            if size != self._size:
                self._size = size
                self._start(self.command.resize(*size))

    async def terminate(self, force: bool = False) -> bool:
        """End the command with all that it started, politely first."""
        await self.command.kill()
        with suppress(ExecutorError):
            await self.command.wait()
        return True

    async def close(self) -> None:
        """Nothing typed waits any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _type(self, data: bytes) -> None:
        if self._typed + len(data) <= TYPED:
            self._typed += len(data)
            self._start(self._write(data))

    async def _write(self, data: bytes) -> None:
        try:
            await self.command.write(data)
        finally:
            self._typed -= len(data)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=f"tab {self.term_name}")
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (exc := task.exception()) is None:
            return
        if isinstance(exc, ExecutorError):
            log.info("terminal=%s %s", self.term_name, exc)  # it has ended meanwhile
        else:
            log.error("terminal=%s", self.term_name, exc_info=exc)


class _Screens:
    """The sockets of a terminal, as terminado's list of them; each has a screen of its own."""

    def __init__(self, command: Command) -> None:
        self._command = command
        self._screens: dict[Any, _Screen] = {}

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._screens))

    def append(self, socket: Any) -> None:
        """A tab was opened."""
        self._screens[socket] = _Screen(socket, self._command)

    def remove(self, socket: Any) -> None:
        """A tab was closed; the command goes on."""
        if (screen := self._screens.pop(socket, None)) is not None:
            screen.close()


class _Screen:
    """What one tab has been sent and has yet to be sent."""

    def __init__(self, socket: Any, command: Command) -> None:
        self._socket = socket
        self._command = command
        self._loop = asyncio.get_running_loop()
        self._waiting = Tail(WAITING)
        self._text = TextStream()
        self._lines = LineEnds()
        self._ended = False
        self._timer: asyncio.Handle | None = None
        self._unwatch = command.watch(self._take)

    def close(self) -> None:
        """Send nothing more."""
        self._unwatch()
        if self._timer is not None:
            self._timer.cancel()

    def _take(self, data: bytes) -> None:
        self._waiting.append(data)
        self._ended = not data
        if self._timer is None:
            self._timer = self._loop.call_soon(self._send)  # not now: a socket that opens says so first

    def _send(self) -> None:
        self._timer = None
        connection = self._socket.ws_connection
        if connection is None or connection.is_closing():
            return
        if self._ended:
            self._flush()
            self._socket.on_pty_read(f"\r\n[{_told(self._command.exit)}]\r\n")
            self._socket.on_pty_died()
            return
        if len(self._waiting) and not connection.stream.writing():
            self._flush()
        elif not len(self._waiting):
            return
        self._timer = self._loop.call_later(PAUSE, self._send)

    def _flush(self) -> None:
        data, lost = self._waiting.take()
        text = self._lines.shown(self._text.decode(data, after_gap=lost, final=self._ended))
        if lost:
            text = f"\r\n[… output was left out …]\r\n{text}"
        if text:
            self._socket.on_pty_read(text)


class LineEnds:
    """Text of a command as a screen needs it: a line feed alone goes on in the same column there."""

    def __init__(self) -> None:
        self._after_return = False

    def shown(self, text: str) -> str:
        """The next piece, each line end with exactly one carriage return before it."""
        bare = text.startswith("\n") and self._after_return
        if text:
            self._after_return = text.endswith("\r")
        shown = re.sub(r"(?<!\r)\n", "\r\n", text)
        return shown[1:] if bare else shown


def _told(exit: Exit | None) -> str:
    if exit is None:
        return "the command has ended"
    return f"ended by {exit.signal}" if exit.signal else f"exit status {exit.code}"
