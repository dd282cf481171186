import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jupyter_acp.turn import ACTIVE, TRANSITIONS, IllegalTransition, StopReason, TurnEvent, TurnState, step, stop_reason


def test_every_state_but_ended_can_reach_the_end() -> None:
    for state in set(TurnState) - {TurnState.ENDED}:
        assert step(state, TurnEvent.END) is TurnState.ENDED


def test_nothing_happens_to_a_turn_that_has_ended() -> None:
    for event in TurnEvent:
        with pytest.raises(IllegalTransition):
            step(TurnState.ENDED, event)


def test_only_a_queued_turn_can_be_withdrawn() -> None:
    assert [state for (state, event) in TRANSITIONS if event is TurnEvent.WITHDRAW] == [TurnState.QUEUED]


def test_an_interrupt_of_a_cancelling_turn_changes_nothing() -> None:
    assert step(TurnState.CANCELLING, TurnEvent.INTERRUPT) is TurnState.CANCELLING


def test_a_cancelling_turn_never_asks_or_runs_again() -> None:
    assert {new for (state, _), new in TRANSITIONS.items() if state is TurnState.CANCELLING} == {
        TurnState.CANCELLING,
        TurnState.ENDED,
    }


def test_the_active_states_are_those_between_start_and_end() -> None:
    assert set(TurnState) - ACTIVE == {TurnState.QUEUED, TurnState.ENDED}


@pytest.mark.parametrize("wire", ["new_reason", None, 7, [], {}])
def test_an_unknown_stop_reason_ends_the_turn_all_the_same(wire: object) -> None:
    assert stop_reason(wire) is StopReason.END_TURN


@settings(derandomize=True)
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
