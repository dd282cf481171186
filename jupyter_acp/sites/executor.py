"""Files and commands of one session, in whichever container its access gives it at the time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from ..events import JsonObject
from ..exceptions import ExecutorError
from ..kernel_exec.base import Command, OnExit, OnOutput, Run, finish_all
from ..kernel_exec.containers import Container, Use


class SessionExecutor:
    """The executor of one session: that of the container which its access gives it at the time. See `Executor`."""

    def __init__(self, project_id: str, use: Callable[[], Awaitable[Use]], is_running: Callable[[], bool]) -> None:
        self._project_id = project_id
        self._use = use
        self._is_running = is_running
        self._commands: list[tuple[Command, Use]] = []
        self._stopped = False

    async def start(self) -> None:
        """See `Executor.start`."""
        async with self._container():
            pass

    async def poll(self) -> int | None:
        """See `Executor.poll`."""
        if self._stopped:
            return 0
        return None if self._is_running() else 1

    def get_state(self) -> JsonObject:
        """See `Executor.get_state`."""
        return {"project": self._project_id}

    def load_state(self, state: JsonObject) -> None:
        """See `Executor.load_state`."""
        if state != self.get_state():
            raise ValueError(f"this is the state of another project: {state}")

    async def read_text_file(self, path: str, line: int | None = None, limit: int | None = None) -> str:
        """See `Executor.read_text_file`."""
        async with self._container() as container:
            return await container.executor.read_text_file(path, line, limit)

    async def write_text_file(self, path: str, text: str) -> None:
        """See `Executor.write_text_file`."""
        async with self._container() as container:
            await container.executor.write_text_file(path, text)

    async def spawn(
        self,
        command: Sequence[str] | str,
        *,
        run: Run = "terminal",
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        output_limit: int | None = None,
        on_output: OnOutput | None = None,
        on_exit: OnExit | None = None,
    ) -> Command:
        """See `Executor.spawn`."""
        use = await self._used()
        try:
            started = await use.container.executor.spawn(
                command,
                run=run,
                cwd=cwd,
                env=env,
                output_limit=output_limit,
                on_output=on_output,
                on_exit=on_exit,
            )
        except BaseException:
            use.release()
            raise
        self._let_ended_go()
        self._commands.append((started, use))
        return started

    async def stop(self) -> None:
        """See `Executor.stop`. The container is that of others too."""
        self._stopped = True
        try:
            await finish_all(command.close() for command, _ in self._commands)
        finally:
            for _, use in self._commands:
                use.release()
            self._commands.clear()

    def _let_ended_go(self) -> None:
        for command, use in self._commands:
            if command.exit is not None:
                use.release()
        self._commands = [(command, use) for command, use in self._commands if command.exit is None]

    async def _used(self) -> Use:
        if self._stopped:
            raise ExecutorError("the executor has been stopped")
        return await self._use()

    @asynccontextmanager
    async def _container(self) -> AsyncIterator[Container]:
        use = await self._used()
        try:
            yield use.container
        finally:
            use.release()
