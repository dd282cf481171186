"""`%acp` and `%%acp` in a real IPython shell and in a real kernel."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from contract_server import TOKEN, Contract, serving
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from nbclient import NotebookClient

from jupyter_acp import load_ipython_extension
from jupyter_acp.events import Event, Kind
from jupyter_acp.magics import chat_path
from jupyter_acp.widgets.text import markdown, visible
from jupyter_acp.widgets.transcript import Transcript

Acp = Callable[..., None]


@pytest.fixture
def contract(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Contract]:
    with serving(Contract()) as contract:
        monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
        monkeypatch.setenv("JUPYTER_SERVER_URL", contract.url)
        monkeypatch.setenv("JPY_API_TOKEN", TOKEN)
        yield contract


@pytest.fixture
def acp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Acp]:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    shell = InteractiveShell()
    shell.history_manager.enabled = False  # type: ignore[union-attr]  # a shell that was just made has one
    load_ipython_extension(shell)

    def run(line: str, cell: str | None = None) -> None:
        if cell is None:
            shell.run_line_magic("acp", line)
        else:
            shell.run_cell_magic("acp", line, cell)

    yield run
    shell.history_manager.end_session()  # type: ignore[union-attr]


def test_a_cell_prints_the_answer_where_there_are_no_widgets(
    contract: Contract, acp: Acp, capsys: pytest.CaptureFixture[str]
) -> None:
    acp("--chat work", "say hello\n")
    assert contract.paths == ["work.chat"]
    assert capsys.readouterr().out.strip() == "SAY HELLO"


def test_a_question_is_asked_by_input_and_shows_the_whole_command(
    contract: Contract, acp: Acp, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    contract.play = lambda turn, prompt: contract.permission(turn)
    monkeypatch.setattr("builtins.input", lambda prompt: "3")
    acp("--plain", "list")
    assert contract.requests[-1] == ("POST", contract.requests[-1][1], {"option_id": "no"})
    out = capsys.readouterr().out
    assert "command: ls -l" in out
    assert "2. Always allow (lasting)" in out


def test_an_interrupt_stops_the_turn_and_the_cell_ends_with_it(contract: Contract, acp: Acp) -> None:
    timers = []

    def play(turn: str, prompt: str) -> None:
        contract.say(turn, "turn_started", id=turn, text="", user="u", message_id="m")
        timers.append(threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)))
        timers[0].start()

    contract.play = play
    with pytest.raises(KeyboardInterrupt):
        acp("", "work for ever")
    timers[0].join()
    assert contract.events[-1]["data"]["stop_reason"] == "cancelled"


def test_a_turn_that_ends_with_an_error_fails_the_cell(contract: Contract, acp: Acp) -> None:
    contract.play = lambda turn, prompt: contract.end(turn, "error", error={"message": "no key", "reason": "auth"})
    with pytest.raises(UsageError, match="no key"):
        acp("", "hello")


@pytest.mark.parametrize(("line", "cell"), [("", "  \n"), ("status", "x"), ("--chat 'a", "x"), ("nonsense", None)])
def test_a_wrong_line_says_how_it_is_done(acp: Acp, line: str, cell: str | None) -> None:
    with pytest.raises(UsageError):
        acp(line, cell)


def test_agents_lists_those_that_are_not_installed_with_what_to_do(
    contract: Contract, acp: Acp, capsys: pytest.CaptureFixture[str]
) -> None:
    acp("agents")
    out = capsys.readouterr().out
    assert re.search(r"^\* demo +Demo \(1\)$", out, re.MULTILINE)
    assert "Codex (npm install codex-acp)" in out


def test_status_tells_access_and_turns_as_the_server_does_and_stop_ends_them(
    contract: Contract, acp: Acp, capsys: pytest.CaptureFixture[str]
) -> None:
    acp("status")
    assert "no conversation yet" in capsys.readouterr().out
    contract.paths.append("acp.chat")
    contract.turns["t1"] = "count the stars"
    acp("status")
    out = capsys.readouterr().out
    assert "full-access" in out
    assert "turn    running: count the stars" in out
    acp("stop")
    assert "stopping 1" in capsys.readouterr().out
    assert contract.requests[-1][2] == {"turn": "t1"}


def project(id: str, name: str) -> dict[str, str]:
    return {"id": id, "name": name, "state": "running", "role": "owner"}


@pytest.fixture
def several(contract: Contract) -> Contract:
    """The server has three projects, and no folder of its own among them."""
    contract.projects = [project("a", "Weather"), project("b", "Traffic"), project("c", "Traffic")]
    return contract


@pytest.mark.parametrize("name", ["a", "Weather"])
def test_of_several_projects_the_one_that_is_named_is_talked_to(
    several: Contract, acp: Acp, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    acp(f"--project {name}", "hello")
    assert (several.project, several.paths) == ("a", ["acp.chat"])
    acp(f"status --project {name}")
    assert "project a" in capsys.readouterr().out


def test_the_environment_names_the_project_where_the_line_does_not(
    several: Contract, acp: Acp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_ACP_PROJECT", "b")
    acp("", "hello")
    assert several.project == "b"
    acp("--project a", "hello")
    assert several.project == "a"


def test_a_project_that_is_not_said_or_not_known_is_asked_for_by_their_ids(several: Contract, acp: Acp) -> None:
    for line in ("", "--project local", "--project Traffic"):
        with pytest.raises(UsageError, match="a, b, c"):
            acp(line, "hello")
    assert several.paths == []


def test_beside_others_the_folder_that_jupyter_serves_is_what_a_notebook_talks_to(
    several: Contract, acp: Acp, capsys: pytest.CaptureFixture[str]
) -> None:
    several.projects.append(project("local", "mine"))
    acp("", "hello")
    assert several.project == "local"
    acp("projects")
    out = capsys.readouterr().out
    assert re.search(r"^\* local +mine \(running, owner\)$", out, re.MULTILINE)
    assert re.search(r"^  a +Weather", out, re.MULTILINE)


def test_a_chat_in_another_project_than_the_notebooks_is_not_in_the_notebooks_folder(
    several: Contract, acp: Acp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    several.projects.append(project("local", "mine"))
    several.kernels["k"] = "deep/study.ipynb"
    server = {"url": several.url, "token": TOKEN, "root_dir": "/", "pid": 1}
    (tmp_path / "jpserver-1.json").write_text(json.dumps(server))
    monkeypatch.setattr("jupyter_acp.connection.kernel_id", lambda: "k")
    acp("", "hello")
    acp("--project a", "hello")
    assert several.paths == ["deep/study.chat", "study.chat"]


@pytest.mark.parametrize(
    ("name", "notebook", "path"),
    [
        (None, "deep/study.ipynb", "deep/study.chat"),
        (None, None, "acp.chat"),
        ("other", "deep/study.ipynb", "deep/other.chat"),
        ("/top.chat", "deep/study.ipynb", "top.chat"),
    ],
)
def test_the_chat_lies_beside_the_notebook(name: str | None, notebook: str | None, path: str) -> None:
    assert chat_path(name, notebook) == path


@pytest.fixture
def run_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    def run(*cells: str) -> Any:
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
        NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(tmp_path)}}).execute()
        return notebook

    return run


@pytest.mark.filterwarnings("default::DeprecationWarning")
def test_a_saved_notebook_holds_the_answer_and_no_widget(contract: Contract, run_notebook: Callable[..., Any]) -> None:
    notebook = run_notebook("%load_ext jupyter_acp", "%%acp\nsay **hello** <b>")
    (output,) = notebook.cells[1].outputs
    assert output.data == {"text/markdown": "SAY **HELLO** &lt;B&gt; ", "text/plain": "SAY **HELLO** <B> "}
    assert output.metadata["acp"]["session"] == "s1"


def event(seq: int, kind: Kind, turn: str = "t", **data: Any) -> Event:
    return Event(seq=seq, time=0.0, turn=turn, kind=kind, data=data)


def test_the_record_of_a_turn_folds_its_tool_calls_above_the_answer() -> None:
    transcript = Transcript(turn="t", seq=0)
    call = {"toolCallId": "c", "title": "Edit </details><script>", "status": "completed"}
    assert transcript.apply(event(1, Kind.TOOL_CALL, **call))
    assert not transcript.apply(event(1, Kind.TOOL_CALL, **call))
    assert not transcript.apply(event(2, Kind.MESSAGE_DELTA, "other", message_id="x", role="agent", text="no"))
    transcript.apply(event(3, Kind.MESSAGE_DELTA, message_id="m", role="agent", text="Done."))
    transcript.apply(event(4, Kind.TURN_ENDED, id="t", stop_reason="max_tokens"))
    text = transcript.to_markdown()
    assert text.startswith("<details><summary>1 tool call</summary>")
    assert "<script>" not in text
    assert text.endswith("Done.\n\n*ended&#58; max&#95;tokens*")


def test_what_a_turn_changed_is_counted_in_what_stays_in_the_notebook() -> None:
    transcript = Transcript(turn="t", seq=0)
    changes = {"files": 3, "added": 10, "removed": 2}
    transcript.apply(event(1, Kind.TURN_ENDED, id="t", stop_reason="cancelled", changes=changes))
    assert transcript.to_text() == "[3 files changed +10 −2]\n\n[ended: cancelled]"


@pytest.mark.parametrize(
    "attack",
    [
        "<img src=x onerror=alert(1)>",
        "`<img src=x onerror=alert(1)>`",
        "```\n<img src=x onerror=alert(1)>\n```",
        '[a]: /u "x\n```\n"\n<img src=x onerror=alert(1)>\n```',
        "| `a | <img src=x onerror=alert(1)>` |",
        '[a](b "`")<img src=x onerror=alert(1)>"`")',
        "> ```\n<img src=x onerror=alert(1)>",
        "- ```\n  ```\n<img src=x onerror=alert(1)>",
        "[x](javascript:alert(1))",
        "[x](JavaScript\\:alert(1))",
        "[x](java&#115;cript:alert(1))",
        "![x](http://evil.example/?what-it-read)",
    ],
)
def test_nothing_in_an_answer_can_act_in_a_trusted_notebook(attack: str) -> None:
    safe = markdown(attack)
    assert not re.search(r"<(?!/?(?:code|pre)>)[a-z/!?]", safe, re.IGNORECASE)
    assert not re.search(r"javascript\\?:", safe, re.IGNORECASE)
    assert "&#115;" not in safe.replace("&amp;#115;", "")
    assert "![" not in safe


def test_ordinary_markdown_is_left_as_it_is() -> None:
    text = "# Title\n\n- *a* `b` [c](https://d.example)\n\n```python\nx = 1 < 2\n```\n\n> quoted"
    assert markdown(text) == text


def test_what_hides_in_a_command_is_spelt_out() -> None:
    assert visible("rm \u202etxt.exe\u200b é 👩‍💻") == "rm ⟨U+202E⟩txt.exe⟨U+200B⟩ é 👩‍💻"


def test_the_golden_events_are_understood(golden: Callable[[str], Any]) -> None:
    for kind in Kind:
        raw = golden(kind)
        transcript = Transcript(turn=str(raw["turn"]), seq=0)
        transcript.apply(Event.from_json(json.dumps(raw)))
        assert isinstance(transcript.to_markdown(), str)
