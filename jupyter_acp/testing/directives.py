"""What the agent says and does: text, thoughts, plans, tool calls, files, questions. Misbehaviour is in `faults`."""

from __future__ import annotations

import json
import os
import subprocess
import time
import tomllib
from collections.abc import Callable
from typing import Any

from . import demo
from .script import Arguments, Registry, ScriptError
from .turn import Turn
from .wire import RpcError, chunk_lines, chunk_text, text_frame

REGISTRY = Registry()
directive = REGISTRY.directive


@directive("/text TEXT", "id")
def text(turn: Turn, args: Arguments) -> None:
    r"""One chunk of answer; `\n` is a line break, `id=` names the message it belongs to."""
    turn.text(args.text, id=args.options.get("id"))


@directive("/chunks N SIZE", "delay")
def chunks(turn: Turn, args: Arguments) -> None:
    """N chunks of exactly SIZE characters, at full speed or `delay=` seconds apart."""
    count, size, delay = args.count(0, 10), args.count(1, 20), args.seconds("delay")
    if not delay:
        turn.wire.write_all(chunk_lines(turn.session.id, count, size), turn.check)
        whole = "".join(chunk_text(number, size) for number in range(count))
        turn.keep({"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": whole}})
        return
    _paced(turn, count, delay, lambda number: chunk_text(number, size))


@directive("/count N", "delay", "from", "record")
def count(turn: Turn, args: Arguments) -> None:
    """A numbered stream, one line a chunk, from 1 or `from=`, `delay=` seconds apart; what was said is added to the
    file `record=`."""
    first = int(args.option("from", "1"))
    record = None
    if "record" in args.options:
        record = os.open(turn.path(args.option("record")), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def said(number: int) -> None:
        if record is not None:
            os.write(record, f"{first + number}\n".encode())

    try:
        _paced(turn, args.count(0, 10), args.seconds("delay"), lambda number: f"{first + number}\n", said)
    finally:
        if record is not None:
            os.close(record)


@directive("/stamp N INTERVAL_MS")
def stamp(turn: Turn, args: Arguments) -> None:
    """N chunks INTERVAL_MS apart, each `time.monotonic_ns()` at the moment it is written, and a space."""
    head, tail = text_frame(turn.session.id)
    interval = args.number(1, 10) / 1000
    due = time.monotonic()
    for _ in range(args.count(0, 100)):
        turn.check()
        turn.wire.write(b"%b%d %b" % (head, time.monotonic_ns(), tail))
        due += interval
        turn.sleep(max(0.0, due - time.monotonic()))


@directive("/markdown")
def markdown(turn: Turn, args: Arguments) -> None:
    """A sample of Markdown: headings, a table, code, a formula, a link."""
    demo.stream(turn, demo.MARKDOWN)


@directive("/demo")
def demonstrate(turn: Turn, args: Arguments) -> None:
    """The turn that plain words start: thought, plan, command, question, file, answer."""
    demo.run(turn)


@directive("/help")
def help(turn: Turn, args: Arguments) -> None:
    """This list."""
    turn.text(demo.listing(REGISTRY.directives.values()))


@directive("/user TEXT")
def user(turn: Turn, args: Arguments) -> None:
    """Echoes a message of the user, as some agents do in the live turn."""
    turn.text(args.text, kind="user_message_chunk")


@directive("/thought TEXT", "id")
def thought(turn: Turn, args: Arguments) -> None:
    """One chunk of thinking."""
    turn.text(args.text, kind="agent_thought_chunk", id=args.options.get("id"))


@directive("/image")
def image(turn: Turn, args: Arguments) -> None:
    """A small PNG picture in the answer."""
    turn.update(
        {
            "sessionUpdate": "agent_message_chunk",
            "content": {"type": "image", "mimeType": "image/png", "data": demo.PNG},
        }
    )


@directive("/plan STEP | STEP | ...", "done")
def plan(turn: Turn, args: Arguments) -> None:
    """A plan; the first `done=` steps are completed, the next is in progress."""
    turn.update(demo.plan([step.strip() for step in args.text.split("|")], int(args.option("done", "0"))))


@directive("/tool TITLE", "id", "kind", "status", "path", "line", "old", "new", "input", "output", "text", "name")
def tool(turn: Turn, args: Arguments) -> None:
    """A tool call, completed unless `status=` says where it stops; `path=` and `line=` its location, `old=` and `new=`
    a diff of it, `input=` and `output=` raw JSON, `text=` its content, `kind=`, `name=`, `id=`."""
    fields: dict[str, Any] = {}
    if "path" in args.options:
        path = turn.path(args.option("path"))
        fields["locations"] = [{"path": path, "line": int(args.option("line", "1"))}]
        if "new" in args.options:
            fields["content"] = [
                {"type": "diff", "path": path, "oldText": args.options.get("old"), "newText": args.option("new")}
            ]
    if "text" in args.options:
        fields["content"] = [{"type": "content", "content": {"type": "text", "text": args.option("text")}}]
    if "input" in args.options:
        fields["rawInput"] = _json(args.option("input"))
    if "name" in args.options:
        fields["name"] = args.option("name")
    status = args.option("status", "completed")
    id = turn.tool(
        " ".join(args.words) or "A tool",
        args.option("kind", "other"),
        toolCallId=args.options.get("id"),
        status="pending" if status == "pending" else "in_progress",
        **fields,
    )
    if status in ("completed", "failed"):
        output = {"rawOutput": _json(args.option("output"))} if "output" in args.options else {}
        turn.tool_update(id, status=status, **output)


@directive("/tool-update ID", "status", "title", "text")
def tool_update(turn: Turn, args: Arguments) -> None:
    """Changes tool call ID, also one that was never opened: `status=`, `title=`, `text=`."""
    fields: dict[str, Any] = {key: args.option(key) for key in ("status", "title") if key in args.options}
    if "text" in args.options:
        fields["content"] = [{"type": "content", "content": {"type": "text", "text": args.option("text")}}]
    turn.tool_update(args.word(0, "unknown"), **fields)


@directive("/shell COMMAND", "leave")
def shell(turn: Turn, args: Arguments) -> None:
    """Runs a command itself, output live in `_meta`; `leave=1` leaves it running when the turn is cancelled."""
    turn.shell(args.text, leave=args.option("leave") == "1")


@directive("/remote COMMAND", "leave")
def remote(turn: Turn, args: Arguments) -> None:
    """Runs a command where `environments.toml` of its CODEX_HOME says, as Codex does, and never here; `leave=1`."""
    with open(os.path.join(os.environ["CODEX_HOME"], "environments.toml"), "rb") as file:
        [there] = tomllib.load(file)["environments"]
    turn.shell(args.text, leave=args.option("leave") == "1", remote=[there["program"], *there["args"]])


@directive("/terminal COMMAND", "limit", "kill", "release")
def terminal(turn: Turn, args: Arguments) -> None:
    """Has the client run a command (terminal/create ...) and says its output; `limit=` bytes of it, `kill=` after
    seconds, `release=0` never releases it."""
    session = {"sessionId": turn.session.id}
    asked = {"command": "/bin/sh", "args": ["-c", args.text], "cwd": turn.session.cwd}
    limit = {"outputByteLimit": int(args.option("limit"))} if "limit" in args.options else {}
    created = _ask(turn, "terminal/create", {**session, **asked, **limit})
    if created is None:
        return
    one = {**session, "terminalId": created["terminalId"]}
    id = turn.tool(args.text, "execute", content=[{"type": "terminal", "terminalId": created["terminalId"]}])
    if "kill" in args.options:
        turn.sleep(args.seconds("kill"))
        _ask(turn, "terminal/kill", one)
    status = _ask(turn, "terminal/wait_for_exit", one) or {}
    output = _ask(turn, "terminal/output", one) or {}
    if args.option("release") != "0":
        _ask(turn, "terminal/release", one)
    turn.tool_update(id, status="completed" if status.get("exitCode") == 0 else "failed")
    truncated = ", truncated" if output.get("truncated") else ""
    turn.text(f"exit {status.get('exitCode')} signal {status.get('signal')}{truncated}\n{output.get('output', '')}")


@directive("/read PATH", "line", "limit")
def read(turn: Turn, args: Arguments) -> None:
    """Reads a file through the client (fs/read_text_file) and says its text; `line=`, `limit=`."""
    params: dict[str, Any] = {"sessionId": turn.session.id, "path": turn.path(args.text)}
    params.update({key: int(args.option(key)) for key in ("line", "limit") if key in args.options})
    answer = _ask(turn, "fs/read_text_file", params)
    if answer is not None:
        turn.text(answer["content"])


@directive("/write PATH TEXT")
def write(turn: Turn, args: Arguments) -> None:
    """Writes a file through the client (fs/write_text_file)."""
    path, _, content = args.text.partition(" ")
    params = {"sessionId": turn.session.id, "path": turn.path(path), "content": content}
    if _ask(turn, "fs/write_text_file", params) is not None:
        turn.text(f"wrote {path}\n")


@directive("/file PATH TEXT")
def file(turn: Turn, args: Arguments) -> None:
    """Writes a file itself, shown as an edit with its diff."""
    path, _, content = args.text.partition(" ")
    turn.write_file(path, content)


@directive("/permission TITLE", "kinds", "wait", "withdraw", "kind", "id", "input")
def permission(turn: Turn, args: Arguments) -> None:
    """Asks for permission and says the answer; `kinds=` of its options with commas, `kind=` of the tool call, `input=`
    its raw JSON; `wait=1`: when cancelled it holds out for the answer; `withdraw=` seconds: then it takes the question
    back."""
    kinds = args.option("kinds", "allow_once,allow_always,reject_once").split(",")
    raw = {"rawInput": _json(args.option("input"))} if "input" in args.options else {}
    id = turn.tool(
        " ".join(args.words) or "Do something",
        args.option("kind", "edit"),
        status="pending",
        toolCallId=args.options.get("id"),
        **raw,
    )
    answer = demo.ask(
        turn,
        id,
        kinds,
        wait=args.option("wait") == "1",
        withdraw=args.seconds("withdraw") if "withdraw" in args.options else None,
    )
    allowed = answer.startswith("allow")
    turn.text(f"permission: {answer}\n")
    turn.tool_update(id, status="completed" if allowed else "failed")


@directive("/elicit form|url", "wait")
def elicit(turn: Turn, args: Arguments) -> None:
    """Asks the person to fill a form, or to open an address, and says the answer."""
    params: dict[str, Any] = {"sessionId": turn.session.id, "mode": args.word(0, "form")}
    if params["mode"] == "url":
        params |= {"message": "Please log in", "url": "https://example.org/login", "elicitationId": "login-1"}
    else:
        params |= {"message": "How shall the report look?", "requestedSchema": demo.FORM}
    answer = _ask(turn, "elicitation/create", params, wait=args.option("wait") == "1")
    if answer is not None:
        content = f" {json.dumps(answer['content'], sort_keys=True)}" if "content" in answer else ""
        turn.text(f"elicitation: {answer.get('action')}{content}\n")


@directive("/request METHOD JSON")
def request(turn: Turn, args: Arguments) -> None:
    """Sends the client any request and says its answer."""
    method, _, params = args.text.partition(" ")
    answer = _ask(turn, method, _json(params or "{}"))
    if answer is not None:
        turn.text(f"{json.dumps(answer, sort_keys=True)}\n")


@directive("/update JSON")
def update(turn: Turn, args: Arguments) -> None:
    """Sends this object as a session/update."""
    turn.update(_json(args.text))


@directive("/unknown")
def unknown(turn: Turn, args: Arguments) -> None:
    """An update of a kind that no protocol knows."""
    turn.update({"sessionUpdate": "dream_update", "dream": {"of": "electric sheep"}})


@directive("/usage USED SIZE", "cost")
def usage(turn: Turn, args: Arguments) -> None:
    """How much of the context window is used; `cost=` in dollars."""
    told: dict[str, Any] = {"sessionUpdate": "usage_update", "used": args.count(0, 1000), "size": args.count(1, 100000)}
    if "cost" in args.options:
        told["cost"] = {"amount": args.seconds("cost"), "currency": "USD"}
    turn.update(told, keep=False)


@directive("/commands NAME ...")
def commands(turn: Turn, args: Arguments) -> None:
    """The agent's slash commands are these from now on."""
    listed = [{"name": name, "description": f"Does {name}", "input": None} for name in args.words]
    turn.update({"sessionUpdate": "available_commands_update", "availableCommands": listed}, keep=False)


@directive("/title TEXT")
def title(turn: Turn, args: Arguments) -> None:
    """The session's title."""
    turn.update({"sessionUpdate": "session_info_update", "title": args.text})


@directive("/notice TITLE", "severity")
def notice(turn: Turn, args: Arguments) -> None:
    """A notice, `severity=` info, warning or error."""
    severity = args.option("severity", "warning")
    turn.update({"sessionUpdate": "notice", "severity": severity, "title": args.text}, keep=False)


@directive("/mode ID")
def mode(turn: Turn, args: Arguments) -> None:
    """The agent changes its own mode: ask, auto or plan."""
    turn.set_mode(args.word(0, "plan"))


@directive("/env")
def env(turn: Turn, args: Arguments) -> None:
    """The names of the agent's environment variables, sorted, one a line; never their values."""
    turn.text("\n".join(sorted(os.environ)) + "\n")


@directive("/echo")
def echo(turn: Turn, args: Arguments) -> None:
    """The whole prompt as JSON, as it came."""
    turn.text(json.dumps(turn.prompt, sort_keys=True) + "\n")


@directive("/pid")
def pid(turn: Turn, args: Arguments) -> None:
    """The agent's process id."""
    turn.text(f"{os.getpid()}\n")


@directive("/background SECONDS")
def background(turn: Turn, args: Arguments) -> None:
    """Leaves a process running in a session of its own (setsid) and says its id."""
    process = subprocess.Popen(
        ["sleep", args.word(0, "600")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    turn.text(f"{process.pid}\n")


@directive("/sleep SECONDS")
def sleep(turn: Turn, args: Arguments) -> None:
    """Says nothing for a while; ends at once when cancelled."""
    turn.sleep(args.number(0, 1))


def _paced(
    turn: Turn, count: int, delay: float, make: Callable[[int], str], said: Callable[[int], None] = lambda _: None
) -> None:
    for number in range(count):
        if number and delay:
            turn.sleep(delay)
        turn.text(make(number))
        said(number)


def _ask(turn: Turn, method: str, params: dict[str, Any], *, wait: bool = False) -> Any:
    """The client's answer, or None after its error was told as text."""
    try:
        answer = turn.ask(method, params, wait=wait)
    except RpcError as error:
        turn.text(f"{method}: error {error.code} {error.message}\n")
        return None
    return {} if answer is None else answer


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as exc:
        raise ScriptError(f"not JSON: {text}") from exc
