"""What a command prints, for those who asked for it: its tail, pieces of text, raw bytes. In bounded memory, no I/O.

The same for every executor: raw bytes come in by `take`, in the order in which they were printed.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable

from jupyter_acp.kernel_exec.base import Exit, OnBytes, OnExit, OnOutput, Tail, TextStream

_log = logging.getLogger(__name__)

_MERGE = 0.05  # seconds between two pieces of text, at least
_RATE = 2 << 20  # bytes per second of pieces, at most; the rest is dropped from their start


class Output:
    """The output of one command.

    Parameters
    ----------
    name
        The command's id, for the log.
    limit
        Bytes of the tail.
    pending
        Bytes that wait for a listener; then the source has to wait too, as `full` says.
    on_output, on_exit
        See `Executor.spawn`.
    on_room
        Called when the source need not wait any more.
    """

    def __init__(
        self,
        name: str,
        *,
        limit: int,
        pending: int,
        on_output: OnOutput | None,
        on_exit: OnExit | None,
        on_room: Callable[[], None],
    ) -> None:
        self.exit: Exit | None = None
        self._name = name
        self._tail = Tail(limit)
        self._pending = Tail(pending)
        self._text = TextStream()
        self._on_output = on_output
        self._on_exit = on_exit
        self._on_room = on_room
        self._delivering = False
        self._complete = False
        self._news = asyncio.Event()
        self._watchers: dict[object, OnBytes] = {}
        self._watched = False  # to the end

    @property
    def full(self) -> bool:
        """Whether the listener is behind by all that may wait for it."""
        return self._delivering and len(self._pending) >= self._pending.limit

    def take(self, data: bytes) -> None:
        """The next bytes; those after the last piece are dropped."""
        if self._complete:
            return
        self._tail.append(data)
        self._show(data)
        if self._on_output is not None:
            self._pending.append(data)
            self._news.set()

    def text(self) -> tuple[str, bool]:
        """See `Command.output`."""
        return self._tail.text(final=self._complete)

    def watch(self, listener: OnBytes) -> Callable[[], None]:
        """See `Command.watch`."""
        if tail := self._tail.data():
            listener(tail)
        if self._watched:
            listener(b"")
            return lambda: None
        key = object()
        self._watchers[key] = listener

        def stop() -> None:
            self._watchers.pop(key, None)

        return stop

    def end_watching(self) -> None:
        """Tell who watches that it was all. Idempotent."""
        if not self._watched:
            self._watched = True
            self._show(b"")
            self._watchers.clear()

    async def deliver(self, until: asyncio.Future[Exit]) -> None:
        """Hand pieces to the listener until the command has ended."""
        until.add_done_callback(lambda _: self._news.set())
        while not until.done():
            await self._news.wait()
            self._news.clear()
            size = await self._deliver()
            if size:
                await asyncio.wait([until], timeout=max(_MERGE, size / _RATE))

    async def finish(self, exit: Exit) -> None:
        """Hand over the last piece, and then the exit."""
        self._complete = True
        await self._deliver(final=True)
        self.exit = exit
        self.end_watching()
        if self._on_exit is not None:
            await self._call(self._on_exit, exit)

    async def _deliver(self, *, final: bool = False) -> int:
        if self._on_output is None:
            return 0
        data, lost = self._pending.take()
        text = self._text.decode(data, after_gap=lost, final=final)
        if text or lost:
            self._delivering = True
            await self._call(self._on_output, text, lost)
            self._delivering = False
        self._on_room()
        return len(data)

    async def _call(self, listener: Callable[..., object], *args: object) -> None:
        """A listener's mistake must not keep the command from being followed to its end."""
        try:
            result = listener(*args)
            if inspect.isawaitable(result):
                await result
        except Exception:
            _log.exception("command=%s a listener failed", self._name)

    def _show(self, data: bytes) -> None:
        for listener in tuple(self._watchers.values()):
            try:
                listener(data)
            except Exception:
                _log.exception("command=%s a watcher failed", self._name)
