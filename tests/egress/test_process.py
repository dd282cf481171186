"""The egress proxy as a process of its own: there whatever becomes of the coordinator, and no longer than needed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from egress_world import KEY, STREAM, Seen, World, event, post, says, world

from jupyter_acp import unixsockets
from jupyter_acp.egress import link as link_module
from jupyter_acp.egress.link import CONTROL, EgressLink, end
from jupyter_acp.egress.providers import Providers
from jupyter_acp.exceptions import ExecutorError

ASK = post("/openai/responses", b"secret question")


class Deployed:
    """A provider, and a project's folder with the proxy in it."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = replace(world, socket=folder / "e" / "egress.sock")
        self.folder = folder
        self.links: list[EgressLink] = []

    def link(self, **options: object) -> EgressLink:
        """A coordinator's hold."""
        self.links.append(self.world.link(self.folder, **options))  # type: ignore[arg-type]
        return self.links[-1]

    async def pid(self) -> int:
        """Of the process that listens for controllers."""
        with contextlib.closing(await unixsockets.connect(self.folder / CONTROL)) as sock:
            return int(struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])


@contextlib.asynccontextmanager
async def _deployed(tmp_path: Path, name: str) -> AsyncIterator[Deployed]:
    async with world(tmp_path) as w:
        deployed = Deployed(w, tmp_path / name)
        yield deployed
        for link in deployed.links:
            await link.let_go()
        await end(deployed.folder / CONTROL)


@pytest.fixture(params=["run"])
def deployed(tmp_path: Path, request: Any, jp_asyncio_loop: asyncio.AbstractEventLoop) -> Iterator[Deployed]:
    context = _deployed(tmp_path, request.param)
    yield jp_asyncio_loop.run_until_complete(context.__aenter__())
    jp_asyncio_loop.run_until_complete(context.__aexit__(None, None, None))


async def gone(pid: int, within: float = 20) -> None:
    """Return once a process has ended. psutil.TimeoutExpired."""
    with contextlib.suppress(psutil.NoSuchProcess):
        await asyncio.to_thread(psutil.Process(pid).wait, within)


async def logged(caplog: pytest.LogCaptureFixture, words: str) -> None:
    """Return once the log has these words."""
    async with asyncio.timeout(20):
        while words not in caplog.text:  # noqa: ASYNC110  # a log has no event
            await asyncio.sleep(0.01)


async def test_an_answer_under_way_goes_on_while_one_coordinator_leaves_and_the_next_one_comes(
    deployed: Deployed,
) -> None:
    go_on = asyncio.Event()

    async def answer(request: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + event("first"))
        await go_on.wait()
        writer.write(event({"usage": {"total_tokens": 7}}) + b"0\r\n\r\n")

    deployed.world.upstream.answer = answer
    link = deployed.link()
    await link.start()
    pid = await deployed.pid()
    async with deployed.world.call(ASK) as caller:
        assert await caller.read_head() == 200
        assert b"first" in await caller.read_chunk()
        await link.let_go()
        following = deployed.link()
        await following.start()
        go_on.set()
        assert b"total_tokens" in await caller.read_chunk()
        assert await caller.read_chunk() == b""
        assert await caller.reader.read() == b""  # then it has been counted
    assert await deployed.pid() == pid
    assert following.usage() == {"tokens_today": 7, "token_limit": 0}
    assert len(deployed.world.upstream.seen) == 1


async def test_to_stop_it_ends_the_process_and_what_is_under_way_in_it(deployed: Deployed) -> None:
    hanging = asyncio.Event()

    async def answer(request: Seen, writer: asyncio.StreamWriter) -> None:
        hanging.set()
        await request.gone()

    deployed.world.upstream.answer = answer
    link = deployed.link()
    await link.start()
    pid = await deployed.pid()
    async with deployed.world.call(ASK) as caller:
        await hanging.wait()
        await link.stop()
        assert await caller.reader.read() == b""
    await gone(pid)
    assert [path.name for path in deployed.folder.rglob("*")] == ["e"]
    await link.stop()
    await link.start()
    deployed.world.upstream.answer = says({"ok": True})
    assert (await deployed.world.ask(ASK))[0] == 200


async def test_a_coordinator_ends_the_proxy_that_an_earlier_one_has_left(deployed: Deployed) -> None:
    link = deployed.link()
    await link.start()
    pid = await deployed.pid()
    await link.let_go()
    await deployed.link().stop()
    await gone(pid)
    with pytest.raises(FileNotFoundError):
        await deployed.pid()


async def test_one_that_is_killed_is_there_again_and_the_log_says_so(
    deployed: Deployed, caplog: pytest.LogCaptureFixture
) -> None:
    link = deployed.link()
    await link.start()
    pid = await deployed.pid()
    os.kill(pid, signal.SIGKILL)
    await logged(caplog, "project=p1 its way to model providers has died; it is opened again")
    await link.start()
    assert await deployed.pid() != pid
    assert (await deployed.world.ask(ASK))[0] == 200


async def test_one_that_hangs_is_replaced_by_the_next_coordinator(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = deployed.link()
    await link.start()
    pid = await deployed.pid()
    await link.let_go()
    os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr(link_module, "ANSWER", 0.2)
    with contextlib.suppress(ExecutorError):  # a new one may be slower than that
        await deployed.link().start()
    await gone(pid)
    monkeypatch.undo()
    await deployed.links[-1].start()
    assert (await deployed.world.ask(ASK))[0] == 200


async def test_one_of_another_version_is_replaced(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "__version__", "0.0.1")
    link = deployed.link()
    await link.start()
    pid = await deployed.pid()
    await link.let_go()
    monkeypatch.undo()
    await deployed.link().start()
    await gone(pid)
    assert (await deployed.world.ask(ASK))[0] == 200


async def test_a_second_coordinator_takes_it_and_the_first_one_does_not_fight_for_it(
    deployed: Deployed, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await deployed.link().start()
    pid = await deployed.pid()
    await deployed.link().start()
    await logged(caplog, "project=p1 another server has taken its way to model providers")
    assert await deployed.pid() == pid
    await deployed.world.ask(ASK)
    await logged(caplog, "POST /openai/responses 200 ")
    assert caplog.text.count("POST /openai/responses 200 ") == 1
    assert "has died" not in caplog.text


async def test_what_it_logs_while_no_coordinator_is_there_is_told_to_the_next(
    deployed: Deployed, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    link = deployed.link()
    await link.start()
    await link.let_go()
    # it learns of that by itself: only then nobody listens
    await deployed.world.ask(ASK)
    await deployed.world.ask(post("/other/x"))
    await deployed.link().start()
    await logged(caplog, "POST /other/x 404 ")
    record = next(record for record in caplog.records if "POST /other/x 404 " in record.getMessage())
    assert (record.name, record.levelno) == ("jupyter_acp.egress", logging.INFO)
    assert "secret question" not in caplog.text and KEY not in caplog.text


async def test_a_limit_and_providers_that_change_count_from_then_on(deployed: Deployed) -> None:
    link = deployed.link()
    await link.start()
    deployed.world.upstream.answer = says({"usage": {"total_tokens": 9}})
    assert (await deployed.world.ask(ASK))[0] == 200
    link.set_limit(5)
    async with asyncio.timeout(20):
        while (await deployed.world.ask(ASK))[0] != 429:
            pass
    assert link.usage()["token_limit"] == 5
    await link.let_go()
    configured = deployed.world.proxy.providers.configured
    deployed.world.proxy.providers = Providers.load({"moved": {**configured["openai"]}})
    await deployed.link().start()
    async with asyncio.timeout(20):
        assert (await deployed.world.refused(ASK)) == (404, "provider_not_found")
        assert (await deployed.world.ask(post("/moved/responses")))[0] == 200


async def test_nobody_reads_a_key_or_the_servers_environment_off_the_process(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_TOKEN", "planted-token")
    await deployed.link(HTTPS_PROXY="http://127.0.0.1:1").start()
    assert (await deployed.world.ask(ASK))[0] == 200
    process = psutil.Process(await deployed.pid())
    shown = " ".join(process.cmdline()) + str(process.environ())
    assert "HTTPS_PROXY" in shown
    assert KEY not in shown and "planted-token" not in shown
    assert (deployed.folder / CONTROL).stat().st_mode & 0o777 == 0o600
    assert process.cwd() == "/"
    assert os.getsid(process.pid) == process.pid != os.getsid(0)


async def test_one_that_nobody_needs_any_more_ends_after_its_time(deployed: Deployed) -> None:
    link = deployed.link(idle_timeout=0.5)
    await link.start()
    pid = await deployed.pid()
    await link.let_go()
    await gone(pid)
    assert [path.name for path in deployed.folder.rglob("*")] == ["e"]


async def test_one_that_is_used_does_not_end_for_want_of_a_coordinator(deployed: Deployed) -> None:
    go_on = asyncio.Event()

    async def answer(request: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + event("first"))
        await go_on.wait()
        writer.write(b"0\r\n\r\n")

    deployed.world.upstream.answer = answer
    link = deployed.link(idle_timeout=0.5)
    await link.start()
    pid = await deployed.pid()
    async with deployed.world.call(ASK) as caller:
        assert await caller.read_head() == 200
        await link.let_go()
        # whatever happens to it in a time that is long enough for it to have ended would be its end
        with pytest.raises(psutil.TimeoutExpired):
            await gone(pid, within=1.5)
        go_on.set()
        assert b"first" in await caller.read_body()
    await gone(pid)


async def test_one_whose_folder_was_removed_ends_by_itself(
    deployed: Deployed, caplog: pytest.LogCaptureFixture
) -> None:
    link = deployed.link(idle_timeout=0.5)
    await link.start()
    pid = await deployed.pid()
    (deployed.folder / CONTROL).unlink()
    await gone(pid)
    await logged(caplog, "it is opened again")
    await link.start()
    assert (await deployed.world.ask(ASK))[0] == 200


async def test_where_it_cannot_listen_it_is_said_why(deployed: Deployed) -> None:
    deployed.folder.mkdir()
    (deployed.folder / "e").write_text("a file")
    with pytest.raises(ExecutorError, match=r"the way to model providers cannot be opened: .*exists"):
        await deployed.link().start()


@pytest.mark.parametrize("deployed", ["long" * 30], indirect=True)
async def test_sockets_may_be_at_a_path_longer_than_the_kernel_takes(deployed: Deployed) -> None:
    await deployed.link().start()
    assert (await deployed.world.ask(ASK))[0] == 200
