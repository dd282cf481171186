"""The life of one prompt turn. No I/O, no clock. Whatever may happen to a turn is a row of TRANSITIONS."""

from __future__ import annotations

from enum import StrEnum


class TurnState(StrEnum):
    """Where a turn is."""

    QUEUED = "queued"
    RUNNING = "running"
    REQUIRES_ACTION = "requires_action"
    CANCELLING = "cancelling"
    ENDED = "ended"


class TurnEvent(StrEnum):
    """What may happen to it."""

    START = "start"
    ASK = "ask"
    ANSWER = "answer"
    INTERRUPT = "interrupt"
    WITHDRAW = "withdraw"
    END = "end"


class StopReason(StrEnum):
    """Why a turn ended: ACP's five, then ours. https://agentclientprotocol.com/protocol/prompt-turn#stop-reasons"""

    END_TURN = "end_turn"
    MAX_TOKENS = "max_tokens"
    MAX_TURN_REQUESTS = "max_turn_requests"
    REFUSAL = "refusal"
    CANCELLED = "cancelled"
    ERROR = "error"
    INTERRUPTED = "interrupted"


_S, _E = TurnState, TurnEvent

TRANSITIONS: dict[tuple[TurnState, TurnEvent], TurnState] = {
    (_S.QUEUED, _E.START): _S.RUNNING,
    (_S.QUEUED, _E.WITHDRAW): _S.ENDED,
    (_S.QUEUED, _E.END): _S.ENDED,
    (_S.RUNNING, _E.ASK): _S.REQUIRES_ACTION,
    (_S.RUNNING, _E.INTERRUPT): _S.CANCELLING,
    (_S.RUNNING, _E.END): _S.ENDED,
    (_S.REQUIRES_ACTION, _E.ASK): _S.REQUIRES_ACTION,
    (_S.REQUIRES_ACTION, _E.ANSWER): _S.RUNNING,
    (_S.REQUIRES_ACTION, _E.INTERRUPT): _S.CANCELLING,
    (_S.REQUIRES_ACTION, _E.END): _S.ENDED,
    (_S.CANCELLING, _E.INTERRUPT): _S.CANCELLING,
    (_S.CANCELLING, _E.END): _S.ENDED,
}

ACTIVE = frozenset({TurnState.RUNNING, TurnState.REQUIRES_ACTION, TurnState.CANCELLING})


class IllegalTransition(ValueError):
    """The table has no such row."""


def step(state: TurnState, event: TurnEvent) -> TurnState:
    """The state after `event`; IllegalTransition where the table has no row for it."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransition(f"a turn that is {state} cannot {event}") from None


def stop_reason(wire: object) -> StopReason:
    """The agent's stop reason; one that nobody knows counts as `end_turn`, because the turn did end."""
    try:
        return StopReason(wire)  # type: ignore[arg-type]  # StrEnum takes any object and raises ValueError
    except ValueError:
        return StopReason.END_TURN
