"""Runs in a Python kernel: hands what its control channel says to a process beside the kernel, and back.

Sent as source, standard library only, and executed away from the person's variables. The control channel, because it
has a thread of its own in ipykernel and is served while a cell runs, and because its replies come to who asked and
are under no rate limit. `kernel_host` is what runs in that process; here nobody knows what the bytes mean.
"""

from __future__ import annotations

import queue
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import IO, Any

FRAME = struct.Struct(">32s?I")
"""Id of a request, whether this is its last part, bytes that follow."""


class Relay:
    """Answers messages of the types `{name}_hello`, `{name}_open`, `{name}_part` and `{name}_close`."""

    def __init__(self, kernel: Any, name: str) -> None:
        self._session = kernel.session
        self._reply_type = name + "_reply"
        self._rooms: dict[str, Room] = {}
        for what in (self.hello, self.open, self.part, self.close):
            kernel.control_handlers[name + "_" + what.__name__] = what

    def hello(self, stream: Any, ident: Any, message: Any) -> None:
        """Which rooms there are. At once, so that it comes before the reply to what is sent next."""
        rooms = list(self._rooms)
        self._session.send(stream, self._reply_type, {"rooms": rooms}, message, ident=ident)

    def open(self, stream: Any, ident: Any, message: Any) -> None:
        """Start a room with the program that is the buffer."""
        content = message["content"]
        told = {}
        try:
            room = Room(content["boot"], bytes(message["buffers"][0]), lambda: self._rooms.pop(content["room"], None))
            self._rooms[content["room"]] = room
        except OSError as exc:
            told = {"error": str(exc)}
        self._session.send(stream, self._reply_type, told, message, ident=ident)

    def part(self, stream: Any, ident: Any, message: Any) -> None:
        """A part of a request; the last is answered."""
        content = message["content"]
        room = self._rooms.get(content["room"])
        reply = self._replier(stream, ident, message)
        if room is None:
            reply(None)
        else:
            room.put(content["id"], content["last"], bytes(message["buffers"][0]), reply)

    def close(self, stream: Any, ident: Any, message: Any) -> None:
        """End a room with all that runs in it; answered when nothing is left."""
        room = self._rooms.get(message["content"]["room"])
        reply = self._replier(stream, ident, message)
        if room is None:
            reply(None)
        else:
            room.close(reply)

    def _replier(self, stream: Any, ident: Any, message: Any) -> Callable[[Any], None]:
        parent = {"header": message["header"]}

        def reply(data: Any) -> None:
            content = {"gone": data is None}
            buffers = [data] if data else []
            send = self._session.send
            # sockets belong to the thread that reads them
            stream.io_loop.add_callback(
                lambda: send(stream, self._reply_type, content, parent, ident=ident, buffers=buffers)
            )

        return reply


class Room:
    """One process beside the kernel, and who waits for an answer of it."""

    def __init__(self, boot: str, program: bytes, forget: Callable[[], Any]) -> None:
        self._forget = forget
        self._waiting: dict[bytes, Callable[[Any], None]] = {}
        self._closing: list[Callable[[Any], None]] = []
        self._lock = threading.Lock()
        self._gone = False
        self._todo: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-E", "-X", "utf8", "-c", boot, str(len(program))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # an interrupt of the kernel is meant for the kernel alone
        )
        self._todo.put([program])
        for work in (self._write, self._read):
            threading.Thread(target=work, name="jupyter_acp", daemon=True).start()

    def put(self, identity: str, last: bool, data: bytes, reply: Any) -> None:
        """Hand on a part of a request."""
        key = identity.encode()
        with self._lock:
            if last and not self._gone:
                self._waiting[key] = reply
            elif last:
                reply(None)
        self._todo.put([FRAME.pack(key, last, len(data)), data])

    def close(self, reply: Callable[[Any], None]) -> None:
        with self._lock:
            if not self._gone:
                self._closing.append(reply)
            else:
                reply(None)
        self._todo.put(None)

    def _write(self) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        try:
            with stdin:
                while True:
                    pieces = self._todo.get()
                    if pieces is None:
                        return
                    for piece in pieces:
                        stdin.write(piece)
                    stdin.flush()
        except OSError:  # it has ended, which its reader notices
            return

    def _read(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        with stdout:
            while True:
                head = _exactly(stdout, FRAME.size)
                if head is None:
                    break
                key, _last, size = FRAME.unpack(head)
                data = _exactly(stdout, size)
                if data is None:
                    break
                with self._lock:
                    reply = self._waiting.pop(key)
                reply(data)
        self._process.wait()
        self._forget()
        with self._lock:
            self._gone = True
        self._todo.put(None)
        for reply in [*self._waiting.values(), *self._closing]:
            reply(None)


def _exactly(stream: IO[bytes], size: int) -> Any:
    data = stream.read(size)
    return data if len(data) == size else None


def install(name: str) -> None:
    """Once per kernel and name."""
    from ipykernel.kernelbase import Kernel  # also the message where this is no ipykernel

    kernel = Kernel.instance()
    if name + "_hello" not in kernel.control_handlers:
        Relay(kernel, name)
