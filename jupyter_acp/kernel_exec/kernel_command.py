"""A command beside a kernel, as it is here: followed to its end, watched and typed into by asking its host."""

from __future__ import annotations

import asyncio
import inspect
import logging
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol

from jupyter_acp.events import JsonObject
from jupyter_acp.exceptions import ExecutorError
from jupyter_acp.kernel_exec.base import Exit, OnBytes, OnExit, OnOutput, Tail
from jupyter_acp.kernel_exec.kernel_link import ConnectionLost, KernelGone

_log = logging.getLogger(__name__)

ANSWER = 120.0  # seconds for an answer that waits for nothing but work
_KILL_ANSWER = 15.0  # seconds beyond the grace: the host itself allows 10
_KILL_WITHIN = 5.0  # seconds for a listener to take the last output


class Ask(Protocol):
    """See `KernelExecutor.ask`."""

    async def __call__(
        self, do: str, data: bytes = b"", *, timeout: float | None = ANSWER, **request: Any
    ) -> tuple[JsonObject, bytes]: ...


class KernelCommand:
    """See `base.Command`. `ask` is the executor's, which makes them; `on_close` is told once nothing is left of it.

    Where the kernel is gone, so is the command: it was killed.
    """

    def __init__(
        self,
        identity: str,
        pid: int,
        ask: Ask,
        *,
        terminal: bool,
        limit: int,
        on_output: OnOutput | None,
        on_exit: OnExit | None,
        on_close: Callable[[KernelCommand], None],
    ) -> None:
        self.id = identity
        self.pid = pid
        self.exit: Exit | None = None
        self._request = ask
        self._terminal = terminal
        self._tail = Tail(limit)
        self._cut = False  # something before the tail was dropped on the way
        self._on_output = on_output
        self._on_exit = on_exit
        self._on_close = on_close
        self._watchers: set[asyncio.Task[None]] = set()
        self._task = asyncio.create_task(self._follow(), name=f"command {identity}")

    def output(self) -> tuple[str, bool]:
        """See `Command.output`."""
        text, truncated = self._tail.text(final=True)
        return text, truncated or self._cut

    def watch(self, listener: OnBytes) -> Callable[[], None]:
        """See `Command.watch`. Who is slow misses some."""
        self._check_terminal()
        task = asyncio.create_task(self._show(listener), name=f"command {self.id} is watched")
        self._watchers.add(task)
        task.add_done_callback(self._watchers.discard)

        def stop() -> None:
            task.cancel()

        return stop

    async def write(self, data: bytes) -> None:
        """See `Command.write`."""
        self._check_terminal()
        await self._ask("type", data, timeout=None)

    async def resize(self, rows: int, columns: int) -> None:
        """See `Command.resize`."""
        self._check_terminal()
        await self._ask("resize", rows=rows, columns=columns)

    async def wait(self) -> Exit:
        """See `Command.wait`."""
        await asyncio.wait([self._task])
        if self.exit is None:
            failure = None if self._task.cancelled() else self._task.exception()
            raise ExecutorError(f"command {self.id} was let go before it ended") from failure
        return self.exit

    async def kill(self, grace: float = 0.5) -> None:
        """See `Command.kill`."""
        with suppress(KernelGone):  # and with it the command
            await self._ask("kill", grace=grace, timeout=grace + _KILL_ANSWER)
        # its last output and exit are delivered too, unless whoever listens is stuck
        await asyncio.wait([self._task], timeout=_KILL_WITHIN)

    async def close(self) -> None:
        """See `Command.close`."""
        try:
            await self.kill(grace=0)
            with suppress(KernelGone):
                await self._ask("close")
        finally:
            self._on_close(self)
            for task in [self._task, *self._watchers]:
                task.cancel()
            await asyncio.gather(self._task, *self._watchers, return_exceptions=True)

    def _check_terminal(self) -> None:
        if not self._terminal:
            raise ExecutorError(f"command {self.id} has no terminal")

    async def _ask(
        self, do: str, data: bytes = b"", *, timeout: float | None = ANSWER, **request: Any
    ) -> tuple[JsonObject, bytes]:
        return await self._request(do, data, timeout=timeout, id=self.id, **request)

    async def _follow(self) -> None:
        """Deliver what comes, then the exit."""
        number = 0
        try:
            while True:
                try:
                    told, data = await self._ask("next", after=number, timeout=None)
                except ConnectionLost:
                    continue
                if "exit" in told:
                    break
                number = told["piece"]
                self._take(data, truncated=told["truncated"])
                if self._on_output is not None:
                    await self._call(self._on_output, data.decode(), told["truncated"])
        except KernelGone:
            self.exit = Exit(code=None, signal="SIGKILL")
        else:
            if told["gaps"]:
                self._take(data, truncated=told["truncated"])
            self._cut = told["truncated"]
            self.exit = Exit(**told["exit"])
        if self._on_exit is not None:
            await self._call(self._on_exit, self.exit)

    def _take(self, data: bytes, *, truncated: bool) -> None:
        if truncated:
            self._tail.take()
            self._cut = True
        self._tail.append(data)

    async def _call(self, listener: Callable[..., Awaitable[None] | None], *args: object) -> None:
        """A listener's mistake must not keep the command from being followed to its end."""
        try:
            result = listener(*args)
            if inspect.isawaitable(result):
                await result
        except Exception:
            _log.exception("command=%s a listener failed", self.id)

    async def _show(self, listener: OnBytes) -> None:
        key = secrets.token_hex(8)
        try:
            await self._ask("watch", key=key)
            ended = False
            while not ended:
                told, data = await self._ask("watched", key=key, timeout=None)
                ended = told["ended"]
                if data:
                    await self._call(listener, data)
        except ExecutorError as exc:
            _log.info("command=%s is not watched any more: %s", self.id, exc)
        else:
            await asyncio.wait([self._task])  # who sees the end finds the exit
        await self._call(listener, b"")
