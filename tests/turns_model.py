"""What the log of a session may tell: a queue, an active turn, the ended ones. Pure.

`Model` takes the log event by event and refuses each that it cannot explain by its own state and by what the clients
have just asked for. So it need not foretell when something happens, and still no turn starts, stops, moves or ends
without a reason, and none twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

#: what a client asks for, and of whom: ("edit", "t1", the new prompt)
Call = tuple[Any, ...]

_MOVES = {
    ("running", "requires_action"),
    ("requires_action", "running"),
    ("running", "cancelling"),
    ("requires_action", "cancelling"),
}


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


class Model:
    """The session as its log tells it. AssertionError from `accept` for an event without a reason."""

    def __init__(self, queue_limit: int) -> None:
        self.events: list[dict[str, Any]] = []
        self.queue: list[str] = []
        self.active: str | None = None
        self.state = ""
        #: every turn that was ever queued, and what it is to do now
        self.prompts: dict[str, Prompt] = {}
        self.started: list[str] = []
        self.fronted: set[str] = set()
        self.withdrawn: list[str] = []
        self.ended: dict[str, str] = {}
        self.said: dict[str, str] = {}
        #: questions that wait, each with its turn, and those that do not any more
        self.open: dict[str, str] = {}
        self.resolved: list[str] = []
        self.chosen: dict[str, str] = {}
        #: prompts that exist, by their script
        self.scripts: dict[str, Prompt] = {}
        #: what may happen because it was asked for, and what of it has happened; `expect` begins both anew
        self.asked: Counter[Call] = Counter()
        self.done: Counter[Call] = Counter()
        self._queue_limit = queue_limit

    @property
    def unended(self) -> list[str]:
        """The turns that have not ended, in order."""
        return ([self.active] if self.active else []) + self.queue

    @property
    def held(self) -> str | None:
        """The active turn, where only somebody who stops it ends it."""
        return self.active if self.active and self.prompts[self.active].holds else None

    @property
    def settled(self) -> bool:
        """Nothing more happens by itself."""
        if self.active is None:
            return not self.queue
        if self.held:
            return self.state != "cancelling" and self.said[self.active] == self.prompts[self.active].word
        return self.state == "requires_action"

    def expect(self, calls: Iterable[Call]) -> None:
        """These are begun now, all at once. Whatever was asked for earlier and has not happened never may."""
        self.asked, self.done = Counter(), Counter()
        for do, *about in calls:
            match do, about:
                case "submit", [turn, script, _]:
                    self.asked["submit", turn, script] = int(turn not in self.prompts)
                case "edit", [turn, script]:
                    self.asked["edit", turn, script] += 1
                case "interrupt", [turn]:
                    # two at once are one: only one of them may stop something
                    self.asked["stop", turn, None] = 1
                case "send_now", [turn]:
                    self.asked["send_now", turn] += 1
                    self.asked["stop", None, turn] = 1
                case _:
                    self.asked[do, *about] = 1

    def accept(self, event: dict[str, Any]) -> None:
        """Take the next event of the log."""
        assert event["seq"] == len(self.events) + 1, "the log has a gap or a repeat"
        self.events.append(event)
        if (take := getattr(self, "_" + event["kind"], None)) is not None:
            take(event["turn"], event["data"])

    def told(self, kind: str) -> list[dict[str, Any]]:
        """The data of all events of a kind."""
        return [event["data"] for event in self.events if event["kind"] == kind]

    def _because(self, *call: Any) -> None:
        assert self.asked[call] > 0, f"nobody asked for {call}, but for {+self.asked}"
        self.asked[call] -= 1
        self.done[call] += 1

    # --- one method for each kind of event that concerns turns -------------------------------------------------------

    def _turn_queued(self, turn: str, data: dict[str, Any]) -> None:
        assert turn == data["id"] and turn not in self.prompts, f"{turn} was queued twice"
        self._because("submit", turn, data["text"])
        assert data["position"] == len(self.unended) < self._queue_limit
        self.prompts[turn] = self.scripts[data["text"]]
        self.queue.append(turn)

    def _turn_edited(self, turn: str, data: dict[str, Any]) -> None:
        assert turn == data["id"] and turn in self.queue, f"{turn} does not wait, and was edited"
        self._because("edit", turn, data["text"])
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
        assert turn == data["id"] and turn not in [*self.ended, *self.withdrawn], f"{turn} ended twice"
        if data.get("withdrawn"):
            assert turn in self.queue, f"{turn} does not wait, and was withdrawn"
            self._because("withdraw", turn)
            self.queue.remove(turn)
            self.withdrawn.append(turn)
            return
        assert turn == self.active, f"{turn} ended and did not run"
        reason, said, prompt = data["stop_reason"], self.said[turn], self.prompts[turn]
        if reason == "end_turn":
            assert not prompt.holds and said == prompt.says(self.chosen.get(turn, "")), f"{turn} said {said!r}"
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
            self._because("answer", data["id"], data["option_id"])
            self.chosen[turn] = data["option_id"]
        else:
            assert (turn, self.state) == (self.active, "cancelling"), f"nobody stopped {turn}: {data}"

    def _session_changed(self, _: None, data: dict[str, Any]) -> None:
        if "turns" not in data:
            return
        shown = [turn["id"] for turn in data["turns"]]
        if shown != self.unended:
            first = next(iter(shown[len(self.unended) - len(self.queue) :]), None)
            assert first is not None, f"none is shown, it should be {self.unended}"
            self._because("send_now", first)
            self.fronted.add(first)
            self.queue.sort(key=lambda turn: turn != first)
        assert shown == self.unended, f"{shown} is shown, it should be {self.unended}"
        assert [turn["position"] for turn in data["turns"]] == list(range(len(shown)))
        states = [turn["state"] for turn in data["turns"]]
        if self.active is not None:
            self._move(self.active, states.pop(0))
        assert states == ["queued"] * len(self.queue)
        overall = "idle" if self.active is None else "running" if self.state == "cancelling" else self.state
        assert data["state"] == overall

    def _move(self, turn: str, state: str) -> None:
        if state != self.state:
            assert (self.state, state) in _MOVES, f"{turn} was {self.state} and is {state}"
            if state == "cancelling":
                # by whom: rather one who meant this turn alone, or any but another, than one who meant whatever runs
                stops = [call for call in +self.asked if call[0] == "stop"]
                reasons = [call for call in stops if call[1] in (None, turn) and call[2] != turn]
                assert reasons, f"nobody stopped {turn}, asked was {+self.asked}"
                self._because(*max(reasons, key=lambda call: (call[1] is not None, call[2] is not None)))
        self.state = state
        assert state == "cancelling" or (turn in self.open.values()) == (state == "requires_action")

    def _notice(self, turn: str | None, data: dict[str, Any]) -> None:
        assert data["severity"] != "error", data
