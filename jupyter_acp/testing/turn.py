"""What a directive can do: send updates, ask the client, run commands, wait. A cancelled turn ends every wait."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Sequence
from typing import Any

from .sessions import Session, Settings, config_options
from .wire import JsonObject, RpcError, Wire


class Cancelled(Exception):
    """The client has cancelled the turn."""


class Turn:
    """One prompt being carried out, on a thread of its own.

    `stop_reason` is what it will be answered with; None: it is never answered. `late` is sent after the answer.
    """

    def __init__(self, wire: Wire, session: Session, prompt: list[JsonObject], settings: Settings) -> None:
        self.wire = wire
        self.session = session
        self.prompt = prompt
        self._settings = settings
        self.cancelled = threading.Event()
        self.stubborn = False
        self.stop_reason: str | None = "end_turn"
        self.late: list[tuple[float, JsonObject]] = []
        self.done: list[JsonObject] = []
        self._wake: queue.SimpleQueue[JsonObject | None] = queue.SimpleQueue()

    def cancel(self) -> None:
        """Called by the reader's thread."""
        self.cancelled.set()
        self._wake.put(None)

    def check(self) -> None:
        """Raise Cancelled if the client has cancelled, unless the turn is stubborn."""
        if self.cancelled.is_set() and not self.stubborn:
            raise Cancelled

    def sleep(self, seconds: float) -> None:
        """Wait; Cancelled as soon as the client cancels."""
        if self.stubborn:
            time.sleep(seconds)
        elif self.cancelled.wait(seconds):
            raise Cancelled

    def update(self, update: JsonObject, *, keep: bool = True) -> None:
        """Send a `session/update`; `keep` it for a later load."""
        self.check()
        if keep:
            self.keep(update)
        self.wire.notify("session/update", {"sessionId": self.session.id, "update": update})

    def keep(self, update: JsonObject) -> None:
        """Remember an update for a later load; chunks of text in a row become one."""
        last = self.done[-1] if self.done else {}
        chunk = update.get("content")
        if (
            isinstance(chunk, dict)
            and chunk.get("type") == "text"
            and last.get("sessionUpdate") == update["sessionUpdate"]
            and last.get("messageId") == update.get("messageId")
            and last.get("content", {}).get("type") == "text"
        ):
            last["content"] = {"type": "text", "text": last["content"]["text"] + chunk["text"]}
        else:
            self.done.append(dict(update))

    def text(self, text: str, *, kind: str = "agent_message_chunk", id: str | None = None) -> None:
        """Send a chunk of text."""
        update: JsonObject = {"sessionUpdate": kind, "content": {"type": "text", "text": text}}
        if id is not None:
            update["messageId"] = id
        self.update(update)

    def ask(self, method: str, params: JsonObject, *, wait: bool = False, withdraw: float | None = None) -> Any:
        """Ask the client and return its result; RpcError is its error.

        A cancelled turn withdraws the question with `$/cancel_request` and goes on, as codex and claude do; with `wait`
        it holds out for the answer, as gemini and kimi do. `withdraw` seconds: withdrawn without a cancel.
        """
        answers: queue.SimpleQueue[JsonObject | None] = queue.SimpleQueue()
        self._wake = answers
        id = self.wire.ask(method, params, answers.put)
        self.check_unless(wait)
        try:
            answer = answers.get(timeout=withdraw)
        except queue.Empty:
            self.wire.notify("$/cancel_request", {"requestId": id})
            answer = answers.get(timeout=30)
        while answer is None:
            if not (wait or self.stubborn):
                self.wire.notify("$/cancel_request", {"requestId": id})
                raise Cancelled
            answer = answers.get()
        if "error" in answer:
            raise RpcError(answer["error"]["code"], answer["error"]["message"])
        return answer.get("result")

    def check_unless(self, wait: bool) -> None:
        """`check`, but not where the turn waits for an answer whatever happens."""
        if not wait:
            self.check()

    def set_mode(self, mode: str) -> None:
        """The agent changes its own mode, and says so in the generation that it speaks."""
        self.session.set("mode", mode)
        if self._settings.generation == "config":
            listed = config_options(self.session, booleans=self._settings.booleans)
            self.update({"sessionUpdate": "config_option_update", "configOptions": listed}, keep=False)
        else:
            self.update({"sessionUpdate": "current_mode_update", "currentModeId": mode}, keep=False)

    def path(self, name: str) -> str:
        """`name` in the session's folder."""
        return os.path.join(self.session.cwd, name)

    def tool(self, title: str, kind: str, **fields: Any) -> str:
        """Open a tool call; returns its id."""
        id = fields.pop("toolCallId", None) or f"call-{uuid.uuid4().hex[:12]}"
        fields.setdefault("status", "in_progress")
        self.update({"sessionUpdate": "tool_call", "toolCallId": id, "title": title, "kind": kind, **fields})
        return id

    def tool_update(self, id: str, **fields: Any) -> None:
        """Change a tool call."""
        self.update({"sessionUpdate": "tool_call_update", "toolCallId": id, **fields})

    def shell(
        self, command: str, *, title: str | None = None, leave: bool = False, remote: Sequence[str] | None = None
    ) -> int:
        """Run a command ourselves and show it as real agents do: a terminal of ours, told in `_meta`.

        A cancelled turn kills it; with `leave` it goes on running, as codex lets it. `remote` is the program that runs
        it, read from its stdin.
        """
        id = f"call-{uuid.uuid4().hex[:12]}"
        self.tool(
            title or command,
            "execute",
            toolCallId=id,
            content=[{"type": "terminal", "terminalId": id}],
            rawInput={"command": command, "cwd": self.session.cwd},
            _meta={"terminal_info": {"terminal_id": id, "cwd": self.session.cwd}},
        )
        process = subprocess.Popen(
            remote or ["/bin/sh", "-c", command],
            cwd=None if remote else self.session.cwd,
            stdin=subprocess.PIPE if remote else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
                stdin.write(command.encode())
        reader = threading.Thread(target=self._show_output, args=(process, id), daemon=True)
        reader.start()
        try:
            while reader.is_alive():
                self.check()
                reader.join(0.01)
        except Cancelled:
            if not leave:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            raise
        code = process.wait()
        ended = {
            "terminal_id": id,
            "exit_code": code if code >= 0 else None,
            "signal": str(-code) if code < 0 else None,
        }
        self.tool_update(
            id,
            status="completed" if code == 0 else "failed",
            rawOutput={"exit_code": code},
            _meta={"terminal_exit": ended},
        )
        return code

    def _show_output(self, process: subprocess.Popen[bytes], id: str) -> None:
        assert process.stdout is not None
        while data := os.read(process.stdout.fileno(), 64 << 10):
            output = {"terminal_id": id, "data": data.decode(errors="replace")}
            with contextlib.suppress(Cancelled):
                # not kept: what a load replays of a command is its call and its end
                self.update(
                    {"sessionUpdate": "tool_call_update", "toolCallId": id, "_meta": {"terminal_output": output}},
                    keep=False,
                )

    def write_file(self, name: str, text: str, *, id: str | None = None) -> str:
        """Write a file ourselves, shown as an edit with its diff; returns the tool call's id."""
        path = self.path(name)
        try:
            with open(path, encoding="utf-8") as stream:
                old: str | None = stream.read()
        except FileNotFoundError:
            old = None
        shown = {"content": [{"type": "diff", "path": path, "oldText": old, "newText": text}]}
        if id is None:
            id = self.tool(f"Write {name}", "edit", locations=[{"path": path, "line": 1}], **shown)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(text)
        self.tool_update(id, status="completed", **shown)
        return id
