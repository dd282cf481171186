"""What the sessions of a project ask of the place that their agents and commands run in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypeAlias

from ..agentspec import AgentSpec
from ..events import JsonObject
from ..kernel_exec.base import Executor
from ..projects.base import Project
from ..records import SessionRow
from ..runner_link import LaunchSpec, RunnerLink

State: TypeAlias = Literal["running", "stopped", "starting", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How an agent is started.

    Attributes
    ----------
    argv, env
        Resolved, and its whole environment.
    cwd
        The folder that the agent is told to work in, as the project names it.
    folder
        The folder that its process starts in.
    delegated
        Whether it gets our fs and terminal.
    idle_timeout
        Seconds without a controller and without a word, after which its runner ends it.
    access
        What is enforced on an agent that is started so.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    folder: str
    delegated: bool
    idle_timeout: float
    access: str

    @property
    def spec(self) -> LaunchSpec:
        """What its runner is told."""
        return LaunchSpec(argv=self.argv, env=self.env, cwd=self.folder, idle_timeout=self.idle_timeout)


class Looking(NamedTuple):
    """How git is run on a project's files: in what, made for the files and for git's own folder; or why not at all."""

    confine: Callable[[Path, Path], Callable[[list[str]], list[str]]] | None = None
    missing: str | None = None


class Launcher(Protocol):
    """Starts the agents of one session, one at a time, and finds again one that goes on."""

    async def prepare(self) -> Launch:
        """How the next agent is started, as things are now; the place is made ready. AgentError, ExecutorError."""

    async def launch(self, name: str, how: Launch) -> str:
        """Start it in a runner of this name; what `attach` finds it by. AgentError."""

    async def attach(self, runner: str, *, after: int | None = 0) -> RunnerLink:
        """See `RunnerLink.attach`. Where no runner is, what it left behind is ended and removed."""

    async def left(self, prefix: str) -> list[str]:
        """Runners whose names begin so, dead ones too."""

    async def kill_leftovers(self, younger_than: float) -> int:
        """End what the agent started in the last `younger_than` seconds where its runner does not see it; how many."""

    def release(self) -> None:
        """No agent of this session is connected any more. Idempotent."""


class Site(Protocol):
    """Where one project runs.

    Attributes
    ----------
    access
        Every kind of access, with why some cannot be had, as of `open`.
    state, error
        Whether commands and agents can be started at once, and what was wrong the last time.
    warning
        What of the project's declaration is not in force although it runs.
    """

    access: list[JsonObject]
    error: str | None

    @property
    def state(self) -> State: ...

    @property
    def warning(self) -> str | None: ...

    @property
    def looking(self) -> Looking:
        """How the project's files are looked at from here, as of `open`."""

    async def open(self) -> None:
        """Find out what can be had here; nothing is started."""

    async def recovered(self) -> None:
        """Every session that was left at work has been attached to again: what nobody uses may go."""

    def launcher(self, spec: AgentSpec, row: Callable[[], SessionRow]) -> Launcher:
        """For the agents of a session; `row` gives the session as it is."""

    def executor(self, row: Callable[[], SessionRow]) -> Executor:
        """For the files and commands that a session's agent has us handle."""

    async def left(self) -> list[str]:
        """The names of all runners, dead ones too."""

    async def start(self) -> None:
        """Make it ready now. ExecutorError. Idempotent."""

    async def stop(self) -> None:
        """End all that runs here. ExecutorError where it cannot be."""

    async def log(self) -> str:
        """The end of what the project's server has written."""

    async def programs(self, names: Sequence[str]) -> set[str] | None:
        """Which of these programs there are for agents inside; None where it does not run."""

    async def changed(self, project: Project) -> None:
        """The project is declared otherwise now; what runs goes on as it was begun."""

    def usage(self) -> JsonObject | None:
        """What the project has used of the model providers; None where that is not counted."""

    async def close(self) -> None:
        """Let go: agents go on, what nobody uses ends."""
