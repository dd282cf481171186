"""The Responses API of OpenAI, as far as Codex uses it.

A model that Codex knows is offered one tool `exec`, whose input is JavaScript; another one function tools. Both are
spoken here. https://platform.openai.com/docs/api-reference/responses-streaming
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from .model_api import SILENCE, Item, directives, wanted, words


def responses(request: Item) -> Iterator[Item]:
    """The events of `POST /v1/responses`."""
    for number, event in enumerate(_events(request)):
        yield event if event is SILENCE else {**event, "sequence_number": number}


def _events(request: Item) -> Iterator[Item]:
    said = len(request["input"])
    response = {"id": f"resp_{said}", "status": "in_progress"}
    yield {"type": "response.created", "response": response}
    output: list[Item] = []
    for name, text in _wanted(request):
        if name == "/hang":
            yield SILENCE
            continue
        item = _item(request.get("tools", []), name, text, f"call_{said}")
        output.append({**item, "id": f"{item['type']}_{said}_{len(output)}"})
        yield from _stream(output[-1], len(output) - 1)
    usage = {"input_tokens": said, "output_tokens": 5, "total_tokens": said + 5}
    yield {
        "type": "response.completed",
        "response": {**response, "status": "completed", "output": output, "usage": usage},
    }


def _wanted(request: Item) -> list[tuple[str, str]]:
    items = request["input"]
    said = [_directives(item) for item in items]
    last = max((at for at, found in enumerate(said) if found), default=0)
    results = sum(item["type"].endswith("_call_output") for item in items[last:])
    return wanted([found for found in said if found] if request.get("tools") else [], results)


def _directives(item: Item) -> list[tuple[str, str]]:
    if item.get("role") != "user":
        return []
    return [found for part in item["content"] for found in directives(part.get("text", ""))]


def _item(tools: list[Item], name: str, text: str, call_id: str) -> Item:
    if name == "/think":
        return {"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]}
    if name == "/say":
        content = [{"type": "output_text", "text": text, "annotations": []}]
        return {"type": "message", "role": "assistant", "status": "completed", "content": content}
    path, _, content_ = text.partition(" ")
    patch = f"*** Begin Patch\n*** Add File: {path}\n+{content_}\n*** End Patch"
    if any(tool.get("type") == "custom" and tool["name"] == "exec" for tool in tools):
        call = f"exec_command({json.dumps({'cmd': text, 'yield_time_ms': 30000})})"
        if name == "/write":
            call = f"apply_patch({json.dumps(patch)})"
        script = f"const r = await tools.{call}; text(JSON.stringify(r));"
        return {"type": "custom_tool_call", "call_id": call_id, "name": "exec", "input": script}
    # Codex takes the patch out of such a command and applies it itself
    command = f"apply_patch <<'EOF'\n{patch}\nEOF" if name == "/write" else text
    arguments = json.dumps({"cmd": command, "yield_time_ms": 30000})
    return {"type": "function_call", "call_id": call_id, "name": "exec_command", "arguments": arguments}


def _stream(item: Item, index: int) -> Iterator[Item]:
    """An item of the output as it grows."""
    where = {"item_id": item["id"], "output_index": index}
    yield {"type": "response.output_item.added", "output_index": index, "item": item | _EMPTY[item["type"]]}
    if item["type"] == "message":
        where |= {"content_index": 0}
        [part] = item["content"]
        yield {"type": "response.content_part.added", **where, "part": {**part, "text": ""}}
        for word in words(part["text"]):
            yield {"type": "response.output_text.delta", **where, "delta": word}
        yield {"type": "response.output_text.done", **where, "text": part["text"]}
        yield {"type": "response.content_part.done", **where, "part": part}
    elif item["type"] == "reasoning":
        where |= {"summary_index": 0}
        [part] = item["summary"]
        yield {"type": "response.reasoning_summary_part.added", **where, "part": {**part, "text": ""}}
        for word in words(part["text"]):
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
