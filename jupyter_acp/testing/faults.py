"""How agents misbehave: what a client has to survive. Every fault was seen in a real agent, or is one bug away."""

from __future__ import annotations

import os
import signal
import sys
import time

from .directives import REGISTRY as REGISTRY
from .script import Arguments, ScriptError
from .turn import Turn
from .wire import AUTH_REQUIRED, RpcError, text_frame

directive = REGISTRY.directive

GARBAGE = {
    "null": b"null",
    "number": b"123",
    "array": b"[]",
    "string": b'"hi"',
    "text": b"Warning: this is no JSON",
    "empty": b"",
    "half": b'{"jsonrpc":"2.0","method":"session/up',
    "utf8": b'{"jsonrpc":"2.0","method":"session/update","params":{"text":"\xff\xfe"}}',
    "nomethod": b'{"jsonrpc":"2.0"}',
    "answer": b'{"jsonrpc":"2.0","id":"nobody-asked","result":{}}',
    "badid": b'{"jsonrpc":"2.0","id":{"a":1},"result":{}}',
    "params": b'{"jsonrpc":"2.0","method":"session/update","params":[1,2]}',
}


@directive("/garbage KIND ...")
def garbage(turn: Turn, args: Arguments) -> None:
    """Lines that are no messages; all kinds, or those named: null number array string text empty half utf8 nomethod
    answer badid params surrogate batch meta nan."""
    head, tail = text_frame(turn.session.id)
    framed = {
        "surrogate": head + rb"cut \ud83d here" + tail,
        "batch": b"[" + head + b"in a batch" + tail.rstrip() + b"]\n",
        "meta": head + b"named" + tail.rstrip()[:-2] + b',"_meta":{"sessionId":"other","update":null}}}\n',
        "nan": head + b'n","x":NaN,"y":"' + tail,
    }
    kinds = {**{kind: line + b"\n" for kind, line in GARBAGE.items()}, **framed}
    for kind in args.words or tuple(kinds):
        if kind not in kinds:
            raise ScriptError(f"no garbage {kind!r}")
        turn.wire.write(kinds[kind])


@directive("/line TEXT")
def line(turn: Turn, args: Arguments) -> None:
    """Writes TEXT as a line of output, as it is."""
    turn.wire.write(args.text.encode() + b"\n")


@directive("/huge MIB")
def huge(turn: Turn, args: Arguments) -> None:
    """One chunk of text of MIB mebibytes, on one line."""
    head, tail = text_frame(turn.session.id)
    turn.wire.write(head + b"x" * int(args.number(0, 1) * (1 << 20)) + tail)


@directive("/duplicate")
def duplicate(turn: Turn, args: Arguments) -> None:
    """Asks for permission twice at once, with one and the same request id."""
    question = {
        "id": "twice",
        "method": "session/request_permission",
        "params": {
            "sessionId": turn.session.id,
            "toolCall": {"toolCallId": "twice", "title": "Twice"},
            "options": [{"optionId": "yes", "name": "Yes", "kind": "allow_once"}],
        },
    }
    turn.wire.send(question)
    turn.wire.send(question)


@directive("/stderr KIB")
def stderr(turn: Turn, args: Arguments) -> None:
    """Floods stderr with KIB kibibytes; then a last line, `end of stderr`."""
    written = 0
    row = b"stderr " * 146 + b"!\n"
    while written < args.number(0, 1024) * 1024:
        turn.check()
        written += os.write(2, row)
    os.write(2, b"end of stderr\n")


@directive("/flood", "size")
def flood(turn: Turn, args: Arguments) -> None:
    """Text for ever, at full speed, until cancelled; chunks of `size=` characters. Loads replay none of it."""
    head, tail = text_frame(turn.session.id)
    row = head + b"f" * int(args.option("size", "20")) + tail
    block = row * max(1, (64 << 10) // len(row))
    while True:
        turn.check()
        turn.wire.write(block)


@directive("/stubborn")
def stubborn(turn: Turn, args: Arguments) -> None:
    """From here the turn ignores session/cancel."""
    turn.stubborn = True


@directive("/never")
def never(turn: Turn, args: Arguments) -> None:
    """The prompt is never answered, not even when cancelled; what follows is done."""
    turn.stop_reason = None


@directive("/stop REASON")
def stop(turn: Turn, args: Arguments) -> None:
    """Answers the prompt with this stop reason; what follows is done."""
    turn.stop_reason = args.word(0, "refusal")


@directive("/error CODE MESSAGE")
def error(turn: Turn, args: Arguments) -> None:
    """Answers the prompt with a JSON-RPC error; the turn ends here."""
    raise RpcError(args.count(0, -32603), " ".join(args.words[1:]) or "Internal error")


@directive("/auth")
def auth(turn: Turn, args: Arguments) -> None:
    """Answers the prompt with -32000, authentication required."""
    raise RpcError(AUTH_REQUIRED, "Authentication required")


@directive("/late N", "delay")
def late(turn: Turn, args: Arguments) -> None:
    """N chunks of text after the answer to the prompt, `delay=` seconds apart."""
    for number in range(args.count(0, 1)):
        chunk = {"type": "text", "text": f"late {number + 1}\n"}
        turn.late.append((args.seconds("delay"), {"sessionUpdate": "agent_message_chunk", "content": chunk}))


@directive("/crash")
def crash(turn: Turn, args: Arguments) -> None:
    """Dies at once (SIGKILL)."""
    os.kill(os.getpid(), signal.SIGKILL)


@directive("/exit CODE")
def exit(turn: Turn, args: Arguments) -> None:
    """Says `going` on stderr and exits with this status."""
    sys.stderr.write("going\n")
    sys.stderr.flush()
    os._exit(args.count(0, 1))


@directive("/close-stdout")
def close_stdout(turn: Turn, args: Arguments) -> None:
    """Closes its output, and lives on."""
    turn.wire.close_stdout()
    time.sleep(3600)


@directive("/freeze SECONDS")
def freeze(turn: Turn, args: Arguments) -> None:
    """Stops as a whole (SIGSTOP), so that nothing is read either; a child wakes it after SECONDS."""
    pid = os.getpid()
    child = os.posix_spawn(
        "/bin/sh", ["sh", "-c", f"sleep {args.number(0, 5)}; kill -CONT {pid}"], dict(os.environ), setpgroup=0
    )
    os.kill(pid, signal.SIGSTOP)
    os.waitpid(child, 0)
