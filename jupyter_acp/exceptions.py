"""What can go wrong, named by whose fault it is. Imports nothing of ours.

AcpError
├── RequestError                the caller's fault; answered with `status` and nothing changes
│   ├── BadRequest              400  malformed
│   ├── NotAllowed              403  known, but not for this person
│   ├── NotFound                404
│   ├── Conflict                409  illegal in the present state
│   ├── TooLarge                413
│   ├── Unsupported             422  understood, cannot be done here; says what is missing
│   └── Unavailable             503  the project or its agent cannot be reached
├── AgentError                  the agent's fault; the turn ends with it
│   ├── KeyUnusable             the file of its key is not as it must be
│   ├── AgentRequestError       the agent answered a request with an error
│   ├── AgentExited             the agent's process is gone
│   ├── AgentProtocolError      it said something that cannot be carried on from
│   └── SessionLost             it cannot bring the conversation back
├── ExecutorError               a command or a file of the project failed
│   └── PathOutside             a path that leaves the project
└── StoreError                  the database could not be written
    └── NotOwner                another coordinator has claimed the project
"""

from __future__ import annotations


class AcpError(Exception):
    """Base of everything this package raises on purpose."""


class RequestError(AcpError):
    """The caller asked for something that cannot be done.

    Parameters
    ----------
    message
        A sentence for the person.
    reason
        A short stable identifier for programs, for example ``"turn_ended"``.
    """

    status = 400

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or _snake(type(self).__name__)


class BadRequest(RequestError):
    """The request itself is malformed."""


class NotAllowed(RequestError):
    """The person is known but may not do this."""

    status = 403


class NotFound(RequestError):
    """Nothing of that name exists."""

    status = 404


class Conflict(RequestError):
    """Illegal in the present state."""

    status = 409


class TooLarge(RequestError):
    """More than the configured limit."""

    status = 413


class Unsupported(RequestError):
    """Understood, but it cannot be done here; the message says what is missing."""

    status = 422


class Unavailable(RequestError):
    """The project or the agent cannot be reached now."""

    status = 503


class AgentError(AcpError):
    """The agent is at fault. The turn ends with ``error``."""


class KeyUnusable(AgentError):
    """A key that an agent, or a model provider, needs is not in a file as it must be."""


class AgentRequestError(AgentError):
    """The agent answered one of our requests with a JSON-RPC error."""

    def __init__(self, method: str, code: int, message: str, data: object = None) -> None:
        super().__init__(f"{method}: {message} ({code})")
        self.method = method
        self.code = code
        self.message = message
        self.data = data


class AgentExited(AgentError):
    """The agent's process ended while it was needed.

    `code` is its exit status or None, `signal` the number of the signal that ended it or None.
    """

    def __init__(self, code: int | None, signal: int | None, stderr_tail: str) -> None:
        how = f"signal {signal}" if signal is not None else f"exit status {code}"
        super().__init__(f"the agent ended ({how})")
        self.code = code
        self.signal = signal
        self.stderr_tail = stderr_tail


class AgentProtocolError(AgentError):
    """The agent said something that no turn can be carried on from, for example a line above the limit."""


class SessionLost(AgentError):
    """The agent cannot bring the conversation back; a person decides how to go on."""


class ExecutorError(AcpError):
    """A command or a file of the project failed."""


class PathOutside(ExecutorError):
    """The path leads out of the project."""


class StoreError(AcpError):
    """The database could not be read or written."""


class NotOwner(StoreError):
    """Another coordinator has claimed the project: this one may not write its sessions any more."""


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
