"""Code in kernels of a real, headless Jupyter server."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import pytest

from jupyter_acp.exceptions import ExecutorError
from jupyter_acp.kernel_exec.kernel_link import KernelGone, KernelServer
from jupyter_acp.kernel_exec.kernels import Execution, Kernel

from .kernel_server import TOKEN, KernelServerProcess, Proxy

QUICK = {"KernelRestarter": {"time_to_dead": 0.3}}


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelServerProcess]:
    process = KernelServerProcess(tmp_path_factory.mktemp("server") / "s", **QUICK)
    process.start()
    yield process
    process.stop()


@pytest.fixture
def server(process: KernelServerProcess) -> KernelServer:
    return process.address


@pytest.fixture
def kernel_id(process: KernelServerProcess) -> str:
    """A kernel for tests that leave it as it was."""
    assert process.kernel_id is not None
    return process.kernel_id


class Outputs(list[dict[str, Any]]):
    """What was put out, and a way to wait for it."""

    def __init__(self) -> None:
        self._news = asyncio.Condition()

    async def take(self, output: dict[str, Any]) -> None:
        self.append(output)
        async with self._news:
            self._news.notify_all()

    @property
    def text(self) -> str:
        return "".join(output.get("text", "") for output in self)

    async def says(self, wanted: str) -> None:
        async with self._news:
            await asyncio.wait_for(self._news.wait_for(lambda: wanted in self.text), 20)


@asynccontextmanager
async def connected(server: KernelServer, id: str | None = None, **options: Any) -> AsyncIterator[Kernel]:
    kernel = Kernel(server, id=id, **options)
    try:
        await kernel.start()
        yield kernel
    finally:
        await (kernel.close() if id else kernel.shutdown())


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(test(), 50)

    asyncio.run(limited())


def test_outputs_come_in_order_and_in_the_shape_of_a_notebook(server: KernelServer, kernel_id: str) -> None:
    code = """
import sys
from IPython.display import HTML, clear_output, display, update_display
print('out'); sys.stdout.flush(); print('err', file=sys.stderr); sys.stderr.flush()
display(HTML('<b>1</b>'), display_id='d'); update_display(HTML('<b>2</b>'), display_id='d')
clear_output(wait=True)
40 + 2"""

    async def test() -> None:
        async with connected(server, kernel_id) as kernel:
            outputs = Outputs()
            ended = await kernel.run_code(code, outputs.take)
            assert ended == Execution(status="ok", execution_count=outputs[-1]["execution_count"])
            assert [output["output_type"] for output in outputs] == [
                *("stream", "stream", "display_data", "update_display_data", "clear_output", "execute_result")
            ]
            out, err, shown, updated, cleared, result = outputs
            assert (out["name"], out["text"], err["name"], err["text"]) == ("stdout", "out\n", "stderr", "err\n")
            assert shown["data"]["text/html"] == "<b>1</b>" and updated["data"]["text/html"] == "<b>2</b>"
            assert shown.pop("transient")["display_id"] == updated["transient"]["display_id"] == "d"
            assert cleared["wait"] is True
            cell = nbformat.v4.new_code_cell(outputs=[out, err, shown, result])
            nbformat.validate(nbformat.v4.new_notebook(cells=[cell]))

    run(test)


def test_an_error_is_an_output_and_the_status_and_the_kernel_goes_on(server: KernelServer, kernel_id: str) -> None:
    async def test() -> None:
        async with connected(server, kernel_id) as kernel:
            outputs = Outputs()
            ended = await kernel.run_code("raise ValueError('no')", outputs.take)
            assert ended.status == "error"
            assert ended.error is not None and ended.error["ename"] == "ValueError" and ended.error["evalue"] == "no"
            assert outputs[-1]["output_type"] == "error" and outputs[-1]["traceback"]
            assert (await kernel.run_code("1")).status == "ok"

    run(test)


def test_output_comes_while_the_code_runs_and_an_interrupt_ends_it(server: KernelServer, kernel_id: str) -> None:
    async def test() -> None:
        async with connected(server, kernel_id) as kernel:
            outputs = Outputs()
            code = "import time\nprint('begun', flush=True)\ntime.sleep(60)"
            running = asyncio.ensure_future(kernel.run_code(code, outputs.take))
            await outputs.says("begun")
            await kernel.interrupt()
            ended = await running
            assert ended.error is not None and ended.error["ename"] == "KeyboardInterrupt"

    run(test)


def test_several_executions_run_one_after_the_other_in_their_order(server: KernelServer, kernel_id: str) -> None:
    async def test() -> None:
        async with connected(server, kernel_id) as kernel:
            outputs = Outputs()
            codes = ["import time; time.sleep(.2); print('a')", "1/0", *(f"print({n})" for n in range(5))]
            ended = await asyncio.gather(*(kernel.run_code(code, outputs.take) for code in codes))
            assert outputs.text.split() == ["a", "0", "1", "2", "3", "4"]
            assert [execution.status for execution in ended] == ["ok", "error", *["ok"] * 5]

    run(test)


def test_code_whose_caller_is_cancelled_is_interrupted(server: KernelServer, kernel_id: str) -> None:
    async def test() -> None:
        async with connected(server, kernel_id) as kernel:
            outputs = Outputs()
            code = "import time\nprint('begun', flush=True)\ntime.sleep(60)"
            running = asyncio.ensure_future(kernel.run_code(code, outputs.take))
            await outputs.says("begun")
            running.cancel()
            assert (await kernel.run_code("1")).status == "ok"

    run(test)


@pytest.mark.parametrize("prepare", ["", "get_ipython().kernel._allow_stdin = True; "])
def test_code_that_asks_for_input_fails_and_says_why(server: KernelServer, kernel_id: str, prepare: str) -> None:
    async def test() -> None:
        async with connected(server, kernel_id) as kernel:
            outputs = Outputs()
            ended = await kernel.run_code(prepare + "input('name? ')", outputs.take)
            assert ended.status == "error"
            assert "input" in outputs.text + str(ended.error)

    run(test)


KILL = "import os, signal; print('begun', flush=True); os.kill(os.getpid(), signal.SIGKILL)"


def test_a_kernel_that_dies_ends_the_code_and_what_waits(server: KernelServer) -> None:
    async def test() -> None:
        async with connected(server, name="python3") as kernel:
            ends = asyncio.gather(*(kernel.run_code(code) for code in (KILL, "1")), return_exceptions=True)
            first, second = await ends
            assert isinstance(first, KernelGone) and "died" in str(first)
            # it was restarted meanwhile, or not yet
            assert isinstance(second, ExecutorError | Execution)
            assert (await kernel.run_code("1")).status == "ok"

    run(test)


@pytest.mark.parametrize("how", ["restart", "delete", "kill, unheard"])
def test_a_kernel_that_somebody_else_ends_or_restarts_ends_the_code(server: KernelServer, how: str) -> None:
    async def test() -> None:
        async with connected(server, check=0.2) as kernel:
            outputs = Outputs()
            code = "import os, time\nprint(os.getpid(), 'begun', flush=True)\ntime.sleep(60)"
            running = asyncio.ensure_future(kernel.run_code(code, outputs.take))
            await outputs.says("begun")
            path = f"api/kernels/{kernel.id}"
            if how == "restart":
                await server.call("POST", path + "/restart")
            else:
                if how != "delete":  # so that it cannot say good-bye
                    os.kill(int(outputs.text.split()[0]), signal.SIGSTOP)
                await server.call("DELETE", path)
            with pytest.raises(KernelGone):
                await running
            if how == "restart":
                assert (await kernel.run_code("1")).status == "ok"

    run(test)


def test_a_server_that_is_killed_ends_the_code(tmp_path: Path) -> None:
    process = KernelServerProcess(tmp_path / "s")
    process.start()

    async def test() -> None:
        kernel = Kernel(process.address)
        await kernel.start()
        outputs = Outputs()
        code = "import os, time\nprint(os.getpid(), 'begun', flush=True)\ntime.sleep(60)"
        running = asyncio.ensure_future(kernel.run_code(code, outputs.take))
        await outputs.says("begun")
        process.kill()
        try:
            with pytest.raises(ExecutorError, match="lost"):
                await running
            with pytest.raises(ExecutorError, match="lost"):
                await kernel.run_code("1")
        finally:
            with suppress(ProcessLookupError):  # it ends with its server, soon
                os.kill(int(outputs.text.split()[0]), signal.SIGKILL)
            await kernel.close()

    run(test)


def test_output_that_the_server_drops_is_noticed(server: KernelServer, kernel_id: str) -> None:
    async def test() -> None:
        async with connected(server, kernel_id) as kernel:
            outputs = Outputs()
            ended = await kernel.run_code("for _ in range(80): print('x' * 100_000)", outputs.take)
            assert ended.status == "ok" and ended.incomplete
            assert "rate exceeded" in outputs.text
            forged = await kernel.run_code(
                "import sys; print('IOPub data rate exceeded.', file=sys.stderr)", outputs.take
            )
            assert not forged.incomplete

    run(test)


def test_a_connection_that_breaks_off_loses_nothing(server: KernelServer) -> None:
    async def test() -> None:
        async with Proxy(server) as proxy, connected(proxy.address) as kernel:
            outputs = Outputs()
            code = "import time\nfor i in range(40): print(i, flush=True); time.sleep(.03)"
            running = asyncio.ensure_future(kernel.run_code(code, outputs.take))
            await outputs.says("3\n")
            proxy.cut()
            assert (await running).status == "ok"
            assert [int(word) for word in outputs.text.split()] == list(range(40))

    run(test)


def test_a_result_that_went_by_while_there_was_no_connection_is_an_error_not_a_hang(server: KernelServer) -> None:
    async def test() -> None:
        async with connected(server) as other, Proxy(server) as proxy:  # noqa: SIM117
            # the server keeps nothing for us while another client is there
            async with connected(proxy.address, other.id) as kernel:
                outputs = Outputs()
                running = asyncio.ensure_future(
                    kernel.run_code("print('begun', flush=True); import time; time.sleep(.2)", outputs.take)
                )
                await outputs.says("begun")
                proxy.cut(stay_down=True)
                await other.run_code("1")  # after ours
                proxy.up()
                with pytest.raises(ExecutorError, match="lost on its way"):
                    await running
                assert (await kernel.run_code("1")).status == "ok"

    run(test)


def test_a_large_output_comes_whole(server: KernelServer, kernel_id: str) -> None:
    async def test() -> None:
        async with connected(server, kernel_id) as kernel:
            outputs = Outputs()
            await kernel.run_code("from IPython.display import HTML; HTML('é' * 12_000_000)", outputs.take)
            assert outputs[-1]["data"]["text/html"] == "é" * 12_000_000

    run(test)


def test_a_listener_that_fails_does_not_lose_the_end(
    server: KernelServer, kernel_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with connected(server, kernel_id) as kernel:

            def fail(output: dict[str, Any]) -> None:
                raise RuntimeError("mistake")

            assert (await kernel.run_code("print(1)", fail)).status == "ok"

    run(test)
    assert "mistake" in caplog.text


def test_what_cannot_be_started_says_why_and_never_the_token(
    server: KernelServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def test() -> None:
        wrong = replace(server, token="wrong-" + TOKEN)
        nowhere = replace(server, url="http://127.0.0.1:1")
        for kernel in (
            Kernel(server, name="no-such-spec"),
            Kernel(server, id="0" * 36),
            Kernel(wrong),
            Kernel(nowhere),
        ):
            with pytest.raises(ExecutorError) as refused:
                await kernel.start()
            assert TOKEN not in f"{refused.getrepr()} {server!r}"
            await kernel.close()

    run(test)
    assert TOKEN not in caplog.text


@pytest.mark.parametrize("kind", ["unix socket", "older protocol", "gateway"])
def test_the_same_through(kind: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {}
    if kind == "gateway":
        options = {"gateway": True}
    elif kind == "older protocol":
        options = {"ZMQChannelsWebsocketConnection": {"kernel_ws_protocol": ""}}
    process = KernelServerProcess(tmp_path / "s", unix=kind == "unix socket", **options)
    process.start()

    async def test() -> None:
        async with connected(process.address) as kernel:
            outputs = Outputs()
            assert (await kernel.run_code("print('é'); 2", outputs.take)).status == "ok"
            assert outputs[0]["text"] == "é\n" and outputs[1]["data"]["text/plain"] == "2"
            async with connected(process.address, kernel.id) as another:
                running = asyncio.ensure_future(
                    another.run_code("print('begun', flush=True); import time; time.sleep(60)", outputs.take)
                )
                await outputs.says("begun")
                await another.interrupt()
                assert (await running).status == "error"

    try:
        run(test)
    finally:
        process.stop()
    assert TOKEN not in process.log()
