"""Which providers are offered, what is wrong with the others, and what projects may ask of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jupyter_acp.egress.providers import BUNDLED, Providers
from jupyter_acp.exceptions import KeyUnusable

KEYS = {id: {"key_file": f"/keys/{id}"} for id in json.loads(BUNDLED.read_bytes())}


def test_a_provider_is_offered_once_it_has_a_key_file_and_the_others_are_no_problem() -> None:
    providers = Providers.load({"anthropic": {"key_file": "~/.keys/a"}})
    assert (list(providers), providers.problems) == (["anthropic"], [])
    anthropic = providers["anthropic"]
    assert (anthropic.authority, anthropic.base, anthropic.header) == ("api.anthropic.com", "", ("x-api-key", "{key}"))


@pytest.mark.parametrize(
    ("id", "request_", "allowed"),
    [
        ("openai", "POST /responses", True),
        ("openai", "POST /responses/compact", True),
        ("openai", "GET /responses/resp_1", False),
        ("openai", "POST /responses/resp_1/cancel", False),
        ("openai", "GET /files", False),
        ("openai", "DELETE /models/gpt-5.5", False),
        ("openai", "POST /responses/", False),
        ("openai", "POST ", False),
        ("anthropic", "POST /v1/messages", True),
        ("anthropic", "POST /v1/messages/batches", False),
        ("gemini", "POST /v1beta/models/gemini-3:streamGenerateContent", True),
        ("gemini", "GET /v1beta/files", False),
        ("mistral", "POST /chat/completions", True),
        ("moonshot", "POST /chat/completions", True),
        ("openrouter", "POST /chat/completions", True),
        ("openrouter", "POST /keys", False),
        ("dashscope", "POST /chat/completions", True),
    ],
)
def test_of_a_known_provider_projects_may_ask_what_models_need_and_nothing_that_others_have_left_there(
    id: str, request_: str, allowed: bool
) -> None:
    providers = Providers.load(KEYS)
    assert providers.problems == [] and list(providers) == list(KEYS)
    method, _, path = request_.partition(" ")
    assert providers[id].allows(method, path) is allowed


def test_what_is_configured_is_merged_over_what_is_known_field_by_field() -> None:
    configured = {
        "openai": {"url": "http://127.0.0.1:8080/openai/v1/", "key_file": "k"},
        "mine": {"url": "https://[::1]", "key_file": "k", "header": "api-key: {key}"},
    }
    providers = Providers.load(configured)
    openai, mine = providers["openai"], providers["mine"]
    assert (openai.secure, openai.host, openai.port, openai.base) == (False, "127.0.0.1", 8080, "/openai/v1")
    assert openai.header == ("Authorization", "Bearer {key}") and not openai.allows("GET", "/files")
    assert (mine.secure, mine.port, mine.authority, mine.requests) == (True, 443, "[::1]", ())
    assert mine.allows("DELETE", "/anything/at/all")


@pytest.mark.parametrize(
    ("id", "entry", "said"),
    [
        ("Bad Id", {}, "an id consists of"),
        ("a/b", {}, "an id consists of"),
        ("x", "text", "not an object"),
        ("x", {"keyfile": "k"}, "unknown keyfile"),
        ("x", {"url": "ftp://x", "key_file": "k"}, "url is http"),
        ("x", {"url": "https://user:word@x", "key_file": "k"}, "url is http"),
        ("x", {"url": "https://x/a/../b", "key_file": "k"}, "url is http"),
        ("x", {"url": "https://x/?a", "key_file": "k"}, "url is http"),
        ("x", {"url": "https://x:99999", "key_file": "k"}, "url is http"),
        ("x", {"url": "https://x/\r\nHost: y", "key_file": "k"}, "url is http"),
        ("x", {"url": "https://m\u00fcller.example", "key_file": "k"}, "url is http"),
        ("x", {"url": 7, "key_file": "k"}, "url is http"),
        ("x", {"url": "https://x", "key_file": ""}, "key_file is a path"),
        ("x", {"url": "https://x"}, "it has no key_file"),
        ("x", {"key_file": "k"}, "it has no url"),
        ("x", {"url": "https://x", "key_file": "k", "header": "Authorization: key"}, "header is"),
        ("x", {"url": "https://x", "key_file": "k", "header": "A: {key}\r\nB: c"}, "header is"),
        ("x", {"url": "https://x", "key_file": "k", "requests": "POST /a"}, "requests is a list"),
        ("x", {"url": "https://x", "key_file": "k", "requests": ["/a"]}, "requests is a list"),
    ],
)
def test_a_bad_entry_is_left_out_with_a_reason_and_the_others_stay(id: str, entry: object, said: str) -> None:
    providers = Providers.load({id: entry, "openai": {"key_file": "k"}})
    assert list(providers) == ["openai"]
    [problem] = providers.problems
    assert problem.startswith(f"model_providers: {id!r}: ") and said in problem


def test_what_is_in_force_means_the_same_to_a_process_that_works_in_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "keys" / "openai"
    key.parent.mkdir()
    key.touch(0o600)
    key.write_text("sk-1")
    monkeypatch.chdir(tmp_path)
    # a mistake of a configuration in Python, which has no JSON
    configured = {"openai": {"key_file": "keys/openai"}, "anthropic": {"key_file": key}}
    providers = Providers.load(configured)
    assert list(providers) == ["openai"] and len(providers.problems) == 1
    told = json.dumps(providers.configured)
    monkeypatch.chdir("/")
    there = Providers.load(json.loads(told))
    assert (list(there), there.problems) == (["openai"], [])
    assert there["openai"].credential(tmp_path / "project") == ("Authorization", "Bearer sk-1")


def test_a_key_is_what_is_in_its_file_now_and_goes_where_the_header_says(tmp_path: Path) -> None:
    file = tmp_path / "key"
    provider = Providers.load({"openai": {"key_file": str(file)}})["openai"]
    with pytest.raises(KeyUnusable, match="cannot be read: No such file"):
        provider.credential(tmp_path / "project")
    file.touch(0o600)
    file.write_text("sk-1\n")
    assert provider.credential(tmp_path / "project") == ("Authorization", "Bearer sk-1")
    for content in ("", "two\nlines", "x" * 20_000):
        file.write_text(content)
        with pytest.raises(KeyUnusable, match="empty, too long, or more than one line"):
            provider.credential(tmp_path / "project")
