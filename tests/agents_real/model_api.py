"""A stand-in for the OpenAI Responses API, as far as Codex uses it. No model: the person's text says what to do.

Every line of the last user text is a directive, and the rest is ignored. One tool is called per request, as models do;
the request that brings the last tool's result gets what is to be said:

    /run COMMAND        call the tool that runs a command
    /write PATH TEXT    call the tool that applies a patch, to add a file
    /think TEXT         a summary of reasoning before the text
    /say TEXT           say it, word by word
    /recall             say every directive that came before, of the whole conversation
    /hang               begin to answer and never end, until the client goes away

A model that Codex knows is offered one tool `exec`, whose input is JavaScript; another one function tools. Both are
spoken here. Requests without directives or without tools (titles, verdicts) are answered by a short text.
https://platform.openai.com/docs/api-reference/responses-streaming
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler

Item = dict[str, Any]
TOOLS = ("/run", "/write")
DIRECTIVES = (*TOOLS, "/think", "/say", "/recall", "/hang")
PLAIN = "All right"


class ModelApi:
    """The service on a port of its own. `requests` are the bodies that came, `hung_up` is set once a client went
    away before its answer ended."""

    def __init__(self) -> None:
        self.requests: list[Item] = []
        self.hanging = asyncio.Event()
        self.hung_up = asyncio.Event()
        self._server = HTTPServer(Application([("/v1/responses", _Responses, {"api": self})]))
        socket, self.port = bind_unused_port()
        self._server.add_sockets([socket])

    async def close(self) -> None:
        """Stop listening, and end what is still being answered."""
        self.hung_up.set()
        self._server.stop()
        await self._server.close_all_connections()


class _Responses(RequestHandler):
    def initialize(self, api: ModelApi) -> None:
        self.api = api

    async def post(self) -> None:
        request = json.loads(self.request.body)
        self.api.requests.append(request)
        self.set_header("Content-Type", "text/event-stream")
        for number, event in enumerate(answer(request)):
            self.write(f"event: {event['type']}\ndata: {json.dumps({**event, 'sequence_number': number})}\n\n")
            await self.flush()
            if event["type"] == "response.in_progress":
                self.api.hanging.set()
                await self.api.hung_up.wait()
                return

    def on_connection_close(self) -> None:
        self.api.hung_up.set()


def answer(request: Item) -> Iterator[Item]:
    """The events of one response; one of type `response.in_progress` stands for silence from then on."""
    said = len(request["input"])
    id = f"resp_{said}"
    yield {"type": "response.created", "response": {"id": id, "status": "in_progress"}}
    output: list[Item] = []
    for item in _output(request):
        if item["type"] == "hang":
            yield {"type": "response.in_progress", "response": {"id": id, "status": "in_progress"}}
            return
        output.append({**item, "id": f"{item['type']}_{said}_{len(output)}"})
        yield from _stream(output[-1], len(output) - 1)
    usage = {"input_tokens": said, "output_tokens": 5, "total_tokens": said + 5}
    yield {
        "type": "response.completed",
        "response": {"id": id, "status": "completed", "output": output, "usage": usage},
    }


def _output(request: Item) -> Iterator[Item]:
    """What the directives want next: a tool, else the words."""
    items = request["input"]
    last = max((at for at, item in enumerate(items) if _directives(item)), default=None)
    if last is None or not request.get("tools"):
        yield _message(PLAIN)
        return
    directives = _directives(items[last])
    calls = [directive for directive in directives if directive[0] in TOOLS]
    done = sum(item["type"].endswith("_call_output") for item in items[last:])
    if done < len(calls):
        yield _call(request["tools"], *calls[done], f"call_{len(items)}")
        return
    for name, text in directives:
        if name == "/think":
            yield {"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]}
        elif name == "/say":
            yield _message(text)
        elif name == "/recall":
            earlier = [" ".join(directive) for item in items[:last] for directive in _directives(item)]
            yield _message("\n".join(earlier) or "nothing")
        elif name == "/hang":
            yield {"type": "hang"}
    if calls and len(calls) == len(directives):
        yield _message("done")


def _directives(item: Item) -> list[tuple[str, str]]:
    """Those of a message of the person."""
    if item.get("role") != "user":
        return []
    lines = [line for part in item["content"] for line in part.get("text", "").splitlines()]
    words = [(name, text) for name, _, text in (line.strip().partition(" ") for line in lines)]
    return [(name, text) for name, text in words if name in DIRECTIVES]


def _message(text: str) -> Item:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"type": "message", "role": "assistant", "status": "completed", "content": content}


def _call(tools: list[Item], name: str, text: str, call_id: str) -> Item:
    path, _, content = text.partition(" ")
    patch = f"*** Begin Patch\n*** Add File: {path}\n+{content}\n*** End Patch"
    if any(tool.get("type") == "custom" and tool["name"] == "exec" for tool in tools):
        call = f"exec_command({json.dumps({'cmd': text, 'yield_time_ms': 30000})})"
        if name == "/write":
            call = f"apply_patch({json.dumps(patch)})"
        script = f"const r = await tools.{call}; text(JSON.stringify(r));"
        return {"type": "custom_tool_call", "call_id": call_id, "name": "exec", "input": script}
    # it takes the patch out of such a command, and applies it itself
    command = f"apply_patch <<'EOF'\n{patch}\nEOF" if name == "/write" else text
    arguments = json.dumps({"cmd": command, "yield_time_ms": 30000})
    return {"type": "function_call", "call_id": call_id, "name": "exec_command", "arguments": arguments}


def _stream(item: Item, index: int) -> Iterator[Item]:
    """An item of the output as it grows."""
    where = {"item_id": item["id"], "output_index": index}
    yield {"type": "response.output_item.added", "output_index": index, "item": item | _EMPTY.get(item["type"], {})}
    if item["type"] == "message":
        where |= {"content_index": 0}
        [part] = item["content"]
        yield {"type": "response.content_part.added", **where, "part": {**part, "text": ""}}
        for word in _words(part["text"]):
            yield {"type": "response.output_text.delta", **where, "delta": word}
        yield {"type": "response.output_text.done", **where, "text": part["text"]}
        yield {"type": "response.content_part.done", **where, "part": part}
    elif item["type"] == "reasoning":
        where |= {"summary_index": 0}
        [part] = item["summary"]
        yield {"type": "response.reasoning_summary_part.added", **where, "part": {**part, "text": ""}}
        for word in _words(part["text"]):
            yield {"type": "response.reasoning_summary_text.delta", **where, "delta": word}
        yield {"type": "response.reasoning_summary_text.done", **where, "text": part["text"]}
        yield {"type": "response.reasoning_summary_part.done", **where, "part": part}
    else:
        kind, key = ("custom_tool_call_input", "input") if "input" in item else ("function_call_arguments", "arguments")
        yield {"type": f"response.{kind}.delta", **where, "delta": item[key]}
        yield {"type": f"response.{kind}.done", **where, key: item[key]}
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


_EMPTY: dict[str, Item] = {
    "message": {"content": [], "status": "in_progress"},
    "reasoning": {"summary": []},
    "custom_tool_call": {"input": ""},
    "function_call": {"arguments": ""},
}


def _words(text: str) -> list[str]:
    return [word for word in text.replace(" ", " \0").split("\0") if word]
