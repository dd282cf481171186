"""A command and a file behind a headless server (unix socket, TCP), beside a kernel, and on this machine: in turn."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

from jupyter_acp.kernel_exec.base import Command, Executor
from jupyter_acp.kernel_exec.kernel_executor import KernelExecutor
from jupyter_acp.kernel_exec.kernel_link import KernelServer
from jupyter_acp.kernel_exec.local import LocalExecutor
from jupyter_acp.kernel_exec.server import ServerExecutor

from .common import Figure, Server, scratch

ROUNDS = 200
MEGABYTES = 500
TEXT = "x" * 2000
WAYS = ("unix", "tcp", "kernel")


class UnixServer(Server):
    """The same server, on a unix socket."""

    def spawn(self) -> None:
        """Start it."""
        self.sock = str(self.folder / "sock")
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyter_server", "--allow-root", "--no-browser"),
                *(f"--ServerApp.sock={self.sock}", f"--ServerApp.root_dir={self.root}"),
            ],
            env=self._environment,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    async def answers(self) -> None:
        """Return once it does."""
        executor = self.executor()
        await executor.start()
        await executor.stop()

    def executor(self) -> ServerExecutor:
        """An executor of its project."""
        return ServerExecutor("http://localhost/", self.folder / "token", socket=self.sock)


async def run() -> list[Figure]:
    settings = {"serve_project": True}
    with scratch() as folder:
        async with (
            Server(folder / "tcp", settings=settings) as tcp,
            UnixServer(folder / "u", settings=settings) as unix,
        ):
            url, token = f"http://127.0.0.1:{tcp.port}/", Path(folder / "tcp" / "token")
            executors: dict[str, Executor] = {
                "local": LocalExecutor(folder),
                "unix": unix.executor(),
                "tcp": ServerExecutor(url, token),
                "kernel": KernelExecutor(KernelServer(url=url, token=token), root=str(folder)),
            }
            try:
                await executors["kernel"].start()
                command = await _alternate(executors, _command)
                file = await _alternate(executors, _file)
                output = await _alternate(executors, _output, rounds=5)
            finally:
                for executor in executors.values():
                    await executor.stop()
    figures = []
    for what, found, limit in (("`true` by pipe", command, 10.0), ("a file of 2 kB written and read", file, None)):
        for way in WAYS:
            ours, local = median(found[way]), median(found["local"])
            name = f"executors: {what}, {way}"
            figures.append(
                Figure(name=f"{name}, median", value=1e3 * ours, unit="ms", limit=None if way == "kernel" else limit)
            )
            figures.append(
                Figure(name=f"{name}, local = 1", value=ours / local, unit="x", note=f"local {1e3 * local:.2f} ms")
            )
    for way in WAYS:
        ours, local = median(output[way]), median(output["local"])
        note = f"{MEGABYTES / ours:.0f} against {MEGABYTES / local:.0f} MB/s"
        figures.append(
            Figure(name=f"executors: {MEGABYTES} MB by pipe, {way}, local = 1", value=ours / local, unit="x", note=note)
        )
    return figures


async def _alternate(
    executors: dict[str, Executor], one: Callable[[Executor], Awaitable[Command | None]], *, rounds: int = ROUNDS
) -> dict[str, list[float]]:
    """Seconds of each round, by executor; the first rounds do not count."""
    times: dict[str, list[float]] = {name: [] for name in executors}
    for turn in range(rounds + max(1, rounds // 20)):
        for name, executor in executors.items():
            begun = time.perf_counter()
            command = await one(executor)
            if turn >= max(1, rounds // 20):
                times[name].append(time.perf_counter() - begun)
            if command is not None:
                await command.close()
    return times


async def _command(executor: Executor) -> Command:
    command = await executor.spawn(["true"], run="pipe")
    await command.wait()
    return command


async def _file(executor: Executor) -> None:
    await executor.write_text_file("file", TEXT)
    await executor.read_text_file("file")


async def _output(executor: Executor) -> Command:
    command = await executor.spawn(f"head -c {MEGABYTES}000000 /dev/zero", run="pipe")
    if (await command.wait()).code != 0:
        raise RuntimeError("the command failed")
    return command
