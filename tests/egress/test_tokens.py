"""What an answer says of its tokens, in the words of every provider and however it is cut; and the days' counts."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

import jupyter_acp.egress.usage as egress_usage
from jupyter_acp.egress.tokens import MOST_ESTIMATED, TokenReader
from jupyter_acp.egress.usage import KEPT_DAYS, UsageFile


@pytest.fixture(autouse=True)
def today(monkeypatch: pytest.MonkeyPatch) -> None:
    """No day ends in the middle of a test."""
    monkeypatch.setattr(egress_usage, "_today", lambda: "2026-01-01")


def stream(*events: object) -> bytes:
    return b"".join(b"event: x\ndata: %b\n\n" % json.dumps(event).encode() for event in events)


ANSWERS = {
    "responses": (json.dumps({"output": [], "usage": {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}}), 7),
    "responses, streamed": (
        stream(
            {"type": "response.created", "response": {"usage": None}},
            {"type": "response.output_text.delta", "delta": '"usage":{"total_tokens":1000}'},
            {
                "type": "response.completed",
                "response": {
                    "output": ["x" * 100_000],
                    "usage": {
                        "input_tokens": 100,
                        "input_tokens_details": {"cached_tokens": 90},
                        "output_tokens": 11,
                        "total_tokens": 111,
                    },
                },
            },
        ),
        111,
    ),
    "chat completions": (json.dumps({"usage": {"prompt_tokens": 3, "completion_tokens": 4}}, indent=2), 7),
    "chat completions, streamed": (
        stream({"choices": [], "usage": None}, {"choices": [], "usage": {"prompt_tokens": 3, "total_tokens": 9}}),
        9,
    ),
    "messages": (
        json.dumps(
            {
                "usage": {
                    "input_tokens": 10,
                    "cache_creation_input_tokens": 20,
                    "cache_read_input_tokens": 30,
                    "cache_creation": {"ephemeral_5m_input_tokens": 20},
                    "output_tokens": 40,
                    "service_tier": "standard",
                }
            }
        ),
        100,
    ),
    "messages, streamed": (
        stream(
            {"type": "message_start", "message": {"usage": {"input_tokens": 10, "output_tokens": 1}}},
            {"type": "message_delta", "usage": {"output_tokens": 30}},
            {"type": "message_delta", "usage": {"output_tokens": 50}},
        ),
        60,
    ),
    "gemini": (
        json.dumps(
            [
                {"usageMetadata": {"promptTokenCount": 8, "totalTokenCount": 8}},
                {"usageMetadata": {"promptTokenCount": 8, "candidatesTokenCount": 2, "totalTokenCount": 10}},
            ],
            indent=1,
        ),
        10,
    ),
    "gemini, streamed": (
        stream(
            {"usageMetadata": {"promptTokenCount": 8, "candidatesTokenCount": 1, "thoughtsTokenCount": 4}},
            {"usageMetadata": {"promptTokenCount": 8, "candidatesTokenCount": 3, "thoughtsTokenCount": 4}},
        ),
        15,
    ),
}


@pytest.mark.parametrize("cut", [1, 7, 1000, 1 << 20])
@pytest.mark.parametrize("name", ANSWERS)
def test_the_tokens_of_an_answer_are_found_in_the_words_of_every_provider_however_it_is_cut(
    name: str, cut: int
) -> None:
    answer, tokens = ANSWERS[name]
    data = answer if isinstance(answer, bytes) else answer.encode()
    reader = TokenReader()
    for at in range(0, len(data), cut):
        reader.feed(data[at : at + cut])
        assert len(reader._window) < 20_000  # hardly anything is kept
    assert reader.tokens == tokens


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b'{"usage": null}',
        b'{"input_tokens": 7}',
        b'{"text": "\\"usage\\": {\\"total_tokens\\": 7}"}',
        b'{"usage": {"total_tokens": -7}}',
        b'{"usage": {"total_tokens": "7"}}',
        b'{"usage": {"total_tokens": true}}',
        b'{"usage": {"total_tokens": 1e400}}',
        b'{"usage": {"total_tokens": ' + b"9" * 3000 + b"}}",
        b'{"usage": {' + b"[" * 5000,
        b'{"usage": {"x": ' + b"[" * 100_000,
        b'"usage": {' * 5000,
        b'\xff"usage": {"\xff": ',
    ],
)
def test_what_says_nothing_of_tokens_counts_as_that(answer: bytes) -> None:
    reader = TokenReader()
    for at in range(0, len(answer), 500):
        reader.feed(answer[at : at + 500])
    assert reader.tokens is None


def test_an_estimate_is_a_quarter_of_the_request_and_one_for_each_event() -> None:
    reader = TokenReader()
    reader.feed(stream(*range(10)))
    assert (reader.estimate(0), reader.estimate(4000), reader.estimate(64 << 20)) == (10, 1010, MOST_ESTIMATED + 10)


def test_tokens_are_counted_for_the_day_and_those_of_a_month_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage, path = UsageFile(tmp_path / "a" / "usage.json"), tmp_path / "a" / "usage.json"
    for day in range(40):
        monkeypatch.setattr(egress_usage, "_today", lambda day=day: f"2026-{day // 28 + 1:02}-{day % 28 + 1:02}")
        assert usage.today() == 0
        usage.add(day)
        UsageFile(path).add(1)  # another coordinator
        assert usage.today() == day + 1
    assert len(json.loads(path.read_text())["days"]) in (KEPT_DAYS, KEPT_DAYS + 1)
    assert [file.name for file in path.parent.iterdir()] == ["usage.json"]


@pytest.mark.parametrize("content", ["", "[]", '{"days": 7}', '{"days": {"x": []}}', "{"])
def test_a_damaged_file_is_said_and_counting_begins_anew(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "usage.json"
    path.write_text(content)
    usage = UsageFile(path)
    assert usage.today() == 0 and "counting begins at 0" in caplog.text
    usage.add(5)
    assert UsageFile(path).today() == 5


def test_what_cannot_be_written_is_counted_all_the_same_and_written_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    (tmp_path / "in the way").touch()
    usage = UsageFile(tmp_path / "in the way" / "usage.json")
    usage.add(5)
    usage.add(6)
    assert usage.today() == 11 and "cannot be written" in caplog.text
    (tmp_path / "in the way").unlink()
    usage.add(1)
    assert usage.today() == UsageFile(tmp_path / "in the way" / "usage.json").today() == 12
