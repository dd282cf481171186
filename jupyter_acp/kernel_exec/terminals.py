"""ACP v1 `terminal/*` of one session: wire parameters to an executor, and what comes of it to the log.

https://agentclientprotocol.com/protocol/terminals. Ids of terminals that the agent made itself (`_meta`) are not ours
and never come here. A method raises RequestError for the agent's mistakes and ExecutorError for the command's.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from jupyter_acp.events import JsonObject, Kind
from jupyter_acp.exceptions import BadRequest, Conflict, NotFound
from jupyter_acp.kernel_exec.base import Command, Executor, Exit, Run, finish_all

Emit: TypeAlias = Callable[[Kind, JsonObject], Awaitable[None] | None]
"""Takes one event for the log. An awaitable result holds the command's output back."""

Started: TypeAlias = Callable[[str, Command], None]
"""Takes the id and the command of a terminal that a person can now watch and type into."""


class ClientTerminals:
    """The terminals that one agent session asked for.

    Parameters
    ----------
    executor
        Where the commands run. It stays the caller's.
    emit
        Gets `terminal_output` and `terminal_exited`, in order, the latter once per terminal. Released terminals
        stay in the log, so a screen goes on showing them.
    run
        How the commands run.
    started
        Told of each that runs in a terminal.
    limit
        How many may be held at once. Beyond it the oldest that has ended makes room; if all run, `create` refuses.
    """

    def __init__(
        self,
        executor: Executor,
        emit: Emit,
        *,
        run: Run = "terminal",
        started: Started = lambda identity, command: None,
        limit: int = 64,
    ) -> None:
        self._executor = executor
        self._emit = emit
        self._run = run
        self._started = started
        self._limit = limit
        self._commands: dict[str, Command] = {}  # by terminal id, oldest first
        self._made: set[str] = set()
        self._stops = 0
        self._closed = False

    async def handle(self, method: str, params: JsonObject) -> JsonObject:
        """Answer a `terminal/*` request; NotFound for a method that does not exist."""
        answer = {
            "terminal/create": self.create,
            "terminal/output": self.output,
            "terminal/wait_for_exit": self.wait_for_exit,
            "terminal/kill": self.kill,
            "terminal/release": self.release,
        }.get(method)
        if answer is None:
            raise NotFound(f"{method} does not exist", "unknown_method")
        return await answer(params)

    async def create(self, params: JsonObject) -> JsonObject:
        """`terminal/create`. A command without `args` is a line for the shell, as agents mean it."""
        command, args = params.get("command"), params.get("args") or []
        if not isinstance(command, str) or not command.strip():
            raise BadRequest("terminal/create needs a command")
        if not isinstance(args, list) or not all(isinstance(arg, str) for arg in args):
            raise BadRequest("args must be a list of strings")
        self._check_open()
        cwd, env, limit = _cwd(params), _env(params), _limit(params)
        await self._make_room()
        identity = f"term_{secrets.token_hex(8)}"  # ours, so that it is known before the first output
        self._made.add(identity)
        stops = self._stops
        started = await self._executor.spawn(
            [command, *args] if args else command,
            run=self._run,
            cwd=cwd,
            env=env,
            output_limit=limit,
            on_output=lambda text, truncated: self._emit(Kind.TERMINAL_OUTPUT, _piece(identity, text, truncated)),
            on_exit=lambda exit: self._emit(Kind.TERMINAL_EXITED, _exited(identity, exit)),
        )
        try:
            self._check_open()
        except Conflict:
            await started.close()
            raise
        self._commands[identity] = started
        if self._run == "terminal":
            self._started(identity, started)
        if self._stops != stops:  # Stop came while it started
            await started.kill()
        return {"terminalId": identity}

    def made(self, terminal_id: str) -> bool:
        """Whether an id is of a terminal that was created here, released or not; others are the agent's own."""
        return terminal_id in self._made

    async def output(self, params: JsonObject) -> JsonObject:
        """`terminal/output`: the tail up to now."""
        command = self._find(params)
        text, truncated = command.output()
        answer: JsonObject = {"output": text, "truncated": truncated}
        if command.exit is not None:
            answer["exitStatus"] = _wire(command.exit)
        return answer

    async def wait_for_exit(self, params: JsonObject) -> JsonObject:
        """`terminal/wait_for_exit`. Answers too when the terminal is killed or released meanwhile."""
        return _wire(await self._find(params).wait())

    async def kill(self, params: JsonObject) -> JsonObject:
        """`terminal/kill`: returns when all is gone; the id stays good."""
        await self._find(params).kill()
        return {}

    async def release(self, params: JsonObject) -> JsonObject:
        """`terminal/release`: kill, and forget the id."""
        command = self._find(params)
        del self._commands[params["terminalId"]]
        await command.close()
        return {}

    async def kill_all(self) -> None:
        """Stop: end every command with all that it started, also what ended ones left behind. Ids stay good."""
        self._stops += 1
        await finish_all(command.kill() for command in list(self._commands.values()))

    async def close(self) -> None:
        """End and forget all; nothing can be created any more. Idempotent."""
        self._closed = True
        commands = list(self._commands.values())
        self._commands.clear()
        await finish_all(command.close() for command in commands)

    def _check_open(self) -> None:
        if self._closed:
            raise Conflict("the session has been closed", "session_closed")

    async def _make_room(self) -> None:
        if len(self._commands) < self._limit:
            return
        ended = next((id for id, command in self._commands.items() if command.exit is not None), None)
        if ended is None:
            raise Conflict(f"{self._limit} commands run already", "too_many_terminals")
        await self._commands.pop(ended).close()

    def _find(self, params: JsonObject) -> Command:
        identity = params.get("terminalId")
        command = self._commands.get(identity) if isinstance(identity, str) else None
        if command is None:
            raise NotFound(f"no terminal {identity!r} (never created, or released)", "unknown_terminal")
        return command


def _wire(exit: Exit) -> JsonObject:
    return {"exitCode": exit.code, "signal": exit.signal}


def _piece(identity: str, text: str, truncated: bool) -> JsonObject:
    data: JsonObject = {"terminal_id": identity, "data": text}
    if truncated:
        data["truncated"] = True
    return data


def _exited(identity: str, exit: Exit) -> JsonObject:
    return {"terminal_id": identity, "exit_code": exit.code, "signal": exit.signal}


def _cwd(params: JsonObject) -> str | None:
    cwd = params.get("cwd")
    if cwd is not None and not isinstance(cwd, str):
        raise BadRequest("cwd must be a string")
    return cwd


def _env(params: JsonObject) -> dict[str, str]:
    """ACP's list of name and value."""
    env: dict[str, str] = {}
    entries = params.get("env") or []
    if not isinstance(entries, list):
        raise BadRequest("env must be a list")
    for entry in entries:
        name, value = (entry.get("name"), entry.get("value")) if isinstance(entry, dict) else (None, None)
        if not isinstance(name, str) or not name or not isinstance(value, str):
            raise BadRequest("each entry of env needs a name and a value")
        env[name] = value
    return env


def _limit(params: JsonObject) -> int | None:
    limit = params.get("outputByteLimit")
    if limit is None:
        return None
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
        raise BadRequest("outputByteLimit must be a number of bytes")
    return limit
