"""What every executor promises, and what they share: exit status, the tail of an output, a command's environment.

No I/O. `local` and `server` (a project behind a headless Jupyter server) keep the contract, and pass the same tests.
"""

from __future__ import annotations

import asyncio
import codecs
import signal
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from jupyter_acp.events import JsonObject
from jupyter_acp.exceptions import ExecutorError

OnOutput: TypeAlias = Callable[[str, bool], Awaitable[None] | None]
"""Called with the next piece of text, and whether output before it was dropped. An awaitable result holds the
command back: once a full tail waits, the command's own writes block."""


Run: TypeAlias = Literal["terminal", "pipe"]
"""How a command is connected: to a terminal of its own, in which a person may type; or to a pipe, with no input."""

OnBytes: TypeAlias = Callable[[bytes], None]
"""Called with the next raw bytes of a terminal, and with nothing once it has ended. Must not block."""


class FileMissing(ExecutorError, FileNotFoundError):
    """No file of that name in the project (ACP: -32002)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a command ended: `code`, or the name of the `signal` that ended it. Exactly one of them is not None."""

    code: int | None
    signal: str | None

    @classmethod
    def of(cls, returncode: int) -> Exit:
        """From the number that `subprocess` gives: negative for a signal."""
        if returncode >= 0:
            return cls(code=returncode, signal=None)
        try:
            name = signal.Signals(-returncode).name
        except ValueError:  # real-time signals have no name of their own
            name = f"SIG{-returncode}"
        return cls(code=None, signal=name)


OnExit: TypeAlias = Callable[[Exit], Awaitable[None] | None]


class Command(Protocol):
    """A command that was started; it may have ended."""

    @property
    def id(self) -> str: ...

    @property
    def exit(self) -> Exit | None:
        """None while it runs."""

    def output(self) -> tuple[str, bool]:
        """The tail of all its output, and whether anything before that was dropped."""

    def watch(self, listener: OnBytes) -> Callable[[], None]:
        """Give the tail up to now and then all that follows to `listener`; what is returned ends that. Terminals only.

        Who watches does not hold the command back, and its going does not end the command.
        """

    async def write(self, data: bytes) -> None:
        """Type into its terminal. ExecutorError where it has none, or where it has ended."""

    async def resize(self, rows: int, columns: int) -> None:
        """Tell its terminal the size of a screen, in characters. As `write`."""

    async def wait(self) -> Exit:
        """Return when it has ended and its last output and `on_exit` were delivered."""

    async def kill(self, grace: float = 0.5) -> None:
        """End it and all that it started, within `grace` politely, then by force; returns when none is left.

        Also ends what an ended command left behind. Idempotent.
        """

    async def close(self) -> None:
        """Kill, and let its terminal go. The output can still be read. Idempotent."""


class Executor(Protocol):
    """Files and commands of one project. Every path is the project's own, absolute or relative to its root.

    The verbs of its life are those of Jupyter's kernel provisioners.
    """

    async def start(self) -> None:
        """Make it ready, or find that it is. ExecutorError with the reason where it cannot be. Idempotent."""

    async def poll(self) -> int | None:
        """None while commands and files can be asked for, else a status: 0 after `stop`, 1 where it is gone."""

    def get_state(self) -> JsonObject:
        """What another coordinator needs to go on with it, as JSON; no secret is in it."""

    def load_state(self, state: JsonObject) -> None:
        """Be what `get_state` described; before `start`. ValueError for what is not such a state."""

    async def read_text_file(self, path: str, line: int | None = None, limit: int | None = None) -> str:
        """The text, line ends as they are; `limit` lines from the 1-based `line` on.

        A byte order mark says its encoding and is no part of it; without one it is UTF-8.
        FileMissing, PathOutside; ExecutorError for what is no text, no regular file, or too long to be read whole.
        """

    async def write_text_file(self, path: str, text: str) -> None:
        """Replace the file by `text` in one step, or create it and the folders above it.

        The mode is kept, and the encoding where a byte order mark says it, with the mark; else it is UTF-8.
        """

    async def spawn(
        self,
        command: Sequence[str] | str,
        *,
        run: Run = "terminal",
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        output_limit: int | None = None,
        on_output: OnOutput | None = None,
        on_exit: OnExit | None = None,
    ) -> Command:
        """Start an argv, or a line for the shell, in a terminal of its own or with its output in a pipe.

        `output_limit` bytes of its tail are kept. `env` is laid over the allow-list. ExecutorError if it cannot
        start, PathOutside for a `cwd` outside.
        """

    async def stop(self) -> None:
        """Close every command and the project's root."""


async def finish_all(endings: Iterable[Awaitable[None]]) -> None:
    """Wait for every one, then raise the first error: one command that does not end must not spare the others."""
    for result in await asyncio.gather(*endings, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


class Tail:
    """The last `limit` bytes of a stream."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.truncated = False
        self._data = bytearray()

    def __len__(self) -> int:
        return len(self._data)

    def append(self, data: bytes) -> None:
        if len(data) > self.limit:  # most of it would be copied for nothing
            data = data[len(data) - self.limit :]
            self._data.clear()
            self.truncated = True
        self._data += data
        excess = len(self._data) - self.limit
        if excess > 0:
            del self._data[:excess]
            self.truncated = True

    def take(self) -> tuple[bytes, bool]:
        """What has come since the last `take`, and whether its start was dropped."""
        taken = bytes(self._data), self.truncated
        self._data.clear()
        self.truncated = False
        return taken

    def data(self) -> bytes:
        """The tail, from a character on."""
        return _from_character(self._data) if self.truncated else bytes(self._data)

    def text(self, *, final: bool) -> tuple[str, bool]:
        """The tail as text that begins at a character and encodes to no more than `limit` bytes; and `truncated`.

        Before the `final` call, a character of which only the first bytes have come is left out.
        """
        text = codecs.getincrementaldecoder("utf-8")("replace").decode(self.data(), final)
        encoded = text.encode()
        if len(encoded) <= self.limit:
            return text, self.truncated
        # each byte that was not UTF-8 became three
        return _from_character(encoded[len(encoded) - self.limit :]).decode(), True


class TextStream:
    """Pieces of bytes to pieces of text, whatever the cuts; a gap starts at the next whole character."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def decode(self, data: bytes, *, after_gap: bool = False, final: bool = False) -> str:
        if after_gap:
            self._decoder.reset()
            data = _from_character(data)
        return self._decoder.decode(data, final)


def _from_character(data: bytes | bytearray) -> bytes:
    """`data` without the rest of a character whose first byte is missing."""
    start = 0
    while start < min(3, len(data)) and data[start] & 0xC0 == 0x80:
        start += 1
    return bytes(data[start:])


# fmt: off
_ALLOWED = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR",
    "VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS",
})
# fmt: on
# nobody sits at this terminal: a pager would wait for a key for ever, and colours are noise to an agent
_TERMINAL = {"TERM": "dumb", "NO_COLOR": "1", "PAGER": "cat", "GIT_PAGER": "cat", "GH_PAGER": "cat"}


def command_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The part of our own environment that a delegated command may see: an allow-list, without keys or JUPYTER_*."""
    allowed = {k: v for k, v in environ.items() if k in _ALLOWED or k.startswith("LC_")}
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", **allowed, **_TERMINAL}
