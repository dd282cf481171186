from jupyter_acp.answer import LIMIT, Answer


def answer(*pieces: str) -> Answer:
    made = Answer()
    for piece in pieces:
        made.append(piece)
    return made


def test_an_answer_up_to_the_limit_is_kept_whole() -> None:
    words = [f"{number} " for number in range(LIMIT // 10)]
    assert str(answer(*words)) == "".join(words)
    assert str(answer("a" * LIMIT)) == "a" * LIMIT
    assert str(answer("a", "b" * (LIMIT // 2), "", "c" * (LIMIT // 3))) == "a" + "b" * (LIMIT // 2) + "c" * (LIMIT // 3)


def test_of_a_longer_one_beginning_and_end_are_kept_and_what_is_left_out_is_counted() -> None:
    words = [f"{number:09} " for number in range(LIMIT)]
    whole = "".join(words)
    kept = str(answer(*words))
    head, note, tail = kept.partition("\n\n*[")
    count, _, tail = tail.partition(" characters are left out here; the details of this turn have them]*\n\n")
    assert note and whole.startswith(head) and whole.endswith(tail)
    assert len(head) == LIMIT // 2 and LIMIT // 2 <= len(tail) < LIMIT // 2 + 20_000
    assert int(count.replace(",", "")) == len(whole) - len(head) - len(tail)


def test_nothing_said_is_false_and_a_piece_is_true() -> None:
    assert not answer() and answer("a") and str(answer()) == ""
    made = answer("a")
    assert (str(made), bool(made), str(made)) == ("a", True, "a")
