"""`jupyter acp`: the demo's project, its command line, and that it really starts."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import psutil
import pytest

from jupyter_acp import __version__, cli


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.strip() == __version__


def test_agents_lists_the_whole_catalogue_with_what_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert cli.main(["agents"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "installed" in lines["demo"]
    assert "npm install -g @agentclientprotocol/codex-acp" in lines["codex"]


def test_agents_tells_bad_entries_of_the_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "acp_agents.d").mkdir()
    (tmp_path / "acp_agents.d" / "mine.json").write_text('{"mine": {"command": "text"}}')
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", str(tmp_path))
    monkeypatch.setenv("PATH", "/nonexistent")
    assert cli.main(["agents"]) == 1
    said = capsys.readouterr()
    assert "demo" in said.out and "'mine'" in said.err and "mine.json" in said.err


def test_the_sample_project_is_made_once_and_what_people_changed_stays(tmp_path: Path) -> None:
    cli.make_project(tmp_path / "demo")
    assert {"README.md", "analysis.ipynb", "data.csv", "welcome.chat"} == {
        p.name for p in (tmp_path / "demo").iterdir()
    }
    (tmp_path / "demo" / "README.md").write_text("mine")
    (tmp_path / "demo" / "data.csv").unlink()
    cli.make_project(tmp_path / "demo")
    assert (tmp_path / "demo" / "README.md").read_text() == "mine"
    assert (tmp_path / "demo" / "data.csv").exists()


def test_the_sample_notebook_is_valid_and_has_no_outputs() -> None:
    notebook = nbformat.read(cli.SAMPLE / "analysis.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.outputs for cell in notebook.cells if cell.cell_type == "code")
    assert any(cell.source.startswith("%%acp") for cell in notebook.cells)


def test_the_server_is_bound_to_this_machine_and_no_token_is_in_its_arguments(tmp_path: Path) -> None:
    command = cli.lab_command(tmp_path, 8888, browser=False)
    assert "--ServerApp.ip=127.0.0.1" in command and "--no-browser" in command
    assert not any("token" in word for word in command)
    assert ("--allow-root" in command) == (os.geteuid() == 0)


def test_without_jupyterlab_it_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(["demo", "--root", str(tmp_path / "demo")]) == 1
    assert "pip install 'jupyter-acp-coordinator[lab]'" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_demo_prints_an_address_that_works_and_ends_with_its_server_and_agents(
    tmp_path: Path, number: signal.Signals
) -> None:
    home = {
        "HOME": str(tmp_path),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "run"),
        "JUPYTER_DATA_DIR": str(tmp_path / "d"),
    }
    demo = subprocess.Popen(
        [sys.executable, "-m", "jupyter_acp.cli", "demo", "--no-browser", "--port", "18731", "--root", "project"],
        cwd=tmp_path,
        env={**os.environ, **home},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        assert demo.stdout is not None
        address = next(line.strip() for line in demo.stdout if line.strip().startswith("http://127.0.0.1:"))
        base, _, query = address.partition("lab/tree/welcome.chat")
        with urllib.request.urlopen(f"{base}api/acp/projects/local/agents{query}") as answer:
            agents = json.load(answer)
        assert agents[0]["id"] == "demo" and agents[0]["default"] is True
        assert (tmp_path / "project" / "welcome.chat").exists()
        sessions = f"{base}api/acp/projects/local/sessions{query}"
        body = json.dumps({"path": "welcome.chat"}).encode()
        with urllib.request.urlopen(urllib.request.Request(sessions, body, method="POST")) as answer:
            session = json.load(answer)["id"]
        events = sessions.replace("sessions", f"sessions/{session}/events")
        deadline = time.monotonic() + 20
        while b"agent_started" not in urllib.request.urlopen(events).read():
            assert time.monotonic() < deadline
            time.sleep(0.05)  # the socket would need a client of its own
        assert len(list((tmp_path / "run" / "acp").iterdir())) == 1
    finally:
        below = psutil.Process(demo.pid).children(recursive=True)
        os.killpg(demo.pid, number)  # as a terminal does
        try:
            demo.communicate(timeout=20)
        finally:
            # whatever failed: a JupyterLab that nobody stops would hold the terminal
            for process in below:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            demo.kill()
            demo.wait()
    deadline = time.monotonic() + 20
    while left := list((tmp_path / "run" / "acp").iterdir()):  # a runner removes its folder as its last act
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
