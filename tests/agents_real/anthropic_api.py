"""The Messages API of Anthropic, as far as Claude Code uses it.

https://docs.anthropic.com/en/docs/build-with-claude/streaming
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from .model_api import SILENCE, Item, directives, wanted, words


def messages(request: Item) -> Iterator[Item]:
    """The events of `POST /v1/messages`."""
    said = len(request["messages"])
    usage = {"input_tokens": said, "output_tokens": 5}
    message = {"id": f"msg_{said}", "type": "message", "role": "assistant", "model": request["model"], "content": []}
    yield {"type": "message_start", "message": {**message, "stop_reason": None, "stop_sequence": None, "usage": usage}}
    reason = "end_turn"
    for index, (name, text) in enumerate(_wanted(request)):
        if name == "/hang":
            yield SILENCE
            continue
        block, deltas = _block(_tools(request), name, text, f"toolu_{said}_{index}")
        reason = "tool_use" if block["type"] == "tool_use" else reason
        yield {"type": "content_block_start", "index": index, "content_block": block}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    yield {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": usage}
    yield {"type": "message_stop"}


def _wanted(request: Item) -> list[tuple[str, str]]:
    history: list[list[tuple[str, str]]] = []
    results = 0
    for message in request["messages"] if request.get("tools") else []:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        found = [one for part in parts if part["type"] == "text" for one in directives(part["text"])]
        if message["role"] == "user" and found:
            history.append(found)
            results = 0
        results += sum(part["type"] == "tool_result" for part in parts)
    return wanted(history, results)


def _tools(request: Item) -> set[str]:
    return {tool["name"] for tool in request.get("tools", [])}


def _block(tools: set[str], name: str, text: str, id: str) -> tuple[Item, list[Item]]:
    """A block of content as it begins, and what follows."""
    if name == "/think":
        deltas = [{"type": "thinking_delta", "thinking": word} for word in words(text)]
        return {"type": "thinking", "thinking": "", "signature": ""}, [
            *deltas,
            {"type": "signature_delta", "signature": "none"},
        ]
    if name == "/say":
        return {"type": "text", "text": ""}, [{"type": "text_delta", "text": word} for word in words(text)]
    tool, given = _call(tools, name, text)
    delta = {"type": "input_json_delta", "partial_json": json.dumps(given)}
    return {"type": "tool_use", "id": id, "name": tool, "input": {}}, [delta]


def _call(tools: set[str], name: str, text: str) -> tuple[str, Item]:
    """The tool that does it, of Claude Code or of fast-agent, and what it is given."""
    path, _, content = text.partition(" ")
    if name == "/read":
        return "read_text_file", {"path": path}
    if name == "/write":
        if "write_text_file" in tools:
            return "write_text_file", {"path": path, "content": content}
        return "Write", {"file_path": path, "content": content}
    return "execute" if "execute" in tools else "Bash", {"command": text}
