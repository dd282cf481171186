"""The executor of a server that has kernels only: what the contract's tests do not say."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from jupyter_acp.exceptions import ExecutorError
from jupyter_acp.kernel_exec.base import Exit
from jupyter_acp.kernel_exec.kernel_executor import KernelExecutor
from jupyter_acp.kernel_exec.kernel_link import KernelGone
from jupyter_acp.kernel_exec.kernels import Kernel

from . import alive, until
from .kernel_server import TOKEN, KernelServerProcess, Proxy
from .test_contract import Listener

SLEEP = "echo $$; exec sleep 60"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelServerProcess]:
    server = KernelServerProcess(tmp_path_factory.mktemp("kernels") / "s", KernelRestarter={"time_to_dead": 0.3})
    server.start()
    yield server
    server.stop()


def run(test: Callable[[], Awaitable[None]]) -> None:
    before = len(os.listdir("/dev/fd"))
    asyncio.run(asyncio.wait_for(test(), 55))
    assert len(os.listdir("/dev/fd")) == before, "a descriptor was left open"


async def sleeper(executor: KernelExecutor) -> tuple[Any, int]:
    """A command that sleeps, and the number of its process."""
    said = Listener()
    command = await executor.spawn(SLEEP, on_output=said.output)
    return command, await said.number()


MESS = """
import builtins, os, signal, socket, sys, threading
os.chdir('/'); os.environ.clear(); socket.setdefaulttimeout(0.001)
exec = eval = open = print = get_ipython = json = os = sys = None
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
In.clear(); Out.clear()
"""


def test_whatever_the_person_does_in_the_kernel_neither_harms_nor_sees_us(server: KernelServerProcess) -> None:
    async def test() -> None:
        notebook = Kernel(server.address)
        await notebook.start()
        try:
            await notebook.run_code(MESS)
            shown: list[dict[str, Any]] = []
            await notebook.run_code("sorted(globals()), sorted(__import__('sys').modules)", shown.append)
            here = KernelExecutor(server.address, kernel_id=notebook.id, root=str(server.root))
            await here.start()
            try:
                command, _ = await sleeper(here)
                again = await notebook.run_code("sorted(globals()), sorted(__import__('sys').modules)", shown.append)
                assert again.execution_count == 3
                names, names_again = (eval(output["data"]["text/plain"]) for output in shown)
                # of IPython's own there is one more input, and one more result
                assert [name for name in names_again[0] if name not in names[0] and name.strip("_i123")] == []
                assert not [name for name in names_again[1] if "acp" in name]
                await notebook.run_code("%reset -f\n__import__('gc').collect()")
                await command.kill()
                assert (await (await here.spawn("exit 3", cwd=".")).wait()).code == 3
            finally:
                await here.stop()
        finally:
            await notebook.shutdown()

    run(test)


@pytest.mark.parametrize("cell", ["import time; time.sleep(60)", "while True: pass"])
def test_a_cell_that_runs_holds_nothing_up_and_its_interrupt_is_not_ours(
    server: KernelServerProcess, cell: str
) -> None:
    async def test() -> None:
        notebook = Kernel(server.address)
        await notebook.start()
        here = KernelExecutor(server.address, kernel_id=notebook.id, root=str(server.root))
        try:
            await here.start()
            command, pid = await sleeper(here)
            begun = asyncio.Event()
            code = "print('begun', flush=True)\n" + cell
            running = asyncio.ensure_future(notebook.run_code(code, lambda output: begun.set()))
            await begun.wait()
            began = time.monotonic()
            other, other_pid = await sleeper(here)
            await here.write_text_file("a", "text")
            assert await here.read_text_file("a") == "text"
            await other.kill()
            assert not alive(other_pid)
            assert time.monotonic() - began < 10 and not running.done()
            await notebook.interrupt()
            assert (await running).status == "error"
            assert alive(pid) and command.exit is None
        finally:
            await here.stop()
            await notebook.shutdown()

    run(test)


def test_commands_run_beside_each_other(server: KernelServerProcess) -> None:
    async def test() -> None:
        here = server.executor()
        await here.start()
        try:
            # each waits for the next: one after the other they would never end
            lines = [f"until test -e {n + 1}; do sleep 0.01; done; touch {n}; echo {n}" for n in range(12)]
            commands = [await here.spawn(line, run="pipe") for line in lines]
            await here.write_text_file("12", "")
            assert [(await command.wait()).code for command in commands] == [0] * 12
            assert [command.output()[0] for command in commands] == [f"{n}\n" for n in range(12)]
        finally:
            await here.stop()

    run(test)


def test_stop_ends_the_kernel_that_was_started_and_leaves_one_that_was_there(server: KernelServerProcess) -> None:
    async def test() -> None:
        for ours in (True, False):
            here = KernelExecutor(server.address) if ours else server.executor()
            await here.start()
            state = here.get_state()
            assert state["root"] == str(server.root), "where the kernel is"
            _, pid = await sleeper(here)
            await here.stop()
            assert await here.poll() == 0 and not alive(pid)
            kernels = [kernel["id"] for kernel in await server.address.call("GET", "api/kernels")]
            assert (state["kernel"] in kernels) is not ours

    run(test)


def test_another_coordinator_goes_on_with_the_kernel(server: KernelServerProcess) -> None:
    async def test() -> None:
        first = KernelExecutor(server.address)
        await first.start()
        command, pid = await sleeper(first)
        state = json.loads(json.dumps(first.get_state()))
        assert TOKEN not in json.dumps(state)
        second = KernelExecutor(server.address)
        second.load_state(state)
        await second.start()
        # as on this machine, commands do not survive their coordinator
        assert (await command.wait()).signal == "SIGKILL" and not alive(pid)
        assert second.get_state() == state
        assert (await (await second.spawn("exit 3")).wait()).code == 3
        await second.stop()
        assert await first.poll() == 1
        await first.stop()
        third = KernelExecutor(server.address)
        third.load_state(state)
        with pytest.raises(KernelGone):
            await third.start()
        await third.stop()

    run(test)


@pytest.mark.parametrize("how", ["killed", "restarted", "host killed"])
def test_where_the_kernel_goes_its_commands_go_too_and_start_has_it_again(
    server: KernelServerProcess, how: str
) -> None:
    async def test() -> None:
        here = KernelExecutor(server.address)
        await here.start()
        try:
            kernel, host = [int(pid) for pid in await parents(here)]
            said = Listener()
            command = await here.spawn("echo $$; exec sleep 60", on_output=said.output, on_exit=said.exit)
            pid = await said.number()
            if how == "restarted":
                await server.address.call("POST", f"api/kernels/{here.get_state()['kernel']}/restart")
            else:
                os.kill(kernel if how == "killed" else host, signal.SIGKILL)
            assert await command.wait() == Exit(code=None, signal="SIGKILL")
            assert said.exits == [command.exit]
            await until(lambda: not alive(pid) and not alive(host))
            assert await here.poll() == 1
            with pytest.raises(ExecutorError, match="kernel"):
                await here.spawn("true")
            await here.start()
            assert await here.poll() is None
            assert (await (await here.spawn("exit 3")).wait()).code == 3
        finally:
            await here.stop()

    run(test)


async def parents(executor: KernelExecutor) -> list[str]:
    """The kernel, and the host that it started."""
    # command, keeper, spawner, host, kernel
    code = """
import os
pid = os.getppid()
for _ in range(3):
    print(pid)
    pid = int(open(f'/proc/{pid}/stat').read().rpartition(')')[2].split()[1])
print(pid)
"""
    command = await executor.spawn([sys.executable, "-c", code], run="pipe")
    await command.wait()
    return command.output()[0].split()[:1:-1]


FORK = """
import os, time
pid = os.fork()
if pid == 0:
    os.setsid(); time.sleep(40); os._exit(0)
print(pid, os.getpid())
"""


def test_a_fork_of_the_kernel_does_not_keep_the_host(server: KernelServerProcess) -> None:
    async def test() -> None:
        notebook = Kernel(server.address)
        await notebook.start()
        here = KernelExecutor(server.address, kernel_id=notebook.id, root=str(server.root))
        try:
            await here.start()
            _, host = [int(pid) for pid in await parents(here)]
            command, _ = await sleeper(here)
            shown: list[dict[str, Any]] = []
            await notebook.run_code(FORK, shown.append)
            fork, kernel = (int(word) for word in "".join(out["text"] for out in shown).split()[:2])
            os.kill(kernel, signal.SIGKILL)
            await until(lambda: not alive(host))
            assert alive(fork)
            os.kill(fork, signal.SIGKILL)
            assert (await command.wait()).signal == "SIGKILL"
        finally:
            await here.stop()
            with suppress(ExecutorError):  # the server may be at the restart just now, and confused
                await notebook.shutdown()

    run(test)


def test_a_connection_that_breaks_off_loses_no_output(server: KernelServerProcess) -> None:
    async def test() -> None:
        async with Proxy(server.address) as proxy:
            here = KernelExecutor(proxy.address, kernel_id=server.kernel_id, root=str(server.root))
            await here.start()
            said = Listener()
            command = await here.spawn("for i in $(seq 100); do echo $i; sleep 0.02; done", on_output=said.output)
            for at in (5, 30, 60):
                await said.says(f"\n{at}\n")
                proxy.cut()
            assert (await command.wait()).code == 0
            assert said.text.split() == [str(n) for n in range(1, 101)]
            await here.stop()

    run(test)


def test_where_a_coordinator_is_not_heard_of_any_more_its_commands_end(server: KernelServerProcess) -> None:
    async def test() -> None:
        async with Proxy(server.address) as proxy:
            here = KernelExecutor(proxy.address, kernel_id=server.kernel_id, root=str(server.root), patience=2.5)
            await here.start()
            command, pid = await sleeper(here)
            await asyncio.wait([asyncio.ensure_future(command.wait())], timeout=3)
            assert alive(pid), "silence of a command is no silence of ours"
            proxy.cut(stay_down=True)
            await until(lambda: not alive(pid))
            assert (await command.wait()).signal == "SIGKILL"
            assert await here.poll() == 1
            await here.stop()

    run(test)


KERNEL = """
from ipykernel.kernelapp import IPKernelApp
from ipykernel.kernelbase import Kernel
class Other(Kernel):
    implementation = implementation_version = banner = 'other'
    language_info = {'name': 'other', 'version': '1', 'mimetype': 'text/plain', 'file_extension': '.txt'}
IPKernelApp.launch_instance(kernel_class=Other)
"""


def test_a_kernel_of_another_language_is_refused_and_not_left(server: KernelServerProcess) -> None:
    spec = server.folder / "data" / "kernels" / "other"
    spec.mkdir(parents=True)
    argv = [sys.executable, "-c", KERNEL, "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Other", "language": "other"}))

    async def test() -> None:
        before = await server.address.call("GET", "api/kernels")
        here = KernelExecutor(server.address, kernel="other")
        with pytest.raises(ExecutorError, match=r"Python 3\.11 or newer"):
            await here.start()
        assert len(await server.address.call("GET", "api/kernels")) == len(before)
        await here.stop()

    run(test)


def test_what_a_command_is_given_shows_nowhere_else(server: KernelServerProcess) -> None:
    async def test() -> None:
        here = server.executor()
        await here.start()
        await here.spawn("sleep 60", env={"GIVEN": "planted-" + "secret"})
        lines = [file.read_bytes() for file in Path("/proc").glob("[0-9]*/cmdline")]
        assert not [line for line in lines if b"planted-secret" in line or TOKEN.encode() in line]
        await here.stop()

    run(test)
    assert "planted-secret" not in server.log() and TOKEN not in server.log()


def test_through_a_kernel_gateway(tmp_path: Path) -> None:
    gateway = KernelServerProcess(tmp_path / "s", gateway=True)
    gateway.start()

    async def test() -> None:
        here = KernelExecutor(gateway.address)
        await here.start()
        await here.write_text_file("a", "text")
        command = await here.spawn("cat a; exit 3", run="pipe")
        assert (await command.wait()).code == 3 and command.output() == ("text", False)
        await here.stop()

    try:
        run(test)
    finally:
        gateway.stop()
