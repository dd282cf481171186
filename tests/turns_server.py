"""A coordinator in a process of its own that can be told to die at any step of its event loop.

Everything in it is real: database, runner, the scripted agent, the chat file. Only HTTP is left out. A process is there
within milliseconds, because multiprocessing's fork server has imported everything and forks it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import multiprocessing
import os
import signal
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Self

import psutil

from jupyter_acp.agentspec import Catalogue
from jupyter_acp.coordinator import Coordinator, Settings
from jupyter_acp.exceptions import RequestError
from jupyter_acp.projects.local import local_project
from jupyter_acp.session import Limits
from jupyter_acp.sites.local import LocalSite, Machine
from jupyter_acp.store import Store

QUEUE_LIMIT = 6
PATIENCE = 20.0
FORKS = multiprocessing.get_context("forkserver")
# what the imports here and of the main module come to; it would not find this very module
FORKS.set_forkserver_preload(["jupyter_acp.coordinator", "jupyter_acp.projects.local", "psutil", "pytest"])


class Server:
    """The process, as its clients see it. It can be started again after its end, on the same folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: BaseProcess | None = None
        (folder / "project").mkdir()

    def start(self, fuse: int | None = None) -> bool:
        """Start it, to die after `fuse` rounds of its loop. False where it died before it was ready."""
        self._pipe, theirs = FORKS.Pipe()
        self._process = FORKS.Process(target=_main, args=(theirs, self._folder, fuse), daemon=True)
        self._process.start()
        theirs.close()
        return self._receive() is not None

    def ask(self, *calls: tuple[Any, ...], fuse: int | None = None) -> list[tuple[str, Any]] | None:
        """Begin these calls in one round of its loop; what came of each, or None where it died before it said so."""
        self._pipe.send((calls, fuse))
        answers: list[tuple[str, Any]] | None = self._receive()
        return answers

    def gone(self) -> int:
        """Its exit status once it has ended, negative where a signal ended it."""
        assert self._process is not None and self._receive() is None
        self._process.join(PATIENCE)
        status = self._process.exitcode
        assert status is not None, "the server does not end"
        return status

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End it and all that it started, where that has not ended."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
        for process in self.left(0):
            process.kill()

    def left(self, seconds: float) -> list[psutil.Process]:
        """Runners and agents that are still there after so long."""
        return psutil.wait_procs(list(self._started()), timeout=seconds)[1]

    def _started(self) -> Iterator[psutil.Process]:
        """Runners have the folder as an argument, and their agents have it in their environment."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if str(self._folder) in " ".join([*process.cmdline(), *process.environ().values()]):
                    yield process

    def _receive(self) -> Any:
        assert self._pipe.poll(PATIENCE), "the server does not answer"
        # it may have died in the middle of its answer
        with contextlib.suppress(EOFError, OSError):
            return self._pipe.recv()
        return None


def _main(pipe: Connection, folder: Path, fuse: int | None) -> None:
    log = os.open(folder / "server.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    warnings.simplefilter("error")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    asyncio.run(_serve(pipe, folder, fuse))
    gc.collect()  # what was not closed says so now


async def _serve(pipe: Connection, folder: Path, fuse: int | None) -> None:
    _light(fuse)
    project = local_project(folder / "project")
    environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state")}
    coordinator = Coordinator(
        store=Store(folder / "coordinator.db"),
        project=project,
        site=LocalSite(project, Machine(runtime_dir=folder / "run", environment=environment)),
        catalogue=Catalogue.load(directories=[], configured={}, default="demo"),
        settings=Settings(
            snapshots=folder / "snapshots",
            follow_changes=False,  # how long a look takes is no part of a story that can be told again
            limits=Limits(queue=QUEUE_LIMIT, cancel_grace=0.4, kill_grace=0.2),
        ),
    )
    await coordinator.ready()
    session, _ = await coordinator.open("a.chat")
    session_id = session.row.id
    pipe.send("ready")
    with contextlib.suppress(EOFError):  # whoever ran us is gone, and nobody else would end the agent
        while True:
            calls, fuse = await asyncio.to_thread(pipe.recv)
            _light(fuse)
            pipe.send(await asyncio.gather(*(_answer(coordinator, session_id, *call) for call in calls)))
            if ("stop",) in calls:
                return
    await coordinator.close(session_id)
    await coordinator.stop()


def _light(rounds: int | None) -> None:
    """Die after so many rounds of the loop. None of them waits, so the moment is a step of the work at hand."""

    def burn(left: int) -> None:
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        loop.call_soon(burn, left - 1)

    if rounds is not None:
        loop = asyncio.get_running_loop()
        loop.call_soon(burn, rounds)


async def _answer(coordinator: Coordinator, session_id: str, do: str, *args: Any) -> tuple[str, Any]:
    try:
        return "ok", await _carry_out(coordinator, session_id, do, *args)
    except RequestError as exc:
        return "refused", exc.reason
    except Exception as exc:
        return "failed", repr(exc)


async def _carry_out(coordinator: Coordinator, session_id: str, do: str, *args: Any) -> Any:
    store = coordinator.store
    if do == "stop":
        return await coordinator.stop()
    if do == "close":
        return await coordinator.close(session_id)
    if do == "read":
        # A refusal is said at once, what it is about may be on its way to the disk: after this it is there.
        await store.append(session_id, [])
        return [json.loads(text) for text in await store.read(session_id, *args)]
    if do == "follow":
        async with contextlib.aclosing(store.follow(session_id, *args)) as log:  # type: ignore[type-var]
            return [json.loads(text) for text in await anext(log)]
    if do == "rows":
        return {turn.id: str(turn.state) for turn in await store.turns(session_id)}
    session = await coordinator.get(session_id)
    if do == "summary":
        return session.summary()
    if do == "submit":
        turn, script, effort = args
        await session.submit(turn, script, {"username": "ann"}, effort and {"effort": effort})
    elif do == "answer":
        question, option = args
        await session.answer(question, option, None, "ann")
    else:
        assert do in ("edit", "withdraw", "send_now", "interrupt")
        await getattr(session, do)(*args)
