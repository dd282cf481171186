"""Two clients do anything at any time, the server dies at any moment: every turn runs once, in order, and ends once.

Theory of operation. The server is a process with a real coordinator in it: real database, real runner, the scripted
agent. Its crash is a real one, SIGKILL, which it gives itself after a drawn number of rounds of its event loop, so that
the moment is somewhere inside of the command that it was just given. A process is quickly there, because a *nursery*
that has imported everything forks it. The commands of one request are begun in the same round of the loop: that is how
two clients are made to act at once.

Beside it stands a pure `Model`: the queue, the active turn, the ended ones. It takes the log event by event and refuses
each that it cannot explain by its own state and by what the clients have asked for since the log was read last. So it
need not foretell when the agent does something, and still no turn can start, stop, move or end without a reason.
Conversely each answer to a client must have come true in the log, and at the end all that was asked for.

What hypothesis draws never depends on what has happened so far, which is a matter of time: a command is aimed at "the
nth of those that wait, run or ended last". `MODEL_EXAMPLES=500` tries that many other examples than the ordinary ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from jupyter_acp.agentspec import Catalogue
from jupyter_acp.coordinator import Coordinator, Settings
from jupyter_acp.exceptions import AgentError, RequestError
from jupyter_acp.projects.local import LocalProjects
from jupyter_acp.runner_link import RunnerLink
from jupyter_acp.session import Limits
from jupyter_acp.store import Store
from jupyter_acp.turn import IllegalTransition, TurnEvent, TurnState, step

EXAMPLES = os.environ.get("MODEL_EXAMPLES")
# part of `make test-faults`, which sets it, until it has run often enough to be an ordinary test
pytestmark = pytest.mark.skipif(EXAMPLES is None, reason="MODEL_EXAMPLES is not set (make test-faults sets it)")
QUEUE_LIMIT = 6
PATIENCE = 20.0
OPTIONS = ("allow_once", "allow_always", "reject_once")

T = TypeVar("T")

# --- one turn ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(TurnEvent), max_size=12))
def test_whatever_happens_to_a_turn_its_state_is_what_the_facts_say(events: list[TurnEvent]) -> None:
    # The facts are another way to say what a turn is than the table is; both must agree on what may happen next.
    state, facts = TurnState.QUEUED, set[TurnEvent]()
    for event in events:
        over = bool(facts & {TurnEvent.WITHDRAW, TurnEvent.END})
        started, asked, stopped = (e in facts for e in (TurnEvent.START, TurnEvent.ASK, TurnEvent.INTERRUPT))
        may_happen = not over and {
            TurnEvent.START: not started,
            TurnEvent.WITHDRAW: not started,
            TurnEvent.ASK: started and not stopped,
            TurnEvent.ANSWER: asked and not stopped,
            TurnEvent.INTERRUPT: started,
            TurnEvent.END: True,
        }.get(event)
        if not may_happen:
            with pytest.raises(IllegalTransition):
                step(state, event)
            continue
        state = step(state, event)
        facts = facts - {TurnEvent.ASK} if event is TurnEvent.ANSWER else facts | {event}
        expected = (
            (TurnState.ENDED, {TurnEvent.WITHDRAW, TurnEvent.END}),
            (TurnState.CANCELLING, {TurnEvent.INTERRUPT}),
            (TurnState.REQUIRES_ACTION, {TurnEvent.ASK}),
            (TurnState.RUNNING, {TurnEvent.START}),
        )
        assert state is next(state for state, any_of in expected if facts & any_of)


# --- the server, in a process of its own ------------------------------------------------------------------------------


def nursery() -> None:
    """Fork a server for each request on stdin, a socket, or wait for the end of one; until the socket is closed."""
    control = socket.socket(fileno=0)
    while (received := socket.recv_fds(control, 1 << 16, 1))[0]:
        data, sockets, *_ = received
        request = json.loads(data)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            control.send(str(status).encode())
            continue
        pid = os.fork()
        if pid == 0:
            control.close()
            os.open(os.devnull, os.O_RDONLY)  # the new number 0
            os._exit(serve(sockets[0], Path(request["folder"]), request["fuse"]))
        os.close(sockets[0])
        control.send(str(pid).encode())
    control.close()


def serve(fd: int, folder: Path, fuse: int | None) -> int:
    """Be the server until the client says stop or hangs up; the exit status."""
    log = os.open(folder / "server.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for number in (1, 2):
        os.dup2(log, number)
    os.close(log)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        asyncio.run(_serve(socket.socket(fileno=fd), folder, fuse))
        gc.collect()  # what was not closed says so now
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


async def _serve(sock: socket.socket, folder: Path, fuse: int | None) -> None:
    reader, writer = await asyncio.open_connection(sock=sock)
    if fuse is not None:
        _light(fuse)
    coordinator = Coordinator(
        store=Store(folder / "coordinator.db"),
        project=LocalProjects(folder / "project").projects()[0],
        catalogue=Catalogue.load(directories=[], configured={}, default="demo"),
        settings=Settings(
            runtime_dir=folder / "run",
            limits=Limits(queue=QUEUE_LIMIT, cancel_grace=0.4, kill_grace=0.2),
            environment={**os.environ, "XDG_STATE_HOME": str(folder / "state")},
        ),
    )
    await coordinator.ready()
    session, _ = await coordinator.open("a.chat")
    session_id, stopped = session.row.id, False
    writer.write(b"{}\n")
    while line := await reader.readline():
        request = json.loads(line)
        stopped = any(name == "stop" for name, *_ in request["calls"])
        if request["fuse"] is not None:
            _light(request["fuse"])
        answers = await asyncio.gather(*(_call(coordinator, session_id, *call) for call in request["calls"]))
        writer.write(json.dumps(answers).encode() + b"\n")
        if stopped:
            break
    if not stopped:
        # whoever ran us is gone, and nobody else would end the agent
        await coordinator.close(session_id)
        await coordinator.stop()
    writer.close()
    await writer.wait_closed()


def _light(rounds: int) -> None:
    """Die after so many rounds of the loop. None of them waits, so it is not a matter of time alone."""
    loop = asyncio.get_running_loop()

    def burn(left: int) -> None:
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        loop.call_soon(burn, left - 1)

    loop.call_soon(burn, rounds)


async def _call(coordinator: Coordinator, session_id: str, name: str, *args: Any) -> tuple[str, Any]:
    try:
        return "ok", await _command(coordinator, session_id, name, *args)
    except RequestError as exc:
        return "refused", exc.reason
    except Exception as exc:
        return "failed", repr(exc)


async def _command(coordinator: Coordinator, session_id: str, name: str, *args: Any) -> Any:
    store = coordinator.store
    if name == "stop":
        return await coordinator.stop()
    if name == "close":
        return await coordinator.close(session_id)
    if name == "read":
        return [json.loads(text) for text in await store.read(session_id, *args)]
    if name == "more":
        async with contextlib.aclosing(store.follow(session_id, *args)) as log:  # type: ignore[type-var]
            return len(await anext(log))
    if name == "rows":
        return {turn.id: str(turn.state) for turn in await store.turns(session_id)}
    session = await coordinator.get(session_id)
    if name == "summary":
        return session.summary()
    if name == "messages":
        return [message["id"] for message in session.chat.page(limit=1000).messages]
    if name == "submit":
        turn_id, prompt, config = args
        return (await session.submit(turn_id, prompt, {"username": "ann"}, config)).id
    assert name in ("edit", "withdraw", "send_now", "interrupt", "answer")
    await getattr(session, name)(*args)
    return None


class Nursery:
    """Our end of the process that forks servers."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen([sys.executable, "-W", "error", __file__], stdin=theirs.fileno())

    def fork(self, sock: socket.socket, folder: Path, fuse: int | None) -> int:
        """Start a server that talks on `sock`; its pid."""
        request = json.dumps({"folder": str(folder), "fuse": fuse}).encode()
        socket.send_fds(self._control, [request], [sock.fileno()])
        return int(self._control.recv(64))

    def wait(self, pid: int) -> int:
        """The exit status of a server, negative where a signal ended it."""
        self._control.send(json.dumps({"wait": pid}).encode())
        return os.waitstatus_to_exitcode(int(self._control.recv(64)))

    def close(self) -> None:
        self._control.close()
        assert self._process.wait(10) == 0


class Server:
    """One server process, seen by its clients."""

    def __init__(self, nursery: Nursery) -> None:
        self._nursery = nursery
        self._pid: int | None = None

    async def start(self, folder: Path, fuse: int | None = None) -> bool:
        """Start it on a folder. False where it died before it answered."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._pid = self._nursery.fork(theirs, folder, fuse)
        self._reader, self._writer = await asyncio.open_connection(sock=ours, limit=1 << 26)
        return bool(await self._line())

    async def ask(self, *calls: list[Any], fuse: int | None = None) -> list[tuple[str, Any]] | None:
        """Do all of these at once. What came of each, or None where the server died before it said so."""
        self._writer.write(json.dumps({"calls": calls, "fuse": fuse}).encode() + b"\n")
        line = await self._line()
        return None if not line else [(how, what) for how, what in json.loads(line)]

    async def gone(self) -> int:
        """Return its exit status once it has ended."""
        assert self._pid is not None
        assert await self._line() == b""
        pid, self._pid = self._pid, None
        self._writer.close()
        return self._nursery.wait(pid)

    async def kill(self) -> None:
        """End it, where it has not ended."""
        if self._pid is not None:
            os.kill(self._pid, signal.SIGKILL)
            self._writer.close()
            self._nursery.wait(self._pid)
            self._pid = None

    async def _line(self) -> bytes:
        async with asyncio.timeout(PATIENCE):
            try:
                line = await self._reader.readline()
            except ConnectionResetError:
                return b""
        # it may have died in the middle of a line
        return line if line.endswith(b"\n") else b""


# --- the model --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the agent is told to do, and so what it will have said. `word` is of this prompt alone."""

    kind: str
    word: str

    @property
    def script(self) -> str:
        return {
            "quick": f"/text {self.word}",
            "slow": f"/count 15 delay=0.002\n/text {self.word}",
            "ask": f"/permission Write\n/text {self.word}",
            "hold": f"/text {self.word}\n/sleep 1000",
            "stubborn": f"/text {self.word}\n/stubborn\n/sleep 1000",
        }[self.kind]

    @property
    def holds(self) -> bool:
        """Its turn ends only when it is stopped."""
        return self.kind in ("hold", "stubborn")

    def says(self, option: str) -> str:
        before = {"slow": "".join(f"{n}\n" for n in range(1, 16)), "ask": f"permission: {option}\n\n\n"}
        return before.get(self.kind, "") + self.word


@dataclass(slots=True)
class Asked:
    """What the clients have asked for and the log may tell next; each item explains one event."""

    submits: dict[str, Prompt] = field(default_factory=dict)
    edits: list[tuple[str, str]] = field(default_factory=list)
    withdrawals: list[str] = field(default_factory=list)
    fronts: list[str] = field(default_factory=list)
    answers: list[tuple[str, str]] = field(default_factory=list)
    #: the turn to be stopped, None for any; and one that must not be
    stops: list[tuple[str | None, str | None]] = field(default_factory=list)


MOVES = {
    ("running", "requires_action"),
    ("requires_action", "running"),
    ("running", "cancelling"),
    ("requires_action", "cancelling"),
}


class Model:
    """What the log must be. `accept` fails on any event that has no reason."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.queue: list[str] = []
        self.active: str | None = None
        self.state = ""
        self.ended: dict[str, str] = {}
        self.withdrawn: set[str] = set()
        self.queued: list[str] = []
        self.started: list[str] = []
        self.fronted: set[str] = set()
        self.prompts: dict[str, Prompt] = {}
        self.scripts: dict[str, Prompt] = {}
        self.said: dict[str, str] = {}
        self.open: dict[str, str] = {}
        self.resolved: list[str] = []
        self.chosen: dict[str, str] = {}
        self.asked = Asked()

    @property
    def turns(self) -> list[str]:
        """Those that have not ended, in order."""
        return ([self.active] if self.active else []) + self.queue

    @property
    def settled(self) -> bool:
        """Nothing more happens by itself."""
        if self.active is None:
            return not self.queue
        if self.state == "cancelling":
            return False
        if self.prompts[self.active].holds:
            return self.said[self.active] == self.prompts[self.active].word
        return self.state == "requires_action"

    def accept(self, event: dict[str, Any]) -> None:
        assert event["seq"] == len(self.events) + 1, "the log has a gap or a repeat"
        self.events.append(event)
        if (take := getattr(self, "_" + event["kind"], None)) is not None:
            take(event["turn"], event["data"])

    def _turn_queued(self, turn: str, data: dict[str, Any]) -> None:
        assert turn == data["id"] and turn not in self.queued, f"{turn} was queued twice"
        assert turn in self.asked.submits, f"nobody submitted {turn}"
        assert data["position"] == len(self.turns) < QUEUE_LIMIT
        self.prompts[turn] = self.asked.submits.pop(turn)
        assert data["text"] == self.prompts[turn].script
        self.queued.append(turn)
        self.queue.append(turn)

    def _turn_edited(self, turn: str, data: dict[str, Any]) -> None:
        assert turn == data["id"] and turn in self.queue, f"{turn} does not wait, and was edited"
        self.asked.edits.remove((turn, data["text"]))
        self.prompts[turn] = self.scripts[data["text"]]

    def _turn_started(self, turn: str, data: dict[str, Any]) -> None:
        assert self.active is None, f"{turn} started while {self.active} ran"
        assert turn == data["id"] and [turn] == self.queue[:1], f"{turn} started, first was {self.queue[:1]}"
        assert data["text"] == self.prompts[turn].script
        del self.queue[0]
        self.active, self.state, self.said[turn] = turn, "running", ""
        self.started.append(turn)

    def _message_delta(self, turn: str, data: dict[str, Any]) -> None:
        assert turn == self.active, f"{turn} says something and does not run"
        self.said[turn] += data["text"]

    def _turn_ended(self, turn: str, data: dict[str, Any]) -> None:
        assert turn == data["id"] and turn not in self.ended and turn not in self.withdrawn, f"{turn} ended twice"
        if data.get("withdrawn"):
            assert turn in self.queue, f"{turn} does not wait, and was withdrawn"
            self.asked.withdrawals.remove(turn)
            self.queue.remove(turn)
            self.withdrawn.add(turn)
            return
        assert turn == self.active, f"{turn} ended and did not run"
        reason, said, prompt = data["stop_reason"], self.said[turn], self.prompts[turn]
        if reason == "end_turn":
            assert not prompt.holds
            assert said == prompt.says(self.chosen.get(turn, "")), f"{turn} said {said!r}"
        else:
            assert reason in ("cancelled", "interrupted"), f"{turn} failed: {data}"
            assert self.state == "cancelling", f"{turn} was {reason} and nobody had stopped it"
            assert prompt.says(self.chosen.get(turn, "cancelled")).startswith(said), f"{turn} said {said!r}"
        assert turn not in self.open.values(), f"{turn} ended with a question open"
        self.ended[turn], self.active = reason, None

    def _permission_requested(self, turn: str, data: dict[str, Any]) -> None:
        assert turn == self.active and self.prompts[turn].kind == "ask"
        assert data["id"] not in [*self.open, *self.resolved]
        self.open[data["id"]] = turn

    def _permission_resolved(self, turn: str, data: dict[str, Any]) -> None:
        assert self.open.pop(data["id"]) == turn, f"question {data['id']} of {turn} was resolved twice"
        self.resolved.append(data["id"])
        if data["outcome"] == "selected":
            self.asked.answers.remove((data["id"], data["option_id"]))
            self.chosen[turn] = data["option_id"]
        else:
            assert (turn, self.state) == (self.active, "cancelling"), f"nobody stopped {turn}: {data}"

    def _session_changed(self, _: None, data: dict[str, Any]) -> None:
        if "turns" not in data:
            return
        shown = [turn["id"] for turn in data["turns"]]
        if shown != self.turns:
            moved = shown[len(self.turns) - len(self.queue)]
            assert moved in self.asked.fronts, f"{shown} is shown, it should be {self.turns}"
            self.asked.fronts.remove(moved)
            self.fronted.add(moved)
            self.queue.sort(key=lambda turn: turn != moved)
        assert shown == self.turns
        assert [turn["position"] for turn in data["turns"]] == list(range(len(shown)))
        states = [turn["state"] for turn in data["turns"]]
        if self.active is not None:
            state = states.pop(0)
            if state != self.state:
                assert (self.state, state) in MOVES, f"{self.active} was {self.state} and is {state}"
                if state == "cancelling":
                    self._stopped(self.active)
            self.state = state
            waiting = self.active in self.open.values()
            assert state == "cancelling" or waiting == (state == "requires_action")
        assert states == ["queued"] * len(self.queue)
        overall = "idle" if self.active is None else "running" if self.state == "cancelling" else self.state
        assert data["state"] == overall

    def _stopped(self, turn: str) -> None:
        reasons = [(only, but) for only, but in self.asked.stops if only in (None, turn) and but != turn]
        assert reasons, f"{turn} was stopped, asked was {self.asked.stops}"
        # one that fits this turn alone, before one that might explain another stop
        self.asked.stops.remove(max(reasons, key=lambda reason: (reason[0] is not None, reason[1] is not None)))

    def _notice(self, turn: str | None, data: dict[str, Any]) -> None:
        assert data["severity"] != "error", data


# --- the clients ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Command:
    """What a client wants: `do` it with the `which`th turn or question; `twice`: the other client does the same."""

    do: str
    which: int = 0
    kind: str = "quick"
    twice: bool = False
    config: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """A command on its way: what is called, for which turn or question, and how many do it."""

    do: str
    about: str
    args: list[Any]
    count: int


class Verdict:
    """Whether the answers to some calls are true: what was said to be done is in the log, what was refused is not."""

    def __init__(self, model: Model, calls: list[Call]) -> None:
        self._model = model
        self._calls = calls
        self.requests = [call.args for call in calls for _ in range(call.count)]
        active = model.active
        self._held = active if active and model.prompts[active].holds else None
        self._room = len(model.turns) + sum(call.do == "submit" for call in calls) <= QUEUE_LIMIT

    def check(self, answers: list[tuple[str, Any]], *, strict: bool = True) -> None:
        """After the log was read. Not `strict`: the server was about to stop, and what it has not done it may have."""
        outcomes: dict[str, list[tuple[str, Any]]] = {}
        for args, answer in zip(self.requests, answers, strict=True):
            outcomes.setdefault(json.dumps(args), []).append(answer)
        stopping = set[str]() if strict else {"session_closed", "unknown_session", "queue_full"}
        for call in self._calls:
            outcome = outcomes[json.dumps(call.args)]
            done = sum(how == "ok" for how, _ in outcome)
            refusals = {what for how, what in outcome if how == "refused"} - stopping
            failures = [what for how, what in outcome if how == "failed"]
            assert not failures or (not strict and "StoreError" in str(failures)), (call, failures)
            happened = self._happened(call)
            assert happened in (None, done) or (done < happened and not strict), (call, outcome, happened)
            assert refusals <= self._reasons(call), (call, outcome)

    def _happened(self, call: Call) -> int | None:
        """How many of these calls the log says were carried out; None where it cannot say that."""
        model, asked, about = self._model, self._model.asked, call.about
        same = [one for one in self._calls if one.args == call.args]
        count = sum(one.count for one in same)
        if call.do == "submit":
            return count if about in model.queued else 0
        if call.do == "edit":
            return count - asked.edits.count((about, call.args[2]))
        if call.do == "withdraw":
            return int(about in model.withdrawn)
        if call.do == "send_now":
            # It leaves nothing behind where the turn was the first already and what ran ended by itself.
            return None if about in {*model.queue, *model.started, *model.withdrawn} else 0
        if call.do == "answer":
            return len(same) - asked.answers.count((about, call.args[2]))
        if self._held and about in ("", self._held):
            stopped = self._held in model.ended or (self._held, model.state) == (model.active, "cancelling")
            return count if stopped else 0
        return count

    def _reasons(self, call: Call) -> set[str]:
        """For what it may be refused now."""
        model, about = self._model, call.about
        if call.do == "submit":
            return set() if self._room else {"queue_full"}
        if call.do == "answer":
            return {"permission_resolved"} if about in model.resolved else {"unknown_permission"}
        if call.do == "interrupt" or about in model.queue:
            return set()
        return {"turn_ended", "turn_running"} if about in model.started else {"turn_ended"}


KINDS = st.sampled_from(("quick", "quick", "slow", "ask", "ask", "hold", "hold", "hold", "stubborn"))
WHICH = st.integers(0, 5)
SUBMIT = st.builds(Command, st.just("submit"), kind=KINDS, twice=st.booleans(), config=st.booleans())
AGAIN = st.builds(Command, st.just("again"), WHICH)
EDIT = st.builds(Command, st.just("edit"), WHICH, kind=KINDS, twice=st.booleans())
WITHDRAW = st.builds(Command, st.just("withdraw"), WHICH, twice=st.booleans())
SEND_NOW = st.builds(Command, st.just("send_now"), WHICH, twice=st.booleans())
INTERRUPT = st.builds(Command, st.sampled_from(("interrupt", "interrupt_any")), twice=st.booleans())
ANSWER = st.builds(Command, st.just("answer"), WHICH, kind=st.sampled_from(OPTIONS), twice=st.booleans())
ANY = st.one_of(SUBMIT, SUBMIT, AGAIN, EDIT, WITHDRAW, SEND_NOW, INTERRUPT, INTERRUPT, ANSWER)
# from the first steps of a command to long after its answer
FUSE = st.integers(0, 12).map(lambda power: (1 << power) - 1)


class TwoClients(RuleBasedStateMachine):
    """The rules; each ends with a look at the log."""

    nursery: Nursery

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="acp-model-"))
        (self.folder / "project").mkdir()
        self.model = Model()
        self.server = Server(self.nursery)
        self.submitted = 0
        self.words = 0
        self.stubborn = 0
        self.healthy = False

    @initialize(commands=st.lists(SUBMIT, min_size=1, max_size=4))
    def begin(self, commands: list[Command]) -> None:
        self.healthy = True
        assert self.run(self.server.start(self.folder))
        self.run(self.do(commands))

    @rule(command=SUBMIT)
    def submit(self, command: Command) -> None:
        self.run(self.do([command]))

    @rule(command=SUBMIT)
    def submit_another(self, command: Command) -> None:
        self.run(self.do([command]))

    @rule(command=AGAIN)
    def submit_again(self, command: Command) -> None:
        self.run(self.do([command]))

    @rule(command=EDIT)
    def edit(self, command: Command) -> None:
        self.run(self.do([command]))

    @rule(command=WITHDRAW)
    def withdraw(self, command: Command) -> None:
        self.run(self.do([command]))

    @rule(command=SEND_NOW)
    def send_now(self, command: Command) -> None:
        self.run(self.do([command]))

    @rule(command=INTERRUPT)
    def interrupt(self, command: Command) -> None:
        self.run(self.do([command]))

    @rule(command=ANSWER)
    def answer(self, command: Command) -> None:
        self.run(self.do([command]))

    @rule(commands=st.lists(ANY, min_size=2, max_size=4))
    def at_once(self, commands: list[Command]) -> None:
        self.run(self.do(commands))

    @rule()
    def settle(self) -> None:
        self.run(self.settled())

    @rule(during=st.lists(ANY, max_size=2), fuse=FUSE, and_again=st.lists(FUSE, max_size=2), retry=st.booleans())
    def crash(self, during: list[Command], fuse: int, and_again: list[int], retry: bool) -> None:
        self.run(self.crashed(during, fuse, and_again, retry))

    @rule(during=st.lists(ANY, max_size=2))
    def restart(self, during: list[Command]) -> None:
        self.run(self.restarted(during))

    @invariant()
    def the_log_is_what_the_model_allows(self) -> None:
        self.run(self.look())

    def teardown(self) -> None:
        try:
            if self.healthy:
                self.run(self.finish())
        finally:
            self.loop.run_until_complete(self.end())
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return self.loop.run_until_complete(work)
        except BaseException as exc:
            self.healthy = False
            log = "\n".join(json.dumps({k: v for k, v in e.items() if k != "time"})[:300] for e in self.model.events)
            with contextlib.suppress(OSError):
                log += "\n" + (self.folder / "server.log").read_text(errors="replace")[-6000:]
            exc.add_note(log)
            raise

    # --- what the rules do -------------------------------------------------------------------------------------------

    async def do(self, commands: list[Command]) -> None:
        """All commands at once, and what has come of them."""
        await self.send(self.prepare(commands))

    async def send(self, calls: list[Call]) -> None:
        verdict = Verdict(self.model, calls)
        answers = await self.server.ask(*verdict.requests)
        assert answers is not None, "the server died"
        await self.look()
        verdict.check(answers)
        self.model.asked = Asked()

    async def crashed(self, during: list[Command], fuse: int, and_again: list[int], retry: bool) -> None:
        """The server dies during these commands, and while it comes back."""
        calls = self.prepare(during)
        verdict = Verdict(self.model, calls)
        answers = await self.server.ask(*verdict.requests, fuse=fuse)
        assert await self.server.gone() == -signal.SIGKILL
        for fuse in and_again:
            await self.server.start(self.folder, fuse)
            assert await self.server.gone() == -signal.SIGKILL
        assert await self.server.start(self.folder)
        await self.look()
        if answers is not None:
            verdict.check(answers)
        # What nobody has recorded by now is lost for good, and a client who was told nothing may send it again.
        self.model.asked = Asked()
        if answers is None and retry:
            lost = [call for call in calls if call.do == "submit"]
            for call in lost:
                if call.about not in self.model.queued:
                    self.model.asked.submits[call.about] = self.model.scripts[call.args[2]]
            await self.send(lost)

    async def restarted(self, during: list[Command]) -> None:
        """The server ends in order during these commands, and comes back."""
        verdict = Verdict(self.model, self.prepare(during))
        answers = await self.server.ask(*verdict.requests, ["stop"])
        assert answers is not None and answers.pop() == ("ok", None), answers
        assert await self.server.gone() == 0
        assert await self.server.start(self.folder)
        await self.look()
        verdict.check(answers, strict=False)
        self.model.asked = Asked()

    async def look(self) -> None:
        """Give the model what is new in the log."""
        while True:
            found = await self.tell("read", len(self.model.events))
            if not found:
                return
            for event in found:
                self.model.accept(event)

    async def settled(self) -> None:
        """Wait until nothing happens any more by itself."""
        while not self.model.settled:
            await self.tell("more", len(self.model.events))
            await self.look()
        summary = await self.tell("summary")
        assert [turn["id"] for turn in summary["turns"]] == self.model.turns
        assert {question["id"] for question in summary["permissions"]} == set(self.model.open)

    def prepare(self, commands: list[Command]) -> list[Call]:
        """What to send for these commands, aimed at what the model knows of now; from here on it may happen."""
        model, calls = self.model, list[Call]()
        # mostly those that wait, then the active one and one that has ended
        targets = [*model.queue, *([model.active] if model.active else []), *list(model.ended)[-1:], "nobody"]
        questions = [*model.open, *model.resolved[-1:], "none"]
        for command in commands:
            target, question = targets[command.which % len(targets)], questions[command.which % len(questions)]
            calls += self.call(command, target, question)
        return calls

    def call(self, command: Command, target: str, question: str) -> list[Call]:
        asked, count = self.model.asked, 2 if command.twice else 1
        if command.do == "submit":
            self.submitted += 1
            turn = f"t{self.submitted}"
            asked.submits[turn] = prompt = self.prompt(turn, command.kind)
            config = {"effort": "high" if self.submitted % 2 else "low"} if command.config else None
            return [Call("submit", turn, ["submit", turn, prompt.script, config], count)]
        if command.do == "again":
            # nothing is asked for by it: the log must not tell of it
            again = ["submit", target, self.prompt(target, "quick").script, None]
            return [Call("submit", target, again, count)] if target != "nobody" else []
        if command.do == "edit":
            script = self.prompt(target, command.kind).script
            asked.edits += [(target, script)] * count
            return [Call("edit", target, ["edit", target, script], count)]
        if command.do == "withdraw":
            asked.withdrawals.append(target)
            return [Call("withdraw", target, ["withdraw", target], count)]
        if command.do == "send_now":
            asked.fronts += [target] * count
            asked.stops += [(None, target)] * count
            return [Call("send_now", target, ["send_now", target], count)]
        if command.do == "answer":
            asked.answers.append((question, command.kind))
            return [Call("answer", question, ["answer", question, command.kind, None, "ann"], count)]
        # Two at once are one: of both only one may stop something.
        only = None if command.do == "interrupt_any" else (self.model.active or "nobody")
        asked.stops.append((only, None))
        return [Call("interrupt", only or "", ["interrupt", only], count)]

    def prompt(self, turn: str, kind: str) -> Prompt:
        # Each costs seconds: the agent is killed, and started again after a pause.
        if kind == "stubborn":
            self.stubborn += 1
            kind = "stubborn" if self.stubborn == 1 else "hold"
        self.words += 1
        prompt = Prompt(kind, f"{turn}.{self.words}")
        self.model.scripts[prompt.script] = prompt
        return prompt

    # --- the end -----------------------------------------------------------------------------------------------------

    async def finish(self) -> None:
        """Let everything come to its end, and see that it was all that was asked for."""
        model = self.model
        await self.settled()
        while model.active is not None:
            await self.do([Command("answer", kind=OPTIONS[0]) if model.open else Command("interrupt")])
            await self.settled()
        rows, messages, closed = await self.tell("rows"), await self.tell("messages"), await self.tell("close")
        assert closed is None
        await self.look()
        assert await self.server.ask(["stop"]) == [("ok", None)]
        assert await self.server.gone() == 0

        def told(kind: str) -> list[dict[str, Any]]:
            return [event["data"] for event in model.events if event["kind"] == kind]

        # Once more and from the log alone, so that a mistake of the model hides nothing.
        queued, started = [data["id"] for data in told("turn_queued")], [data["id"] for data in told("turn_started")]
        withdrawn = [data["id"] for data in told("turn_ended") if data.get("withdrawn")]
        ended = [data["id"] for data in told("turn_ended") if not data.get("withdrawn")]
        assert [event["seq"] for event in model.events] == list(range(1, len(model.events) + 1))
        assert started == ended
        assert Counter(queued) == Counter(started + withdrawn) == Counter(set(queued))
        in_order = [turn for turn in queued if turn not in {*model.fronted, *withdrawn}]
        assert [turn for turn in started if turn not in model.fronted] == in_order
        asked, resolved = (Counter(d["id"] for d in told(f"permission_{how}")) for how in ("requested", "resolved"))
        assert asked == resolved == Counter(set(asked))
        assert rows == dict.fromkeys(started, "ended")
        assert messages == [f"{turn}-{who}" for turn in started for who in ("user", "agent")]
        assert told("session_closed") == [{}] and model.events[-1]["kind"] == "session_closed"
        log = (self.folder / "server.log").read_text()
        assert not [word for word in (" ERROR ", "Traceback", "Exception ignored") if word in log], log

    async def tell(self, *call: Any) -> Any:
        answers = await self.server.ask(list(call))
        assert answers is not None and answers[0][0] == "ok", answers
        return answers[0][1]

    async def end(self) -> None:
        """End whatever still runs; after an example that went well nothing may."""
        await self.server.kill()
        if not self.healthy:
            for runner in (self.folder / "run").glob("*"):
                with contextlib.suppress(AgentError):
                    link = await RunnerLink.attach(runner, after=None)
                    await link.stop(0)
                    await link.close()
        _, left = psutil.wait_procs(list(self.processes()), timeout=10)
        for process in left:
            process.kill()
        assert not left or not self.healthy, left

    def processes(self) -> Iterator[psutil.Process]:
        """Runners, which have the folder as an argument, and their agents, which have it in their environment."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if str(self.folder) in " ".join([*process.cmdline(), *process.environ().values()]):
                    yield process


@pytest.fixture(scope="module")
def servers() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.mark.slow
@pytest.mark.timeout(0 if EXAMPLES else 180)
def test_every_turn_runs_once_and_in_order_whatever_two_clients_do_and_whenever_the_server_dies(
    servers: Nursery,
) -> None:
    TwoClients.nursery = servers
    run_state_machine_as_test(
        TwoClients,
        settings=settings(
            max_examples=int(EXAMPLES or 20),
            stateful_step_count=15,
            deadline=None,
            derandomize=EXAMPLES is None,
            database=None,
            print_blob=True,
            # The same commands are not the same moments: a failure is told as it was found.
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


if __name__ == "__main__":
    nursery()
