"""The catalogue of agents: what is merged, what is refused and said, what an agent gets to know."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from jupyter_acp.agentspec import (
    BUNDLED,
    AgentSpec,
    Catalogue,
    environment,
    keys,
    own_folders,
    provider_environment,
)
from jupyter_acp.exceptions import AgentError, NotFound


def program(folder: Path, name: str, script: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_the_bundled_catalogue_has_no_problems_and_the_demo_is_always_available() -> None:
    catalogue = Catalogue.load()
    assert catalogue.problems == []
    assert {"demo", "codex", "claude", "gemini", "opencode", "goose", "kimi", "qwen", "copilot", "vibe"} <= set(
        catalogue.specs
    )
    assert "demo" in [spec.id for spec in catalogue.available()]
    assert catalogue.get("demo").argv() == [sys.executable, "-m", "jupyter_acp.testing"]


def test_only_fast_agent_delegates() -> None:
    assert [spec.id for spec in Catalogue.load().specs.values() if spec.delegates] == ["fast-agent"]


def test_fast_agent_keeps_its_sessions_outside_of_the_project_where_it_may_write_them() -> None:
    spec = Catalogue.load().get("fast-agent")
    env = environment(spec, {"HOME": "/home/me"})
    assert env["FAST_AGENT_HOME"] == "~/.fast-agent"  # it expands that itself
    assert own_folders(spec, env) == [Path("/home/me/.fast-agent")]


def test_every_bundled_agent_that_is_to_be_installed_says_how_and_how_to_log_in() -> None:
    for spec in Catalogue.load().specs.values():
        assert spec.id == "demo" or (spec.install and spec.login), spec.id


def test_the_trait_wins_over_the_folder_and_the_folder_over_the_bundled_field_by_field(tmp_path: Path) -> None:
    user, system = tmp_path / "user", tmp_path / "system"
    for folder, name in ((user, "User"), (system, "System")):
        folder.mkdir()
        (folder / "a.json").write_text(json.dumps({"gemini": {"name": name, "env": {"A": name, name: "1"}}}))
    catalogue = Catalogue.load(
        directories=[user, system], configured={"gemini": {"description": "ours", "pass_env": ["EXTRA"]}}
    )
    gemini = catalogue.get("gemini")
    assert (gemini.name, gemini.description, gemini.command) == ("User", "ours", ("gemini", "--acp"))
    assert gemini.env == {"A": "User", "User": "1", "System": "1"}
    assert "EXTRA" in gemini.pass_env and "GEMINI_API_KEY" in gemini.pass_env


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("text", "not an object"),
        ({"command": "codex-acp"}, "command is a list"),
        ({"command": []}, "command is a list"),
        ({"command": ["x"], "enviroment": {}}, "unknown enviroment"),
        ({"command": ["x"], "env": {"A": 1}}, "env is an object of texts"),
        ({"command": ["x"], "providers": {"openai": "x"}}, "providers is an object of objects"),
        ({"command": ["x"], "placement": "moon"}, "placement is one of"),
        ({"command": ["x"], "access": {"all": {}}}, "the kinds of access"),
        ({"name": "no command"}, "no command"),
    ],
)
def test_a_bad_entry_is_left_out_with_a_reason_and_the_others_stay(entry: object, said: str) -> None:
    catalogue = Catalogue.load(configured={"bad": entry, "good": {"command": ["good"]}})
    assert "bad" not in catalogue.specs and "good" in catalogue.specs and "demo" in catalogue.specs
    assert len(catalogue.problems) == 1
    assert "'bad'" in catalogue.problems[0] and said in catalogue.problems[0]


def test_a_damaged_file_is_named_and_the_others_stay(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_text('{"mine": {"command": ["mine"]}}')
    catalogue = Catalogue.load(directories=[tmp_path, tmp_path / "absent"])
    assert "mine" in catalogue.specs
    assert len(catalogue.problems) == 1 and str(tmp_path / "a.json") in catalogue.problems[0]


def test_an_unknown_agent_is_not_found() -> None:
    with pytest.raises(NotFound):
        Catalogue.load().get("nobody")


def test_the_default_is_the_configured_one_else_the_first_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert Catalogue.load().default == "demo"
    assert Catalogue.load(default="codex").default == "codex"
    assert Catalogue.load(configured={"mine": {"command": ["{python}"]}}).default == "mine"
    unknown = Catalogue.load(default="nobody")
    assert unknown.default == "demo" and "nobody" in unknown.problems[0]


def test_an_agent_gets_the_basic_variables_and_those_of_its_entry_and_nothing_else() -> None:
    spec = AgentSpec(id="a", name="A", command=("a",), env={"SET": "1"}, pass_env=("A_KEY", "ABSENT"))
    base = {
        "PATH": "/bin",
        "HOME": "/home/p",
        "LC_CTYPE": "C.UTF-8",
        "https_proxy": "http://proxy",
        "SSL_CERT_FILE": "/c.pem",
        "A_KEY": "k",
        "OTHER_KEY": "no",
        "JUPYTER_TOKEN": "no",
        "JPY_SESSION_NAME": "no",
        "AWS_SECRET_ACCESS_KEY": "no",
    }
    env = environment(spec, base)
    assert env.pop("PATH").startswith("/bin:")
    assert env == {
        "HOME": "/home/p",
        "LC_CTYPE": "C.UTF-8",
        "https_proxy": "http://proxy",
        "SSL_CERT_FILE": "/c.pem",
        "A_KEY": "k",
        "SET": "1",
    }


def test_no_bundled_agent_gets_a_token_of_the_server() -> None:
    for id, entry in json.loads(BUNDLED.read_text()).items():
        for name in entry.get("pass_env", []):
            assert not name.startswith(("JUPYTER_", "JPY_")) or (id, name[:17]) == ("demo", "JUPYTER_ACP_TEST_"), name


def test_the_description_tells_version_and_availability_default_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    program(tmp_path, "mine-acp", "echo called >> calls; echo 'mine-acp v1.2.3'")
    monkeypatch.chdir(tmp_path)
    catalogue = Catalogue.load(
        configured={"absent": {"command": ["absent-acp"], "install": "get it"}, "mine": {"command": ["mine-acp"]}}
    )

    async def twice() -> list[dict[str, object]]:
        await catalogue.describe()
        return await catalogue.describe()

    first, second = asyncio.run(twice())[:2]
    assert (first["id"], first["default"], first["available"], first["version"]) == ("mine", True, True, "1.2.3")
    assert (second["id"], second["available"], second["version"]) == ("absent", False, None)
    assert second["hint"] == "Not installed: get it"
    assert (tmp_path / "calls").read_text() == "called\n"


def test_a_program_that_never_tells_its_version_is_given_up_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jupyter_acp.agentspec.VERSION_TIMEOUT", 0.2)
    stuck = program(tmp_path, "stuck", "sleep 60; echo 1.0")
    catalogue = Catalogue.load(configured={"stuck": {"command": [str(stuck)]}})
    assert asyncio.run(catalogue.version(catalogue.get("stuck"))) is None


def test_the_agents_own_folders_are_where_its_environment_says(tmp_path: Path) -> None:
    entry = {"command": ["x"], "folders": ["${MINE_HOME:-~/.mine}", "~/.mine.json", "/srv/mine", "${A:-~}/b"]}
    spec = Catalogue.load(configured={"mine": entry}).get("mine")
    env = {"HOME": str(tmp_path)}
    assert own_folders(spec, env) == [tmp_path / ".mine", tmp_path / ".mine.json", Path("/srv/mine"), tmp_path / "b"]
    assert own_folders(spec, {**env, "MINE_HOME": "/elsewhere", "A": "/a"})[::3] == [Path("/elsewhere"), Path("/a/b")]
    problems = Catalogue.load(configured={"mine": {"command": ["x"], "folders": "~/.mine"}}).problems
    assert problems == ["AcpExtension.agents: agent 'mine': folders is a list of paths"]


def test_a_key_comes_from_a_file_that_nobody_else_can_read_outside_of_the_project(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    file = tmp_path / "key"
    file.write_text("sk-1\n")
    file.chmod(0o400)
    spec = AgentSpec(id="a", name="a", command=("a",), key_files={"KEY": str(file)})
    assert keys(spec, project) == {"KEY": "sk-1"}
    assert "KEY" not in environment(spec, {})
    for mode in (0o440, 0o404, 0o600 | 0o020):
        file.chmod(mode)
        with pytest.raises(AgentError, match="nobody else can read"):
            keys(spec, project)
    file.chmod(0o600)
    for text, said in (("", "empty"), ("a\nb", "more than one line"), ("x" * 20_000, "too long")):
        file.write_text(text)
        with pytest.raises(AgentError, match=said):
            keys(spec, project)
    file.write_bytes(b"\xff")
    with pytest.raises(AgentError, match="no text"):
        keys(spec, project)
    file.unlink()
    with pytest.raises(AgentError, match="No such file"):
        keys(spec, project)
    inside = project / "key"
    inside.write_text("sk-2")
    inside.chmod(0o400)
    file.symlink_to(inside)
    with pytest.raises(AgentError, match="no place in the project"):
        keys(spec, project)


def test_an_agent_is_told_of_the_providers_that_are_there_and_of_no_key() -> None:
    spec = Catalogue.load().get("claude")
    assert provider_environment(spec, ["openai"], 4141) == {}
    assert provider_environment(spec, ["openai", "anthropic"], 4141) == {
        "ANTHROPIC_BASE_URL": "http://127.0.0.1:4141/anthropic",
        "ANTHROPIC_API_KEY": "added-by-jupyter",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }


def test_of_two_providers_the_one_that_the_entry_names_first_counts_and_objects_are_merged() -> None:
    configured = {
        "qwen": {"providers": {"mine": {"OPENAI_BASE_URL": "{url}/v2", "MINE": "1"}}},
        "codex": {"env": {"CODEX_CONFIG": '{"model": "gpt-5.5", "model_provider": "x", "model_providers": {"x": {}}}'}},
    }
    catalogue = Catalogue.load(configured=configured)
    there = ["openai", "dashscope", "openrouter", "mine"]
    assert provider_environment(catalogue.get("qwen"), there, 1) == {
        "OPENAI_BASE_URL": "http://127.0.0.1:1/mine/v2",
        "MINE": "1",
        "OPENAI_API_KEY": "added-by-jupyter",
    }
    config = json.loads(provider_environment(catalogue.get("codex"), there, 1)["CODEX_CONFIG"])
    urls = {id: provider.get("base_url") for id, provider in config["model_providers"].items()}
    assert (config["model"], config["model_provider"]) == ("gpt-5.5", "openai-egress")
    assert urls == {
        "openai-egress": "http://127.0.0.1:1/openai",
        "openrouter-egress": "http://127.0.0.1:1/openrouter",
        "x": None,
    }


def test_what_is_no_text_is_set_as_json_and_replaces_a_text_of_the_entry() -> None:
    spec = AgentSpec(
        id="a", name="A", command=("a",), env={"LIST": "text", "B": "b"}, providers={"openai": {"LIST": ["{url}"]}}
    )
    assert provider_environment(spec, ["openai"], 1) == {"LIST": '["http://127.0.0.1:1/openai"]'}
