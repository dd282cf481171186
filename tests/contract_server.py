"""A small Jupyter server that answers with the shapes of the public interface, and says what a test makes it say.

For the kernel's side and the widget, whose tests need events that no well-behaved agent sends.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tornado import web
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets, bind_unix_socket
from tornado.websocket import WebSocketHandler

Json = dict[str, Any]
TOKEN = "secret"


class Contract:
    """What the server knows: one session and its log. `play(turn, prompt)` is run in the server for every new turn."""

    def __init__(self, play: Callable[[str, str], None] | None = None) -> None:
        self.play = play or (lambda turn, prompt: self.answer(turn, prompt.upper()))
        self.events: list[Json] = []
        self.requests: list[tuple[str, str, Any]] = []
        self.turns: dict[str, str] = {}
        self.paths: list[str] = []
        self.sockets: set[Socket] = set()
        self.kernels: dict[str, str | None] = {}
        self.project = "local"
        self.projects: list[Json] = [{"id": "local", "name": "project", "state": "running", "role": "owner"}]
        self.pages: dict[str, tuple[str, str]] = {}
        self.loop: asyncio.AbstractEventLoop
        self.url = ""

    def say(self, turn: str | None, kind: str, /, **data: Any) -> None:
        """Append an event and send it to every socket. From any thread."""
        self.loop.call_soon_threadsafe(self._say, turn, kind, data)

    def _say(self, turn: str | None, kind: str, data: Json) -> None:
        self.events.append({"seq": len(self.events) + 1, "time": time.time(), "turn": turn, "kind": kind, "data": data})
        if kind == "turn_ended":
            self.turns.pop(data["id"], None)
        for socket in list(self.sockets):
            socket.catch_up()

    def answer(self, turn: str, text: str) -> None:
        """A whole turn that says `text`."""
        self.say(turn, "turn_started", id=turn, text="", user="u", message_id=f"{turn}-user")
        for word in text.split(" "):
            self.say(turn, "message_delta", message_id=f"{turn}-agent", role="agent", text=f"{word} ")
        self.end(turn)

    def end(self, turn: str, stop_reason: str = "end_turn", **data: Any) -> None:
        self.say(turn, "turn_ended", id=turn, stop_reason=stop_reason, elapsed_ms=1200, **data)

    def hang_up(self) -> None:
        """Close every socket, as a server does that goes."""
        self.loop.call_soon_threadsafe(lambda: [socket.close() for socket in list(self.sockets)])

    def summary(self) -> Json:
        return {
            "id": "s1",
            "project": self.project,
            "path": self.paths[-1] if self.paths else "",
            "agent": "demo",
            "state": "running" if self.turns else "idle",
            "access": {"requested": "full-access", "effective": "full-access"},
            "config_options": [{"id": "m", "category": "model", "currentValue": "big"}],
            "usage": {"used": 10, "size": 100},
            "turns": [{"id": id, "state": "running", "text": text} for id, text in self.turns.items()],
            "permissions": [],
            "last_seq": len(self.events),
        }

    def permission(self, turn: str, id: str = "p1", **changes: Any) -> None:
        """Ask for leave to run a command."""
        request = {
            "id": id,
            "kind": "permission",
            "tool_call": {"toolCallId": "c1", "title": "Run ls", "rawInput": {"command": "ls -l", "cwd": "/project"}},
            "options": [
                {"optionId": "yes", "name": "Allow", "kind": "allow_once"},
                {"optionId": "always", "name": "Always allow", "kind": "allow_always"},
                {"optionId": "no", "name": "Reject", "kind": "reject_once"},
            ],
        }
        self.say(turn, "permission_requested", **{**request, **changes})


class Rest(web.RequestHandler):
    """Every route but the socket."""

    def initialize(self, contract: Contract) -> None:
        self.contract = contract

    def prepare(self) -> None:
        self.body = json.loads(self.request.body) if self.request.body else None
        self.contract.requests.append((self.request.method or "", self.request.path, self.body))

    def fail(self, status: int, message: str, reason: str) -> None:
        self.set_status(status)
        self.finish({"message": message, "reason": reason})

    def reply(self, value: object, status: int = 200) -> None:
        self.set_status(status)
        self.finish(json.dumps(value))

    def get(self, path: str) -> None:
        contract = self.contract
        if path in contract.pages:
            content_type, text = contract.pages[path]
            self.set_header("Content-Type", content_type)
            return self.finish(text) and None
        if self.request.headers.get("Authorization") != f"token {TOKEN}":
            return self.fail(403, "Forbidden", "forbidden")
        if path.startswith("api/kernels/"):
            known = path.rsplit("/", 1)[1] in contract.kernels
            return self.reply({}) if known else self.fail(404, "Kernel does not exist", "unknown_kernel")
        asked = path.split("/")[3:4]  # of the project in it
        here = f"api/acp/projects/{asked[0] if asked and asked[0] in [p['id'] for p in contract.projects] else '?'}"
        answers: dict[str, object] = {
            "api/sessions": [{"path": p, "kernel": {"id": id}} for id, p in contract.kernels.items() if p],
            "api/acp": {"version": "0", "projects": contract.projects},
            f"{here}/agents": [
                {"id": "demo", "name": "Demo", "available": True, "version": "1", "default": True},
                {"id": "codex", "name": "Codex", "available": False, "hint": "npm install codex-acp"},
            ],
            f"{here}/sessions": [contract.summary()] if contract.paths else [],
            f"{here}/sessions/s1": contract.summary(),
        }
        return self.reply(answers[path]) if path in answers else self.fail(404, f"no {path}", "not_found")

    def post(self, path: str) -> None:
        contract = self.contract
        if path.endswith("/sessions"):
            contract.project = path.split("/")[3]
            contract.paths.append(self.body["path"])
            return self.reply(contract.summary(), 201)
        if path.endswith("/turns"):
            contract.turns[self.body["id"]] = self.body["prompt"]
            contract.play(self.body["id"], self.body["prompt"])
            return self.reply({"id": self.body["id"], "state": "running", "position": 0}, 202)
        if path.endswith("/interrupt"):
            contract.end(self.body["turn"], "cancelled")
            return self.reply({}, 202)
        id = path.rsplit("/", 1)[1]
        if any(e["kind"] == "permission_resolved" and e["data"]["id"] == id for e in contract.events):
            return self.fail(409, "already resolved", "already_resolved")
        turn = next(iter(contract.turns))
        contract.say(turn, "permission_resolved", id=id, outcome="selected", option_id=self.body["option_id"], by="ada")
        contract.end(turn)
        return self.reply(None, 200)

    def delete(self, path: str) -> None:
        self.fail(409, "the turn runs", "turn_running")


class Socket(WebSocketHandler):
    """The event stream."""

    def initialize(self, contract: Contract) -> None:
        self.contract = contract

    def open(self, *_: str) -> None:
        self.after = int(self.get_argument("after"))
        self.contract.requests.append(("WS", self.request.path, self.after))
        self.contract.sockets.add(self)
        self.catch_up()

    def catch_up(self) -> None:
        if events := self.contract.events[self.after :]:
            self.after = len(self.contract.events)
            self.write_message(json.dumps(events))

    def on_close(self) -> None:
        self.contract.sockets.discard(self)


@contextmanager
def serving(contract: Contract, sock: str | None = None) -> Iterator[Contract]:
    """Serve `contract` from a thread, on a port of its own or on the unix socket `sock`."""
    loop = asyncio.new_event_loop()
    contract.loop = loop

    async def start() -> HTTPServer:
        application = web.Application(
            [
                (r"/base/(api/acp/.*/events/subscribe)", Socket, {"contract": contract}),
                (r"/base/(.*)", Rest, {"contract": contract}),
            ]
        )
        server = HTTPServer(application)
        if sock:
            server.add_socket(bind_unix_socket(sock))
            contract.url = "http+unix://sock/base/"
        else:
            sockets = bind_sockets(0, "127.0.0.1")
            server.add_sockets(sockets)
            contract.url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}/base/"
        return server

    async def stop() -> None:
        server.stop()
        for socket in list(contract.sockets):
            socket.close()
        await server.close_all_connections()

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(start(), loop).result()
    try:
        yield contract
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
