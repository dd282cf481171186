"""What a person sends: text or ACP content blocks, checked at the door. https://agentclientprotocol.com/protocol/content"""

from __future__ import annotations

from .chatfile import ChatFile
from .events import JsonObject
from .exceptions import BadRequest

_PREFACE_LIMIT = 100_000
_REQUIRED = {
    "text": ("text",),
    "image": ("data", "mimeType"),
    "audio": ("data", "mimeType"),
    "resource_link": ("uri", "name"),
    "resource": ("resource",),
}


def prompt_blocks(prompt: object) -> list[JsonObject]:
    """`prompt` as content blocks. BadRequest where it is neither text nor a list of known blocks, or is empty."""
    if isinstance(prompt, str):
        prompt = [{"type": "text", "text": prompt}]
    if not isinstance(prompt, list) or not prompt:
        raise BadRequest("a prompt is text or a list of content blocks")
    for block in prompt:
        kind = block.get("type") if isinstance(block, dict) else None
        if not isinstance(kind, str) or kind not in _REQUIRED:
            raise BadRequest(f"a content block has one of the types {', '.join(_REQUIRED)}", "bad_content_block")
        for name in _REQUIRED[kind]:
            if not isinstance(block.get(name), dict if name == "resource" else str):
                raise BadRequest(f"a {kind} block needs {name}", "bad_content_block")
    if all(block["type"] == "text" and not block["text"].strip() for block in prompt):
        raise BadRequest("the prompt is empty", "empty_prompt")
    return prompt


def prompt_text(blocks: list[JsonObject]) -> str:
    """What of a prompt is shown in the conversation."""
    parts = []
    for block in blocks:
        if block["type"] == "text":
            parts.append(block["text"])
        elif block["type"] == "resource_link":
            parts.append(f"[{block['name']}]({block['uri']})")
        elif block["type"] == "resource":
            parts.append(str(block["resource"].get("uri", "resource")))
        else:
            parts.append(f"[{block['type']}]")
    return "\n".join(parts)


def preface(chat: ChatFile, *, before: str) -> JsonObject:
    """The conversation up to message `before` as one content block, for an agent that has lost it; newest kept."""
    lines: list[str] = []
    size = 0
    page = chat.page(before=before, limit=1000)
    for message in reversed(page.messages):
        if message.get("deleted"):
            continue
        text = f"{message['role']}: {message['body']}"
        size += len(text)
        if size > _PREFACE_LIMIT:
            break
        lines.append(text)
    lines.append("The conversation so far, for your information:")
    return {"type": "text", "text": "\n\n".join(reversed(lines))}
