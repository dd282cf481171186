"""The kernel's link to its own server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from contract_server import TOKEN, Contract, serving

from jupyter_acp import connection as connection_module
from jupyter_acp.connection import Address, Connection
from jupyter_acp.exceptions import Conflict, NotAllowed, NotFound, Unavailable


@pytest.fixture
def contract() -> Iterator[Contract]:
    with serving(Contract()) as contract:
        yield contract


@pytest.fixture
def link(contract: Contract) -> Iterator[Connection]:
    with Connection(Address(url=contract.url, token=TOKEN)) as connection:
        yield connection


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(connection_module, "kernel_id", lambda: "k1")
    return "k1"


def advertise(folder: Path, contract: Contract, pid: int = 1, **changes: Any) -> None:
    info = {"url": contract.url, "token": TOKEN, "sock": "", "pid": pid, "root_dir": "/home/ada"}
    (folder / f"jpserver-{pid}.json").write_text(json.dumps({**info, **changes}))


def events_of(connection: Connection, turn: str, after: int = 0) -> list[Any]:
    seen = []
    with closing(connection.follow("s1", after)) as events:
        for event in events:
            seen.append(event)
            if event.kind == "turn_ended" and event.turn == turn:
                break
    return seen


def test_a_prompt_goes_up_and_its_events_come_down_in_order(link: Connection) -> None:
    session = link.open_session("a.chat")
    link.submit(session["id"], "t1", "one two three")
    events = events_of(link, "t1")
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert "".join(e.data["text"] for e in events if e.kind == "message_delta") == "ONE TWO THREE "


def test_a_lost_event_stream_goes_on_where_it_broke_off(contract: Contract, link: Connection) -> None:
    contract.say("t1", "notice", severity="info", title="before")
    with closing(link.follow("s1", 0)) as events:
        assert next(events).data["title"] == "before"
        contract.hang_up()
        contract.say("t1", "notice", severity="info", title="after")
        assert next(events).data["title"] == "after"
    assert [after for method, _, after in contract.requests if method == "WS"] == [0, 1]


def test_an_event_stream_that_does_not_come_back_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "_ATTEMPTS", 2)
    with serving(Contract()) as contract, Connection(Address(url=contract.url, token=TOKEN)) as connection:
        assert connection.project == "local"
    with Connection(Address(url=contract.url, token=TOKEN)) as connection:
        connection._project = "local"
        with pytest.raises(Unavailable, match="did not come back"):
            next(connection.follow("s1", 0))


def test_a_kind_that_this_version_does_not_know_is_left_out(contract: Contract, link: Connection) -> None:
    contract.say("t1", "from_the_future", x=1)
    contract.end("t1")
    assert [event.seq for event in events_of(link, "t1")] == [2]


def test_a_refusal_is_the_error_that_its_status_stands_for(contract: Contract, link: Connection) -> None:
    with pytest.raises(NotFound):
        link.session("nobody")
    contract.turns["t1"] = "x"
    link.resolve("s1", "p1", "yes")
    with pytest.raises(Conflict, match="already resolved") as raised:
        link.resolve("s1", "p1", "yes")
    assert raised.value.reason == "already_resolved"


def test_a_wrong_token_is_a_refusal(contract: Contract) -> None:
    with Connection(Address(url=contract.url)) as connection, pytest.raises(NotAllowed, match="JPY_API_TOKEN"):
        connection.agents()


def test_stop_interrupts_a_turn_that_can_no_longer_be_withdrawn(contract: Contract, link: Connection) -> None:
    link.stop("s1", "t1")
    sent = [(method, path.rsplit("/", 1)[1], body) for method, path, body in contract.requests if method != "GET"]
    assert sent == [("DELETE", "t1", None), ("POST", "interrupt", {"turn": "t1"})]


def test_a_blocked_reader_of_events_can_be_interrupted(link: Connection) -> None:
    with pytest.raises(KeyboardInterrupt), closing(link.follow("s1", 0)) as events:
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        next(events)
    timer.join()


def test_everything_works_over_a_unix_socket() -> None:
    # a short path: that of a socket may have 107 characters
    with tempfile.TemporaryDirectory() as folder:
        sock = f"{folder}/s"
        address = Address(url="http+unix://%2Fs/base/", token=TOKEN, sock=sock)
        with serving(Contract(), sock), Connection(address) as connection:
            connection.submit(connection.open_session("a.chat")["id"], "t1", "hello")
            assert events_of(connection, "t1")[-1].data["stop_reason"] == "end_turn"


def test_a_kernel_finds_the_server_that_runs_it_among_others(tmp_path: Path, contract: Contract, kernel: str) -> None:
    with serving(Contract()) as stranger:
        advertise(tmp_path, stranger, pid=1)
        advertise(tmp_path, contract, pid=2)
        (tmp_path / "jpserver-3.json").write_text("{ half wri")
        contract.kernels[kernel] = "analysis/notebook.ipynb"
        with Connection.of_this_kernel({"JUPYTER_RUNTIME_DIR": str(tmp_path)}) as connection:
            assert connection.address.url == contract.url
            assert connection.address.notebook == "analysis/notebook.ipynb"
        assert not [path for _, path, _ in stranger.requests if "acp" in path]


def test_without_a_jupyter_session_the_notebook_is_taken_from_the_environment(
    tmp_path: Path, contract: Contract, kernel: str
) -> None:
    advertise(tmp_path, contract)
    contract.kernels[kernel] = None
    environ = {"JUPYTER_RUNTIME_DIR": str(tmp_path), "JPY_SESSION_NAME": "/home/ada/deep/n.ipynb"}
    with Connection.of_this_kernel(environ) as connection:
        assert connection.address.notebook == "deep/n.ipynb"


def test_a_server_named_in_the_environment_is_used_where_none_runs_the_kernel(
    tmp_path: Path, contract: Contract, kernel: str
) -> None:
    environ = {
        "JUPYTER_RUNTIME_DIR": str(tmp_path),
        "JUPYTER_SERVER_URL": contract.url,
        "JPY_API_TOKEN": TOKEN,
    }
    with Connection.of_this_kernel(environ) as connection:
        assert [agent["id"] for agent in connection.agents()] == ["demo", "codex"]


def test_a_kernel_without_a_server_is_told_what_to_do(tmp_path: Path, contract: Contract, kernel: str) -> None:
    advertise(tmp_path, contract)
    with pytest.raises(Unavailable) as raised:
        Connection.of_this_kernel({"JUPYTER_RUNTIME_DIR": str(tmp_path)})
    assert "JUPYTER_SERVER_URL" in raised.value.message
    assert f"{contract.url}: Kernel does not exist" in raised.value.message


def test_importing_the_kernel_side_does_not_load_the_server() -> None:
    code = (
        "import sys, jupyter_acp.magics; print([m for m in sys.modules if m.startswith(('jupyter_server', 'sqlite3'))])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ), check=True
    )
    assert result.stdout.strip() == "[]"
