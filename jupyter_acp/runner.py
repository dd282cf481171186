"""The process that owns one agent's stdio, so that neither outlives nor depends on the Jupyter server.

A pump of big chunks, not a parser: stdout is kept from the last acknowledged byte on (in memory, then on disk) and
served on a unix socket to one controller at a time. Standard library only, started by `daemons` without the package
around it, the specification on stdin; `runner_link` is the other end.
Its one rule: the loop never waits for the agent or for the controller.

Two processes: a *watcher*, which only ends the agent's processes when the runner dies, and the runner itself.
Frames both ways are HEADER (type, number, length) and payload; upper-case types go to the runner, lower-case come back.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable

from .runner_output import CHUNK, Output
from .runner_processes import CannotStart, adopt_orphans, kill_all, remove, start_agent, tree

HEADER = struct.Struct(">cQI")
MAGIC = b"jupyter-acp-runner 1"
INPUT_LIMIT = 128 << 20
EVERYTHING = 2**64 - 1

# to the runner; the number means:
ATTACH = b"A"  # the position to go on from, EVERYTHING: past all output; payload MAGIC
WINDOW = b"W"  # stdout may be sent up to this position
ACK = b"K"  # stdout up to this position may be forgotten
INPUT = b"I"  # the message's number; payload for the agent's stdin
STOP = b"S"  # grace in milliseconds
KILL = b"L"  # end descendants of the agent younger than so many milliseconds
TAIL = b"T"  # asks for the end of stderr
DONE = b"D"  # the exit is known and all output is taken: the runner may go
# from the runner
HELLO = b"h"  # position; payload JSON
DATA = b"d"  # position of the first byte; payload stdout
WRITTEN = b"w"  # the last message that went into the agent's stdin whole
KILLED = b"l"  # how many processes
STDERR = b"t"  # payload: the tail
EXIT = b"x"  # the end of stdout; payload JSON code, signal, stderr
TAKEN = b"o"  # another controller has attached
REFUSED = b"r"  # payload: why

_LINE_PAUSE = 0.001  # in a stream of small writes stdout is read once in this time: one wake-up serves many lines
_AT_ONCE = 4  # but so many after a rest are not held up
_DRAIN = 0.25
_UNKNOWN = 30.0  # seconds without a controller for an agent that was never told anything: nobody knows of it
_LOOK = 10.0  # how often a runner without a controller looks whether one can still find it
_TAIL_SIZE = 64 << 10


class _Peer:
    """Someone who connected: at first a stranger, by ATTACH the controller, later perhaps superseded."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self.sock = sock
        self.deadline: float | None = deadline  # closed then; None for the controller
        self.leaving = False
        self.inbound = bytearray()
        self.outbound = bytearray()
        self.cursor = 0
        self.window = 0
        self.waiting = False  # for the socket to take more
        self.deaf = False  # it has closed; what it said before is still to be read


class Runner:
    """One agent, its stdio and at most one controller."""

    def __init__(self, spec: dict[str, object], run: str, umask: int) -> None:
        def number(name: str) -> float:
            value = spec[name]
            assert isinstance(value, int | float)
            return value

        self._run_id = run
        self._ahead_limit = int(number("ahead_limit"))
        self._output = Output(int(number("memory_limit")), int(number("spool_limit")))
        self._idle_timeout = number("idle_timeout")
        self._selector = selectors.DefaultSelector()
        self._peers: set[_Peer] = set()
        self._controller: _Peer | None = None
        self._input: deque[tuple[int, memoryview]] = deque()
        self._last_input = self._written = 0
        self._tail = bytearray()
        self._status: int | None = None
        self._exit: bytes | None = None
        self._deadlines: dict[Callable[[], None], float] = {}
        self._read_again = self._stdout_paused_until = 0.0
        self._leave_after_exit = self._finished = False
        self._busy = time.monotonic()

        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind("runner.sock")
        os.chmod("runner.sock", 0o600)
        self._listener.listen(16)
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        wake, wakeup = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(wakeup, False)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # a handler must exist for the wake-up
        signal.signal(signal.SIGTERM, self._terminated)
        self._selector.register(wake, selectors.EVENT_READ, lambda _: self._reap(wake))

        self.agent_pid, self._stdin, self._stdout, self._stderr = start_agent(spec, run, umask)
        for fd in (self._stdin, self._stdout, self._stderr):
            os.set_blocking(fd, False)
        self._selector.register(self._stdout, selectors.EVENT_READ, self._read_stdout)
        self._selector.register(self._stderr, selectors.EVENT_READ, self._read_stderr)

    def run(self) -> None:
        while not self._finished:
            listening = self._selector.get_map()
            for key, mask in self._selector.select(self._timeout()):
                # a callback may have closed what a later one of the same batch is for
                if listening.get(key.fd) is key:
                    key.data(mask)
            now = time.monotonic()
            for act in [act for act, at in self._deadlines.items() if at <= now]:
                if self._deadlines.pop(act, None) is not None:
                    act()
            for peer in [peer for peer in self._peers if peer.deadline is not None and peer.deadline <= now]:
                self._drop(peer)
            if self._controller is not None:
                self._flush(self._controller)
            elif now >= self._patience() or not os.path.exists("runner.sock"):
                self._idle()
            self._watch_stdout(now)

    def _timeout(self) -> float:
        times = list(self._deadlines.values())
        times += [peer.deadline for peer in self._peers if peer.deadline is not None]
        if self._stdout_paused_until and self._stdout >= 0:
            times.append(self._stdout_paused_until)
        if self._controller is None:
            times.append(min(self._patience(), time.monotonic() + _LOOK))
        return max(0.0, min(times, default=time.monotonic() + 3600) - time.monotonic())

    def _patience(self) -> float:
        return self._busy + (self._idle_timeout if self._last_input else min(_UNKNOWN, self._idle_timeout))

    def _idle(self) -> None:
        self._busy = time.monotonic()
        if self._exit is not None:
            self._finished = True
        else:
            self._stop(2.0)

    def _terminated(self, *_: object) -> None:
        self._leave_after_exit = True  # acted on when the wake-up is read, not in the middle of something

    # the agent

    def _read_stdout(self, _: int = 0) -> None:
        try:
            data = os.read(self._stdout, CHUNK)
        except BlockingIOError:
            return
        if not data:
            self._selector.unregister(self._stdout)
            os.close(self._stdout)
            self._stdout = -1
            self._settle()
            return
        self._busy = time.monotonic()
        self._output.append(data)
        if len(data) < 16384:
            self._read_again = max(self._read_again, self._busy - _AT_ONCE * _LINE_PAUSE) + _LINE_PAUSE
        if self._read_again > self._busy or self._is_full():
            self._selector.unregister(self._stdout)
            self._stdout_paused_until = max(self._read_again, self._busy)

    def _is_full(self) -> bool:
        """The agent is to wait: no room is left, or the attached controller is behind."""
        controller = self._controller
        behind = 0 if controller is None else self._output.end - controller.cursor
        return self._output.full or behind >= self._ahead_limit

    def _make_room(self) -> None:
        """Something may have changed that the agent waits for."""
        if self._stdout_paused_until and not self._is_full():
            self._stdout_paused_until = min(self._stdout_paused_until, max(self._read_again, time.monotonic()))

    def _watch_stdout(self, now: float) -> None:
        """Listen to stdout again after the pause, unless there is no room: then the pipe holds the agent back."""
        if not self._stdout_paused_until or self._stdout < 0 or now < self._stdout_paused_until:
            return
        if self._is_full():
            self._stdout_paused_until = now + 3600  # an acknowledgement, more window or the controller's end ends it
            return
        self._stdout_paused_until = 0.0
        self._selector.register(self._stdout, selectors.EVENT_READ, self._read_stdout)

    def _read_stderr(self, _: int = 0) -> None:
        try:
            data = os.read(self._stderr, CHUNK)
        except BlockingIOError:
            return
        if not data:
            self._selector.unregister(self._stderr)
            os.close(self._stderr)
            self._stderr = -1
        self._tail += data
        if len(self._tail) > 2 * _TAIL_SIZE:
            del self._tail[:-_TAIL_SIZE]

    def _write_stdin(self, _: int = 0) -> None:
        before = self._written
        try:
            while self._input and self._stdin >= 0:
                number, data = self._input[0]
                done = os.write(self._stdin, data[:CHUNK])
                if done < len(data):
                    self._input[0] = (number, data[done:])
                else:
                    self._written = number
                    self._input.popleft()
        except BlockingIOError:
            if not self._listening(self._stdin):
                self._selector.register(self._stdin, selectors.EVENT_WRITE, self._write_stdin)
        except OSError:
            self._close_stdin()  # EPIPE: it reads no more; its exit is what tells
        if not self._input and self._listening(self._stdin):
            self._selector.unregister(self._stdin)
        if self._written != before:
            self._say(self._controller, WRITTEN, self._written)

    def _listening(self, fd: int) -> bool:
        return fd >= 0 and fd in self._selector.get_map()

    def _close_stdin(self) -> None:
        if self._listening(self._stdin):
            self._selector.unregister(self._stdin)
        if self._stdin >= 0:
            os.close(self._stdin)
        self._stdin = -1
        self._input.clear()
        self._written = self._last_input
        self._say(self._controller, WRITTEN, self._written)

    def _stop(self, grace: float) -> None:
        if self._status is None:
            # stdin first: agents flush their session file at its end, and lose it on SIGTERM
            self._close_stdin()
            now = time.monotonic()
            for act, at in ((self._terminate, now + grace), (self._kill, now + 2 * grace)):
                self._deadlines[act] = min(at, self._deadlines.get(act, at))

    def _terminate(self) -> None:
        if self._status is None:
            os.killpg(self.agent_pid, signal.SIGTERM)

    def _kill(self) -> None:
        if self._status is None:
            os.kill(self.agent_pid, signal.SIGKILL)

    def _tree(self) -> dict[int, float]:
        processes = tree(os.getpid(), self._run_id, self.agent_pid)
        processes.pop(self.agent_pid, None)
        return processes

    def _kill_tree(self, younger_than: float = float("inf")) -> int:
        since = time.monotonic()

        def find() -> set[int]:
            limit = younger_than + time.monotonic() - since
            return {pid for pid, age in self._tree().items() if age < limit}

        return kill_all(find)

    def _reap(self, wake: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(wake, 512):
                pass
        if self._leave_after_exit:
            self._stop(1.0)
            self._finished = self._exit is not None
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid == self.agent_pid:
                    self._status = status
                    self._deadlines[self._report] = time.monotonic() + _DRAIN
        self._settle()

    def _settle(self) -> None:
        """Report the exit at once where nothing of the agent is left that could still write or flush."""
        if self._status is not None and self._exit is None and self._stdout < 0 and not self._tree():
            self._report()

    def _report(self) -> None:
        self._deadlines.clear()
        if self._exit is not None or self._status is None:
            return
        self._kill_tree()
        self._close_stdin()
        for _ in range(64):  # what is in the pipes now; a stranger that holds them open cannot keep us here
            if self._stdout >= 0 and (data := _available(self._stdout)):
                self._output.append(data)
            elif self._stderr >= 0 and (data := _available(self._stderr)):
                self._tail += data
            else:
                break
        for fd in (self._stdout, self._stderr):
            if fd >= 0:
                if self._listening(fd):
                    self._selector.unregister(fd)
                os.close(fd)
        self._stdout = self._stderr = -1
        code = os.waitstatus_to_exitcode(self._status)
        report = {
            "code": code if code >= 0 else None,
            "signal": -code if code < 0 else None,
            "stderr": self._stderr_tail(),
        }
        self._exit = json.dumps(report).encode()
        self._busy = time.monotonic()
        self._say(self._controller, EXIT, self._output.end, self._exit)
        self._finished = self._finished or self._leave_after_exit

    def _stderr_tail(self) -> str:
        return bytes(self._tail[-_TAIL_SIZE:]).decode("utf-8", "replace")

    # controllers

    def _accept(self, _: int) -> None:
        try:
            sock, _address = self._listener.accept()
        except OSError:  # it has gone again, or we are out of descriptors: the next one may do better
            return
        if len(self._peers) >= 16:
            sock.close()
            return
        sock.setblocking(False)
        peer = _Peer(sock, time.monotonic() + 5)
        self._peers.add(peer)
        self._selector.register(sock, selectors.EVENT_READ, lambda mask: self._serve(peer, mask))

    def _drop(self, peer: _Peer) -> None:
        if peer in self._peers:
            self._peers.discard(peer)
            self._selector.unregister(peer.sock)
            peer.sock.close()
        if peer is self._controller:
            self._controller = None
            self._busy = time.monotonic()
            self._make_room()

    def _serve(self, peer: _Peer, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            peer.waiting = False
            self._flush(peer)
        if not mask & selectors.EVENT_READ or peer not in self._peers:
            return
        try:
            data = peer.sock.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(peer)
        elif not peer.leaving:  # what a superseded controller still says is not heard
            peer.inbound += data
            self._parse(peer)

    def _parse(self, peer: _Peer) -> None:
        at, inbound = 0, peer.inbound
        while len(inbound) - at >= HEADER.size and not peer.leaving and peer in self._peers:
            kind, number, size = HEADER.unpack_from(inbound, at)
            attached = peer is self._controller
            if size > (INPUT_LIMIT if attached and kind == INPUT else 64) or (not attached and kind != ATTACH):
                self._drop(peer)
                return
            if len(inbound) - at < HEADER.size + size:
                break
            at += HEADER.size + size
            self._handle(peer, kind, number, bytes(memoryview(inbound)[at - size : at]))
        del inbound[:at]

    def _handle(self, peer: _Peer, kind: bytes, number: int, payload: bytes) -> None:
        if kind == ATTACH and peer is not self._controller:
            self._attach(peer, number, payload)
        elif kind == ACK:
            self._output.ack(number)
            self._make_room()
        elif kind == WINDOW:
            peer.window = max(peer.window, number)
        elif kind == INPUT:
            if number > self._last_input:
                self._last_input = number
                self._input.append((number, memoryview(payload)))
                if self._stdin < 0:
                    self._close_stdin()
                elif len(self._input) == 1:
                    self._write_stdin()
            else:
                self._say(peer, WRITTEN, self._written)
        elif kind == KILL:
            alive = self._status is None
            self._say(peer, KILLED, self._kill_tree(number / 1000 if number != EVERYTHING else 1e12) if alive else 0)
        elif kind == TAIL:
            self._say(peer, STDERR, 0, self._stderr_tail().encode())
        elif kind == STOP:
            self._stop(number / 1000)
        elif kind == DONE:
            self._finished = self._finished or self._exit is not None
        else:
            self._drop(peer)

    def _attach(self, peer: _Peer, position: int, payload: bytes) -> None:
        if payload != MAGIC:
            self._drop(peer)
            return
        start, end = self._output.start, self._output.end
        if position == EVERYTHING:
            position = end
        if not start <= position <= end:
            peer.leaving = True
            self._say(peer, REFUSED, 0, f"output is held from {start} to {end}, not from {position}".encode())
            return
        if (old := self._controller) is not None:
            old.leaving = True
            old.deadline = time.monotonic() + 5
            self._controller = None
            self._say(old, TAKEN, 0)
        self._controller = peer
        peer.deadline = None
        peer.cursor = peer.window = position
        hello = {"runner_pid": os.getpid(), "agent_pid": self.agent_pid, "last_input": self._last_input}
        self._say(peer, HELLO, position, json.dumps(hello).encode())
        if self._exit is not None:
            self._say(peer, EXIT, end, self._exit)

    def _say(self, peer: _Peer | None, kind: bytes, number: int, payload: bytes = b"") -> None:
        if peer is not None and peer in self._peers:
            peer.outbound += HEADER.pack(kind, number, len(payload)) + payload
            self._flush(peer)

    def _flush(self, peer: _Peer) -> None:
        """Send what the socket takes now: words first, then output within the window."""
        if peer.waiting or peer.deaf or peer not in self._peers:
            return
        outbound = peer.outbound
        while True:
            if not outbound:
                if peer is not self._controller:
                    break
                size = min(CHUNK, peer.window - peer.cursor, self._output.end - peer.cursor)
                if size <= 0:
                    break
                data = self._output.read(peer.cursor, size)
                outbound += HEADER.pack(DATA, peer.cursor, len(data)) + data
                peer.cursor += len(data)
            try:
                del outbound[: peer.sock.send(outbound)]
            except BlockingIOError:
                peer.waiting = True
                break
            except OSError:
                peer.deaf = True
                break
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.waiting else 0)
        key = self._selector.get_key(peer.sock)
        if key.events != wanted:
            self._selector.modify(peer.sock, wanted, key.data)
        self._make_room()


def _available(fd: int) -> bytes:
    try:
        return os.read(fd, CHUNK)
    except BlockingIOError:
        return b""


def _watch(runner: int, run: str) -> None:
    """Wait for the runner; where it did not end by itself, end all that it left behind."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == runner:
            break
    if status != 0:
        kill_all(lambda: set(tree(os.getpid(), run)), timeout=10.0)


def _serve_agent(spec: dict[str, object], run: str, umask: int) -> None:
    """The runner's life, from the report on stdout to the removal of its directory."""
    log = os.open("runner.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(log, 2)
    try:
        runner = Runner(spec, run, umask)
        for name, text in (("run", run), ("runner.pid", str(os.getpid())), ("agent.pid", str(runner.agent_pid))):
            with open(name, "w") as file:
                file.write(text)
        os.write(1, json.dumps({"pid": os.getpid()}).encode())
    except CannotStart as exc:
        os.write(1, json.dumps({"error": str(exc)}).encode())
    else:
        os.dup2(null, 1)
        runner.run()
    with contextlib.suppress(FileNotFoundError):  # somebody has removed it
        remove(os.getcwd())


def main(directory: str) -> None:
    """Become a daemon that no terminal and no server takes along, and run the agent that stdin specifies."""
    os.chdir(directory)
    spec = json.loads(sys.stdin.buffer.read())
    umask = os.umask(0o077)
    if os.fork():
        os._exit(0)
    os.setsid()
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    adopt_orphans()
    run = os.urandom(16).hex()
    runner = os.fork()
    if runner:
        _watch(runner, run)
    else:
        adopt_orphans()
        _serve_agent(spec, run, umask)
