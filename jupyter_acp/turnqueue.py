"""The turns of one session that have not ended: in order, one of them active. Every change is logged where it is made.

Nothing here awaits; the caller commits. The rules of a single turn are `turn.TRANSITIONS`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from .events import JsonObject, Kind
from .exceptions import Conflict
from .journal import Journal
from .prompts import prompt_text
from .records import Change, TurnRow
from .turn import StopReason, TurnEvent, TurnState, step

log = logging.getLogger(__name__)

_SHOWN_TEXT = 2000


class TurnQueue:
    """Queued turns and the active one.

    Parameters
    ----------
    position
        The highest queue position that the session has ever given.
    limit
        How many turns may be in here at once.
    """

    def __init__(self, session_id: str, journal: Journal, *, position: int, limit: int) -> None:
        self._session_id = session_id
        self._journal = journal
        self._position = position
        self._limit = limit
        self._turns: dict[str, TurnRow] = {}
        self.active: TurnRow | None = None

    def restore(self, turns: Sequence[TurnRow]) -> None:
        """Take over what an earlier coordinator left."""
        for turn in turns:
            self._turns[turn.id] = turn
            if turn.active:
                self.active = turn

    def get(self, turn_id: str) -> TurnRow | None:
        """A turn that has not ended."""
        return self._turns.get(turn_id)

    @property
    def waiting(self) -> list[TurnRow]:
        """The queued turns in order."""
        return sorted((t for t in self._turns.values() if not t.active), key=lambda t: t.position)

    @property
    def state(self) -> str:
        """The session's state: idle, running or requires_action."""
        if self.active is None:
            return "idle"
        return "requires_action" if self.active.state is TurnState.REQUIRES_ACTION else "running"

    @property
    def cancelling(self) -> bool:
        """Somebody has stopped the active turn."""
        return self.active is not None and self.active.state is TurnState.CANCELLING

    def add(self, turn_id: str, blocks: list[JsonObject], user: JsonObject) -> TurnRow:
        """A new turn at the end. Conflict where the queue is full."""
        if len(self._turns) >= self._limit:
            raise Conflict(f"{len(self._turns)} prompts wait already", "queue_full")
        self._position += 1
        turn = TurnRow(
            session_id=self._session_id,
            id=turn_id,
            position=self._position,
            state=TurnState.QUEUED,
            prompt=blocks,
            text=prompt_text(blocks),
            user=user,
        )
        self._turns[turn.id] = turn
        place = len(self._turns) - 1
        data = {"id": turn.id, "position": place, "text": turn.text, "prompt": blocks, "user": user}
        self._journal.append(Kind.TURN_QUEUED, data, turn=turn.id, changes=[turn.save()])
        return turn

    def edit(self, turn_id: str, blocks: list[JsonObject]) -> TurnRow:
        """Replace the prompt of a queued turn. Conflict once it runs."""
        turn = replace(self._queued(turn_id), prompt=blocks, text=prompt_text(blocks))
        self._turns[turn.id] = turn
        data = {"id": turn.id, "text": turn.text, "prompt": blocks}
        self._journal.append(Kind.TURN_EDITED, data, turn=turn.id, changes=[turn.save()])
        self.announce()
        return turn

    def withdraw(self, turn_id: str) -> None:
        """Take a queued turn back. Conflict once it runs."""
        turn = self._queued(turn_id)
        del self._turns[turn.id]
        data = {"id": turn.id, "stop_reason": StopReason.CANCELLED, "elapsed_ms": 0, "withdrawn": True}
        # What it asked for is forgotten; that it was there is not, lest a client that repeats itself has it run.
        state = step(turn.state, TurnEvent.WITHDRAW)
        done = replace(turn, state=state, prompt=[], text="", stop_reason=StopReason.CANCELLED)
        self._journal.append(Kind.TURN_ENDED, data, turn=turn.id, changes=[done.save()])
        self.announce()

    def put_first(self, turn_id: str) -> None:
        """Make a queued turn the next one. Conflict once it runs."""
        turn = self._queued(turn_id)
        first = self.waiting[0]
        if first.id != turn.id:
            turn = replace(turn, position=first.position - 1)
            self._turns[turn.id] = turn
        self.announce([turn.save()])

    def begin(self) -> TurnRow | None:
        """Make the first queued turn the active one, or None where none waits. Its `turn_started` is the next event."""
        if self.active is not None or not (waiting := self.waiting):
            return None
        turn = replace(
            waiting[0],
            state=step(waiting[0].state, TurnEvent.START),
            started=time.time(),
            started_seq=self._journal.last_seq + 1,
        )
        self._turns[turn.id] = self.active = turn
        return turn

    def move(self, event: TurnEvent) -> None:
        """Let something happen to the active turn."""
        assert self.active is not None
        before = self.active.state
        turn = self.update(replace(self.active, state=step(before, event)))
        log.info("session=%s turn=%s %s -> %s", self._session_id, turn.id, before, turn.state)
        self.announce([turn.save()])

    def update(self, turn: TurnRow) -> TurnRow:
        """Replace the active turn by a newer version of itself."""
        self._turns[turn.id] = self.active = turn
        return turn

    def finish(
        self, turn: TurnRow, reason: StopReason, error: JsonObject | None, changes: JsonObject | None = None
    ) -> None:
        """Log the one end of a turn; `changes` counts the files and lines that it has changed."""
        elapsed = 0 if turn.started is None else max(0, round((time.time() - turn.started) * 1000))
        data: JsonObject = {"id": turn.id, "stop_reason": reason, "elapsed_ms": elapsed}
        if error is not None:
            data["error"] = error
        if changes is not None:
            data["changes"] = changes
        done = replace(
            turn, state=step(turn.state, TurnEvent.END), stop_reason=reason, ended_seq=self._journal.last_seq + 1
        )
        del self._turns[turn.id]
        if self.active is not None and self.active.id == turn.id:
            self.active = None
        self._journal.append(Kind.TURN_ENDED, data, turn=turn.id, changes=[done.save()])
        self.announce()
        log.info("session=%s turn=%s %s -> ended (%s)", self._session_id, turn.id, turn.state, reason)

    def announce(self, changes: Sequence[Change] = (), **fields: object) -> None:
        """Log the session's state and turns as they are now, with other fields of its summary."""
        data = {"state": self.state, "turns": self.summary(), **fields}
        self._journal.append(Kind.SESSION_CHANGED, data, turn=None, changes=changes)

    def summary(self) -> list[JsonObject]:
        """The turns as the session's summary shows them, the active one first."""
        ordered = ([self.active] if self.active else []) + self.waiting
        return [
            {
                "id": turn.id,
                "state": str(turn.state),
                "position": place,
                "text": turn.text[:_SHOWN_TEXT],
                "user": turn.user,
                "started_seq": turn.started_seq,
                "started_at": turn.started,
            }
            for place, turn in enumerate(ordered)
        ]

    def place(self, turn_id: str) -> int:
        """The place of a turn in the queue: 0 runs or has ended."""
        return next((turn["position"] for turn in self.summary() if turn["id"] == turn_id), 0)

    def _queued(self, turn_id: str) -> TurnRow:
        turn = self._turns.get(turn_id)
        if turn is None:
            raise Conflict(f"turn {turn_id} has ended or never was", "turn_ended")
        if turn.state is not TurnState.QUEUED:
            raise Conflict(f"turn {turn_id} runs already", "turn_running")
        return turn
