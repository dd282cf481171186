"""The project's side: files, commands and agents' runners of this server's root, for a coordinator elsewhere.

Only where `AcpExtension.serve_project` is on. `kernel_exec.server` says what goes over the wire of a command,
`sites.container` what of a runner.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from tornado.websocket import WebSocketClosedError

from .. import __version__
from ..agentspec import basic_environment
from ..egress.forwarder import Forwarder
from ..events import JsonObject, encode
from ..exceptions import AgentError, BadRequest, ExecutorError
from ..kernel_exec.base import Exit
from ..kernel_exec.local import LocalCommand, LocalExecutor
from ..kernel_exec.sandbox import Sandbox
from ..kernel_exec.server import WINDOW
from ..kernel_exec.server_link import error_to
from ..runner_link import LaunchSpec, last_words, launch
from ..runner_processes import kill_all, sweep, tree
from .base import AcpHandler, AcpSocket, route

log = logging.getLogger(__name__)

STATUS = {"file_missing": 404, "path_outside": 403, "failed": 422}
_CALLS_AT_ONCE = 64  # of one command
_MOST_GRACE = 3600.0  # seconds
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,80}")

_sandbox: ContextVar[Sandbox | None] = ContextVar("what confines this request", default=None)


class ProjectSide:
    """What the routes share.

    Parameters
    ----------
    root
        The project.
    hidden
        Folders of this server that a confined command must not see.
    runners
        Where the folders of agents' runners are.
    forwarder
        The way to the egress proxy, if there is one.
    """

    def __init__(self, root: Path, hidden: Sequence[Path], runners: Path, forwarder: Forwarder | None = None) -> None:
        self.runners = runners
        self._forwarder = forwarder
        self._root = root.resolve()
        self._hidden = tuple(hidden)
        # each request is a task with a context of its own
        self.executor = LocalExecutor(root, output_limit=0, sandbox=_sandbox.get)
        self._tasks: set[asyncio.Task[None]] = set()

    def confine(self, asked: object) -> None:
        """Have what this request does confined as it asks: `{workspace, network}`, or null for not at all."""
        if asked is None:
            return
        if not isinstance(asked, dict) or set(asked) != {"workspace", "network"}:
            raise BadRequest("a sandbox has a workspace and a network")
        workspace, network = asked["workspace"], asked["network"]
        if not isinstance(workspace, str | None) or not isinstance(network, bool):
            raise BadRequest("a workspace is a path or null, a network is true or false")
        _sandbox.set(
            Sandbox(
                project=self._root,
                workspace=None if workspace is None else self._root / workspace,
                hidden=self._hidden,
                network=network,
            )
        )

    def begin(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Do something that outlives the request, not the server."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def start(self) -> None:
        """Have agents reach model providers."""
        if self._forwarder is not None:
            await self._forwarder.start()

    async def stop(self) -> None:
        """End every command."""
        await self.executor.stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._forwarder is not None:
            await self._forwarder.stop()


class ProjectSideHandler(AcpHandler):
    """GET /project-side"""

    def initialize(self, side: ProjectSide) -> None:  # type: ignore[override]  # it has no project of the coordinator
        self.side = side

    async def ready(self) -> None:
        """At once: nothing here is the coordinator's."""

    @route
    async def get(self) -> None:
        self.finish_json({"version": __version__})

    def compute_etag(self) -> None:
        """Nobody keeps a copy: not worth hashing a file for."""

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """As everywhere; what files and commands say is told as it is."""
        exc = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(exc, ExecutorError):
            told = error_to(exc)
            self.set_status(STATUS[told["reason"]])
            self.finish(encode(told))
        else:
            super().write_error(status_code, **kwargs)

    def log_exception(self, *args: Any) -> None:
        """What the coordinator is told is no news for this log."""
        if not isinstance(args[1], ExecutorError):
            super().log_exception(*args)


class FilesHandler(ProjectSideHandler):
    """GET, PUT /project-side/files?path="""

    @route
    async def get(self) -> None:
        text = await self.side.executor.read_text_file(self._path(), self._count("line"), self._count("limit"))
        self.finish(text, set_content_type="text/plain; charset=utf-8")

    @route
    async def put(self) -> None:
        try:
            self.side.confine(json.loads(self.get_query_argument("sandbox")))
            text = self.request.body.decode("utf-8", "surrogatepass")
        except ValueError as exc:
            raise BadRequest(f"the text or its sandbox cannot be read: {exc}") from exc
        await self.side.executor.write_text_file(self._path(), text)
        self.set_status(204)
        self.finish()

    def _path(self) -> str:
        # not by get_argument, which wants UTF-8 and strips blanks
        paths = self.request.query_arguments.get("path", [])
        if len(paths) != 1:
            raise BadRequest("a file has a path")
        return os.fsdecode(paths[0])

    def _count(self, name: str) -> int | None:
        text = self.get_query_argument(name, None)
        try:
            return None if text is None else int(text)
        except ValueError as exc:
            raise BadRequest(f"{name} must be a number") from exc


class RunnersHandler(ProjectSideHandler):
    """GET, POST /project-side/runners"""

    @route
    async def get(self) -> None:
        folder = self.side.runners
        self.finish_json(sorted(path.name for path in folder.iterdir()) if folder.is_dir() else [])

    @route
    async def post(self) -> None:
        asked = self.body("name", "argv", "env", "cwd", "idle_timeout")
        name, argv, env, cwd = asked.get("name"), asked.get("argv"), asked.get("env"), asked.get("cwd")
        if not (isinstance(name, str) and _NAME.fullmatch(name)):
            raise BadRequest("a runner has a name")
        if not (isinstance(argv, list) and argv and all(isinstance(word, str) for word in argv)):
            raise BadRequest("an agent has an argv")
        if not (isinstance(env, dict) and all(isinstance(value, str) for value in env.values())):
            raise BadRequest("env has names and values")
        if not isinstance(cwd, str) or type(asked.get("idle_timeout")) not in (int, float):
            raise BadRequest("an agent has a folder, and a time that it is kept for")
        spec = LaunchSpec(
            argv=[sys.executable if word == "{python}" else word for word in argv],
            env={**basic_environment(os.environ), **env},
            cwd=cwd,
            idle_timeout=asked["idle_timeout"],
        )
        if self.side.runners.is_symlink():  # a user's doing: the coordinator looks for nobody where that leads
            self.side.runners.unlink()
        self.side.runners.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            await launch(self.side.runners / name, spec)
        except AgentError as exc:
            raise ExecutorError(str(exc)) from exc
        self.set_status(201)
        self.finish()


class RunnerHandler(ProjectSideHandler):
    """DELETE /project-side/runners/{name}: of one that is dead"""

    @route
    async def delete(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise BadRequest("a runner has a name")
        folder = self.side.runners / name
        words = await asyncio.to_thread(last_words, folder)
        await asyncio.to_thread(sweep, str(folder))
        self.finish_json({"last_words": words})


class LeftoversHandler(ProjectSideHandler):
    """POST /project-side/leftovers: end what was started with a mark in its environment, or below it"""

    @route
    async def post(self) -> None:
        asked = self.body("run", "younger_than")
        run, limit = asked.get("run"), asked.get("younger_than")
        if not (isinstance(run, str) and _NAME.fullmatch(run)) or not isinstance(limit, int | float):
            raise BadRequest("what was left has a mark and an age")
        self.finish_json({"killed": await asyncio.to_thread(_end_younger, run, limit)})


class CommandSocket(AcpSocket):
    """WS /project-side/commands: one command, which ends with the socket."""

    def initialize(self, side: ProjectSide) -> None:
        self._side = side
        self._command: LocalCommand | None = None
        self._asked = False
        self._closed = False
        self._credit = 0  # bytes that the coordinator will still take
        self._unsent = 0  # bytes that the network has not taken
        self._held = False
        self._calls = 0

    async def get(self) -> None:
        await self.check("execute")
        await super().get()

    async def on_message(self, message: str | bytes) -> None:
        if self._closed:
            return
        try:
            told = json.loads(message)
            if not isinstance(told, dict):
                raise ValueError("not an object")
            if not self._asked:
                self._asked = True
                await self._start(told)
            elif set(told) == {"more"}:
                self._credit += _natural(told["more"])
                self._hold()
            else:
                self._call(told)
        except BadRequest as exc:
            self._refuse(exc.message)
        except (KeyError, TypeError, ValueError, RecursionError) as exc:
            self._refuse(f"malformed: {exc!r}")

    def on_close(self) -> None:
        self._closed = True
        if self._command is not None:
            self._side.begin(self._end(self._command), f"end of command {self._command.id}")
        super().on_close()

    async def _start(self, told: JsonObject) -> None:
        asked = _asked(told)
        self._credit = _natural(told["more"])
        self._side.confine(told["sandbox"])
        try:
            command = await self._side.executor.spawn(**asked, on_bytes=self._output, on_exit=self._exited)
        except ExecutorError as exc:
            self._say({"error": error_to(exc)})
            self.close()
            return
        self._command = command
        if self._closed:
            await self._end(command)
            return
        self._say({"started": True})
        self._hold()

    def _output(self, data: bytes) -> None:
        if not data or self._closed:
            return
        self._credit -= len(data)
        self._unsent += len(data)

        def sent(_: object) -> None:
            self._unsent -= len(data)
            self._hold()

        self._send(data, then=sent)
        self._hold()

    def _hold(self) -> None:
        """A command is held back by a coordinator that does not take what it prints, whatever it says that it takes."""
        held = self._credit <= 0 or self._unsent >= WINDOW
        if self._command is not None and held != self._held:
            self._held = held
            self._command.hold(held)

    def _exited(self, exit: Exit) -> None:
        self._say({"exited": {"code": exit.code, "signal": exit.signal}})

    def _call(self, told: JsonObject) -> None:
        """Begin to do what is asked. Beside what comes next: what is typed may wait, and Stop may not."""
        number = told.pop("call")
        [(name, value)] = told.items()
        if self._command is None or self._calls == _CALLS_AT_ONCE:
            raise ValueError("not now")
        self._calls += 1
        self._side.begin(self._answer(number, _CALLS[name](self._command, value)), f"{name} of {self._command.id}")

    async def _answer(self, number: object, work: Coroutine[Any, Any, None]) -> None:
        answer: JsonObject = {"answer": number}
        try:
            await work
        except ExecutorError as exc:
            answer["error"] = error_to(exc)
        except (TypeError, ValueError) as exc:
            self._refuse(f"malformed: {exc!r}")
        except Exception:  # whoever asked must not wait for ever
            log.exception("command=%s", self._command.id if self._command else None)
            self._refuse("internal error")
        self._calls -= 1
        self._say(answer)

    async def _end(self, command: LocalCommand) -> None:
        try:
            await command.close()
        except ExecutorError as exc:
            log.warning("command=%s its connection is gone: %s", command.id, exc)

    def _say(self, told: JsonObject) -> None:
        self._send(encode(told))

    def _send(self, message: str | bytes, then: Callable[[object], None] = lambda _: None) -> None:
        with suppress(WebSocketClosedError):  # `on_close` is told
            sending = self.write_message(message, binary=isinstance(message, bytes))
            sending.add_done_callback(lambda sent: sent.cancelled() or sent.exception())
            sending.add_done_callback(then)

    def _refuse(self, reason: str) -> None:
        """The coordinator makes no sense: that is the end of it, and of the command."""
        self._closed = True
        self.close(1008, reason.encode()[:120].decode(errors="ignore"))


def _end_younger(run: str, limit: float) -> int:
    since = time.monotonic()

    def find() -> set[int]:
        return {pid for pid, age in tree(None, run).items() if age < limit + time.monotonic() - since}

    return kill_all(find)


def _asked(told: JsonObject) -> JsonObject:
    """A request for a command, checked: ValueError, TypeError or KeyError for what is none."""
    if set(told) != {"command", "run", "cwd", "env", "sandbox", "more"}:
        raise ValueError("a command is asked for by command, run, cwd, env, sandbox and more")
    command, run, cwd, env = told["command"], told["run"], told["cwd"], told["env"]
    if not isinstance(command, str) and not (isinstance(command, list) and all(isinstance(a, str) for a in command)):
        raise ValueError("a command is a line or a list of words")
    if run not in ("terminal", "pipe"):
        raise ValueError("a command runs by terminal or by pipe")
    if not isinstance(cwd, str | None):
        raise ValueError("cwd is a path")
    if not isinstance(env, dict) or not all(isinstance(value, str) for value in env.values()):
        raise ValueError("env has names and values")
    return {"command": command, "run": run, "cwd": cwd, "env": env}


def _natural(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no number of anything")
    return value


async def _kill(command: LocalCommand, grace: Any) -> None:
    if type(grace) not in (int, float) or not 0 <= grace <= _MOST_GRACE:
        raise ValueError(f"{grace!r} is no number of seconds")
    await command.kill(grace)


async def _resize(command: LocalCommand, size: Any) -> None:
    rows, columns = size
    if type(rows) is not int or type(columns) is not int:
        raise ValueError("a size is two numbers")
    await command.resize(rows, columns)


async def _write(command: LocalCommand, data: Any) -> None:
    await command.write(base64.b64decode(data, validate=True))


_CALLS: dict[str, Callable[[LocalCommand, Any], Coroutine[Any, Any, None]]] = {
    "kill": _kill,
    "resize": _resize,
    "write": _write,
}
