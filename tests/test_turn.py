import pytest

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
