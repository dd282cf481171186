"""A recorded session as an agent: the lines that a real agent wrote, raw, given again in answer to a client.

The recording holds one line of the agent's output each, for example from `tee`. Before each answer (`result` or
`error`) the replay waits for the client's next request; the answer takes that request's id, and the session id that the
recording has stays, since it is the replay that names it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .wire import Wire


def replay(wire: Wire, file: Path, delay: float) -> None:
    """Give every line of `file`, `delay` seconds apart, then stay until the client closes the pipe."""
    requests = _requests(wire.lines())
    for line in file.read_bytes().splitlines():
        message = _object(line)
        if "id" in message and "method" not in message:
            asked = next(requests, None)
            if asked is None:
                return
            line = json.dumps({**message, "id": asked["id"]}, separators=(",", ":")).encode()
        wire.write(line + b"\n")
        time.sleep(delay)
    for _ in requests:
        pass


def _requests(lines: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        message = _object(line)
        if "id" in message and "method" in message:
            yield message


def _object(line: bytes) -> dict[str, Any]:
    """The line as an object; an empty one where it is none, which is then given as it is."""
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}
