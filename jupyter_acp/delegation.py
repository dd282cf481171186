"""The client methods that an agent may call in the project: `fs/*` and `terminal/*` of ACP v1.

Only agents whose catalogue entry says that they delegate get them; the others are answered -32601.
https://agentclientprotocol.com/protocol/file-system · https://agentclientprotocol.com/protocol/terminals
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os.path
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from .editortexts import EditorTexts
from .events import JsonObject, Kind
from .exceptions import AgentError, ExecutorError, RequestError
from .inbox import Inbox
from .journal import Journal
from .jsonrpc import Connection, RequestId
from .kernel_exec.base import Executor, Run
from .kernel_exec.terminals import ClientTerminals, Started
from .records import delegated_ended, delegated_started
from .store import Store

if TYPE_CHECKING:  # loaded with the first session: a server's start does not wait for it
    from .turnchanges import TurnChanges

log = logging.getLogger(__name__)

METHOD_NOT_FOUND, INVALID_PARAMS, INTERNAL, NOT_FOUND, CANCELLED = -32601, -32602, -32603, -32002, -32800


class Delegation:
    """Carries out one session's delegated calls, each in a task of its own, and answers them.

    `texts` is read before the disk is. `respond(id, result)` and `respond_error(id, code, message)` reach the agent.
    """

    def __init__(
        self,
        session_id: str,
        executor: Executor,
        terminals: ClientTerminals,
        journal: Journal,
        *,
        inbox: Inbox,
        changes: TurnChanges,
        texts: EditorTexts,
        cwd: str,
        respond: Callable[[RequestId, object], Awaitable[None]],
        respond_error: Callable[[RequestId, int, str], Awaitable[None]],
    ) -> None:
        self.texts = texts
        self._session_id = session_id
        self._executor = executor
        self._terminals = terminals
        self._journal = journal
        self._inbox = inbox
        self._changes = changes
        self._cwd = cwd
        self._respond = respond
        self._respond_error = respond_error
        self._tasks: dict[RequestId, asyncio.Task[None]] = {}

    @classmethod
    def for_session(
        cls,
        session_id: str,
        executor: Executor,
        store: Store,
        journal: Journal,
        inbox: Inbox,
        changes: TurnChanges,
        connection: Callable[[], Connection | None],
        *,
        run: Run,
        started: Started,
        texts: EditorTexts,
        cwd: str,
    ) -> Delegation:
        """The delegation of one session, whose present connection `connection` gives."""

        def emit(kind: Kind, data: JsonObject) -> Awaitable[None]:
            if kind is Kind.TERMINAL_OUTPUT and not data.get("truncated"):
                journal.delta(kind, data["terminal_id"], data["data"], turn=inbox.turn)
            else:
                journal.append(kind, data, turn=inbox.turn)
            # A command that writes faster than the disk takes it is held back by its own pty.
            return store.room()

        async def respond(request_id: RequestId, result: object) -> None:
            if found := connection():
                await found.respond(request_id, result)

        async def respond_error(request_id: RequestId, code: int, message: str) -> None:
            if found := connection():
                await found.respond_error(request_id, code, message)

        terminals = ClientTerminals(executor, emit, run=run, started=started)
        inbox.delegated = terminals.made
        return cls(
            session_id,
            executor,
            terminals,
            journal,
            inbox=inbox,
            changes=changes,
            texts=texts,
            cwd=cwd,
            respond=respond,
            respond_error=respond_error,
        )

    def start(self, request_id: RequestId, method: str, params: JsonObject) -> None:
        """Carry out one call; its answer follows. Recorded, since the agent waits for it also after a crash of ours."""
        self._journal.change(delegated_started(self._session_id, request_id))
        # now, for the agent's next line may end the call
        call_id = self._inbox.carried_out(method, params)
        task = asyncio.create_task(self._run(request_id, method, params, call_id), name=f"acp-{method}")
        self._tasks[request_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(request_id, None))

    async def answer_lost(self, request_ids: list[RequestId]) -> None:
        """Answer calls that an earlier coordinator had not answered when it ended."""
        for request_id in request_ids:
            message = "the server was restarted while it worked on this"
            await self._answered(request_id, self._respond_error(request_id, INTERNAL, message))

    def cancel(self, request_id: RequestId) -> bool:
        """The agent no longer wants the answer: it is answered -32800."""
        task = self._tasks.get(request_id)
        return task is not None and task.cancel()

    async def kill(self) -> None:
        """End every command that still runs (Stop)."""
        await self._terminals.kill_all()

    async def abandon(self) -> None:
        """The agent is gone: end its calls and its commands."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._terminals.kill_all()

    async def close(self) -> None:
        """End every call, every command and the executor, for good."""
        await self.abandon()
        await self._terminals.close()
        await self._executor.stop()

    async def _run(self, request_id: RequestId, method: str, params: JsonObject, call_id: str | None) -> None:
        code, message = INTERNAL, ""
        try:
            result = await self._call(method, params, call_id)
        except asyncio.CancelledError:
            code, message = CANCELLED, "cancelled"
        except KeyError as exc:
            code, message = INVALID_PARAMS, f"{method} needs {exc}"
        except (TypeError, ValueError) as exc:
            code, message = INVALID_PARAMS, f"{method}: {exc}"
        except FileNotFoundError as exc:
            code, message = NOT_FOUND, str(exc)
        except RequestError as exc:
            code, message = INVALID_PARAMS, exc.message
        except (ExecutorError, OSError) as exc:
            message = str(exc)
        except LookupError as exc:
            code, message = METHOD_NOT_FOUND, str(exc)
        else:
            await self._answered(request_id, self._respond(request_id, result))
            return
        await self._answered(request_id, self._respond_error(request_id, code, message))

    async def _call(self, method: str, params: JsonObject, call_id: str | None) -> object:
        if method == "fs/read_text_file":
            path, line, limit = self._whole(params["path"]), params.get("line"), params.get("limit")
            if (text := self.texts.read(path, line, limit)) is None:
                text = await self._executor.read_text_file(path, line, limit)
            return {"content": text}
        if method == "fs/write_text_file":
            path, content = self._whole(params["path"]), params["content"]
            if not isinstance(content, str):
                raise ValueError("content must be text")
            name = await self._changes.writes(self._inbox.turn, path)
            await self._executor.write_text_file(path, content)
            self.texts.written(path)
            self._journal.append(Kind.FILE_CHANGED, {"path": name, "route": "delegated"}, turn=self._inbox.turn)
            return {}
        if method == "terminal/create":
            created = await self._terminals.create({**params, "cwd": self._whole(params.get("cwd") or "")})
            if call_id is not None:
                self._inbox.show_terminal(call_id, created["terminalId"])
            return created
        if method.startswith("terminal/"):
            return await self._terminals.handle(method, params)
        raise LookupError(f"{method} is not supported by this client")

    def _whole(self, path: str) -> str:
        """A path as the agent means it: the protocol asks for absolute ones, but fast-agent's are the model's."""
        return os.path.join(self._cwd, path)

    async def _answered(self, request_id: RequestId, sending: Awaitable[None]) -> None:
        # The agent may be gone by now; then nobody waits for this answer.
        with contextlib.suppress(AgentError):
            await sending
        self._journal.change(delegated_ended(self._session_id, request_id))
