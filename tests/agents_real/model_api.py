"""A stand-in for the services of models. There is no model: the person's text says what to do.

Every line of the last user text is a directive, and the rest is ignored. One tool is called per request, as models do;
the request that brings the last tool's result gets what is to be said:

    /run COMMAND        call the tool that runs a command
    /write PATH TEXT    call the tool that makes a file
    /read PATH          call the tool that reads a file (fast-agent)
    /think TEXT         a thought before the text
    /say TEXT           say it, word by word
    /recall             say every directive that came before, of the whole conversation
    /hang               fall silent, until the test says `go_on` or the client goes away

Requests without directives or without tools (titles, verdicts) are answered by a short text. How a request reads and
an answer looks on the wire is in openai_api.py and anthropic_api.py.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler

Item = dict[str, Any]
Directive = tuple[str, str]
Dialect = Callable[[Item], Iterator[Item]]
"""The events of the answer to one request; at SILENCE there is none for some time, or for ever."""

SILENCE: Item = {"type": "silence"}
TOOLS = ("/run", "/write", "/read")
DIRECTIVES = (*TOOLS, "/think", "/say", "/recall", "/hang")


class ModelApi:
    """The services on a port of their own.

    `requests` are the bodies that came, `keys` what each had for a key; `hanging` is set once an answer has fallen
    silent, `hung_up` once a client went away before its answer ended.
    """

    def __init__(self, dialects: Mapping[str, Dialect]) -> None:
        self.requests: list[Item] = []
        self.keys: list[str] = []
        self.hanging = asyncio.Event()
        self.hung_up = asyncio.Event()
        self.over = asyncio.Event()
        routes = [(path, _Answer, {"api": self, "dialect": dialect}) for path, dialect in dialects.items()]
        self._server = HTTPServer(Application(routes))
        socket, self.port = bind_unused_port()
        self._server.add_sockets([socket])

    def go_on(self) -> None:
        """End the silence of an answer."""
        self.over.set()

    def hang_up(self) -> None:
        """End the answer."""
        self.hung_up.set()
        self.over.set()

    async def close(self) -> None:
        """Stop listening, and end what is still being answered."""
        self.hang_up()
        self._server.stop()
        await self._server.close_all_connections()


class _Answer(RequestHandler):
    def initialize(self, api: ModelApi, dialect: Dialect) -> None:
        self.api = api
        self.dialect = dialect

    async def post(self) -> None:
        request = json.loads(self.request.body)
        self.api.requests.append(request)
        self.api.keys += [self.request.headers.get("Authorization") or self.request.headers.get("x-api-key", "")]
        self.set_header("Content-Type", "text/event-stream")
        for event in self.dialect(request):
            if event is SILENCE:
                self.api.hanging.set()
                await self.api.over.wait()
                if self.api.hung_up.is_set():
                    return
                continue
            self.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n")
            await self.flush()

    def on_connection_close(self) -> None:
        self.api.hang_up()


def directives(text: str) -> list[Directive]:
    """Those in a text of the person."""
    words = [(name, rest) for name, _, rest in (line.strip().partition(" ") for line in text.splitlines())]
    return [(name, rest) for name, rest in words if name in DIRECTIVES]


def wanted(history: Sequence[list[Directive]], results: int) -> list[Directive]:
    """What is to be done next, after `results` tools were called since the last of `history`: one tool, or words."""
    if not history:
        return [("/say", "All right")]
    calls = [directive for directive in history[-1] if directive[0] in TOOLS]
    if results < len(calls):
        return [calls[results]]
    words = [directive for directive in history[-1] if directive[0] not in TOOLS]
    earlier = "\n".join(" ".join(directive) for before in history[:-1] for directive in before)
    return [("/say", earlier) if name == "/recall" else (name, text) for name, text in words] or [("/say", "done")]


def words(text: str) -> list[str]:
    """A text as it is spoken."""
    return [word for word in text.replace(" ", " \0").split("\0") if word]
