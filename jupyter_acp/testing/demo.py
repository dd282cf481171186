"""The turn that a person sees who types plain words to the demo agent, and the samples that directives share."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .turn import Turn
from .wire import JsonObject

if TYPE_CHECKING:
    from .script import Directive

PNG = "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAGklEQVR42mNkYGD4z0ABYBxVMKpgVMHIVAAAPwQD/QZfm6cAAAAASUVORK5CYII="
FORM: JsonObject = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "title": "Title", "default": "Report"},
        "pages": {"type": "integer", "title": "Pages", "minimum": 1, "maximum": 20, "default": 2},
        "format": {"type": "string", "title": "Format", "enum": ["html", "pdf"], "default": "html"},
        "figures": {"type": "boolean", "title": "With figures", "default": True},
    },
    "required": ["title"],
}
MARKDOWN = """\
## A sample

Some *emphasis*, some **more**, some `code` and a [link](https://agentclientprotocol.com).

| directive | what it does |
|---|---:|
| `/count 10` | counts |
| `/shell ls` | runs a command |

```python
def mean(values: list[float]) -> float:
    return sum(values) / len(values)
```

A formula: $\\bar{x} = \\frac{1}{n} \\sum_i x_i$

1. one
2. two
"""
HELLO = '''"""Written by the demo agent."""


def hello(name: str = "Jupyter") -> str:
    return f"Hello, {name}!"


if __name__ == "__main__":
    print(hello())
'''
_NAMES = {
    "allow_once": "Allow once",
    "allow_always": "Always allow",
    "reject_once": "No",
    "reject_always": "Never",
}
_STEPS = ["Look at the folder", "Write hello.py", "Say what was done"]
# a script of its own so that its output comes line by line, as that of a real command
_LOOK = """
import os, time
names = sorted(n for n in os.listdir() if not n.startswith('.'))
print(len(names), 'entries in', os.getcwd(), flush=True)
for name in names[:8]:
    time.sleep(0.1)
    print(f'{os.path.getsize(name):>10}  {name}', flush=True)
"""


def run(turn: Turn) -> None:
    """About five seconds of everything that a client can show."""
    turn.update({"sessionUpdate": "session_info_update", "title": "A first look around"})
    stream(
        turn,
        "I am a demo and understand nothing, so I show what an agent's turn looks like: "
        "first a look at the folder, then a small file, and a word about both.",
        kind="agent_thought_chunk",
    )
    turn.update(plan(_STEPS, 0))
    turn.sleep(0.2)
    turn.shell(f"{_quoted(sys.executable)} -c {_quoted(_LOOK)}", title="Look at the folder")
    turn.update(plan(_STEPS, 1))
    written = _write_hello(turn)
    turn.update(plan(_STEPS, 2))
    stream(turn, _answer(written))
    turn.update(plan(_STEPS, 3))


def _write_hello(turn: Turn) -> str:
    """Write hello.py if the mode and the person allow it; what became of it, for the answer."""
    if turn.session.values["mode"] == "plan":
        return "In mode *Plan* I write nothing."
    path = turn.path("hello.py")
    diff = {"type": "diff", "path": path, "oldText": None, "newText": HELLO}
    id = turn.tool("Write hello.py", "edit", status="pending", locations=[{"path": path, "line": 1}], content=[diff])
    if turn.session.values["mode"] == "ask":
        answer = ask(turn, id, ("allow_once", "allow_always", "reject_once"))
        if not answer.startswith("allow"):
            turn.tool_update(id, status="failed")
            return "You said no, so `hello.py` was not written."
        if answer == "allow_always":
            turn.set_mode("auto")
    turn.write_file("hello.py", HELLO, id=id)
    return "I wrote `hello.py`; run it with `python hello.py`."


def _answer(written: str) -> str:
    return (
        f"That was **a whole turn**. {written}\n\n"
        "I am the agent that this project's own tests use. In place of a request I take *directives*, "
        "one on a line; try these together:\n\n"
        "```\n/thought Counting is easy.\n/plan Count | Rest\n/count 20 delay=0.1\n```\n\n"
        "`/flood` and `/stubborn` show what Stop is worth, `/crash` what happens when an agent dies. "
        "`/help` lists them all.\n"
    )


def ask(turn: Turn, id: str, kinds: Sequence[str], *, wait: bool = False, withdraw: float | None = None) -> str:
    """Ask for permission for tool call `id`; the option that was chosen, or `cancelled`."""
    options = [{"optionId": kind, "name": _NAMES.get(kind, kind), "kind": kind} for kind in kinds]
    call = next((update for update in reversed(turn.done) if update.get("toolCallId") == id), {"toolCallId": id})
    asked = {key: value for key, value in call.items() if key != "sessionUpdate"}
    params = {"sessionId": turn.session.id, "toolCall": asked, "options": options}
    answer = turn.ask("session/request_permission", params, wait=wait, withdraw=withdraw)
    outcome: JsonObject = answer["outcome"]
    return str(outcome.get("optionId", outcome["outcome"]))


def plan(steps: Sequence[str], done: int) -> JsonObject:
    """The update of a plan of which `done` steps are completed."""
    states = ["completed"] * done + ["in_progress"] + ["pending"] * len(steps)
    entries = [
        {"content": step, "priority": "medium", "status": state} for step, state in zip(steps, states, strict=False)
    ]
    return {"sessionUpdate": "plan", "entries": entries}


def stream(turn: Turn, text: str, *, kind: str = "agent_message_chunk", delay: float = 0.03) -> None:
    """Send `text` word by word."""
    for word in re.findall(r"\s*\S+\s*", text):
        turn.text(word, kind=kind)
        turn.sleep(delay)


def listing(directives: Iterable[Directive]) -> str:
    """The directives as a Markdown table."""
    rows = [f"| `{_cell(one.usage)}` | {_cell(one.help)} |" for one in directives]
    return "\n".join(["", "| directive | what it does |", "|---|---|", *rows, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def usage(turn: Turn) -> JsonObject:
    """What the turn cost, so that there is something to show."""
    spent = sum(len(str(update)) for update in turn.done) // 40 + 100
    turn.session.used += spent
    return {"sessionUpdate": "usage_update", "used": turn.session.used, "size": 200_000}


def commands(directives: Iterable[Directive]) -> JsonObject:
    """The directives as the agent's slash commands."""
    listed: list[dict[str, Any]] = []
    for one in directives:
        hint = one.usage.partition(" ")[2]
        listed.append({"name": one.name, "description": one.help, "input": {"hint": hint} if hint else None})
    return {"sessionUpdate": "available_commands_update", "availableCommands": listed}
