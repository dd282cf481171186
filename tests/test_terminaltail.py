from jupyter_acp.terminaltail import HEAD, LIMIT, LIVE, STEADY, TerminalTails


def test_short_output_is_logged_as_it_comes_and_nothing_is_left_for_the_end() -> None:
    tails = TerminalTails()
    assert [tails.output("t", piece, 0.0) for piece in ("a", "b")] == [("a", False), ("b", False)]
    assert tails.ended("t") is None


def test_of_output_that_comes_at_once_the_beginning_and_the_last_mebibyte_are_logged() -> None:
    tails = TerminalTails()
    whole = "".join(f"{n:09}\n" for n in range(500_000))
    pieces = [whole[at : at + 1000] for at in range(0, len(whole), 1000)]
    logged = [found for piece in pieces if (found := tails.output("t", piece, 0.5)) is not None]
    first = "".join(text for text, _ in logged)
    assert HEAD - 1000 <= len(first) <= HEAD and whole.startswith(first)
    assert tails.ended("t") == (whole[-LIMIT:], True)


def test_output_that_a_screen_can_follow_is_logged_whole_however_long_it_goes_on() -> None:
    tails = TerminalTails()
    pieces = [f"{n:09}\n" * 100 for n in range(3000)]
    logged = [found for n, piece in enumerate(pieces) if (found := tails.output("t", piece, n * 0.1)) is not None]
    rest = tails.ended("t")
    assert not any(gap for _, gap in logged)
    assert "".join(text for text, _ in logged) + (rest[0] if rest else "") == "".join(pieces)


def test_of_faster_output_a_screen_gets_the_newest_characters_once_a_second_and_each_gap_is_told() -> None:
    tails = TerminalTails()
    tails.output("t", "x" * HEAD, 0.0)
    assert tails.output("t", "y" * (STEADY + 1), 10.0) == ("y" * LIVE, True)
    assert tails.output("t", "z", 10.5) is None
    assert tails.output("t", "last", 11.0) == ("zlast", False)


def test_one_huge_piece_costs_no_more_than_its_tail() -> None:
    tails = TerminalTails()
    assert tails.output("t", "x" * HEAD, 0.1) == ("x" * HEAD, False)
    assert tails.output("t", "x" * (5 * LIMIT) + "end", 0.2) is None
    piece = tails.ended("t")
    assert piece is not None and len(piece[0]) == LIMIT and piece[0].endswith("end") and piece[1]


def test_terminals_do_not_mix_and_all_can_be_ended_at_once() -> None:
    tails = TerminalTails()
    for name in ("a", "b"):
        tails.output(name, name * HEAD, 0.1)
        tails.output(name, name, 0.2)
    assert tails.ended_all() == [("a", ("a", False)), ("b", ("b", False))]
    assert tails.ended_all() == []
