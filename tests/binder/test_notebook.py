"""`%acp` in real kernels with a real Jupyter Server, and the sample notebook as a visitor of Binder runs it."""

from __future__ import annotations

import json
import os
import queue
import re
import secrets
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client import BlockingKernelClient
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning")


@dataclass
class Server:
    """A running Jupyter Server with the extension, and the folders it works in."""

    url: str
    token: str
    root: Path
    runtime: Path

    def ask(self, method: str, path: str, body: object = None) -> Any:
        headers = {"Authorization": f"token {self.token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data, headers, method=method)) as response:
            return json.loads(response.read() or "null")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("server")
    root, runtime = home / "project", home / "runtime"
    root.mkdir()
    token = secrets.token_hex(8)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("JUPYTER_")} | {
        "HOME": str(home),
        "JUPYTER_RUNTIME_DIR": str(runtime),
        "JUPYTER_TOKEN": token,
        "XDG_STATE_HOME": str(home / "state"),
        "PYTHONPATH": str(ROOT),
    }
    options = {"ip": "127.0.0.1", "port": 0, "root_dir": root, "open_browser": False, "allow_root": True}
    argv = [sys.executable, "-m", "jupyter_server", *(f"--ServerApp.{k}={v}" for k, v in options.items())]
    argv += ["--ServerApp.jpserver_extensions={'jupyter_acp': True}", f"--AcpExtension.runtime_dir={home / 'r'}"]
    process = subprocess.Popen(argv, env=environ, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    # a full pipe would hold the server
    drain = threading.Thread(target=process.stderr.read)
    try:
        url = next(match.group() for line in process.stderr if (match := re.search(r"http://127\.0\.0\.1:\d+/", line)))
        drain.start()
        server = Server(url, token, root, runtime)
        yield server
        # an agent outlives its server: it ends with its session
        sessions = "api/acp/projects/local/sessions"
        for session in server.ask("GET", sessions):
            server.ask("DELETE", f"{sessions}/{session['id']}")
    finally:
        process.terminate()
        process.wait(timeout=30)
        if drain.ident is not None:
            drain.join()
        process.stderr.close()


def _connect(client: BlockingKernelClient) -> None:
    """Wait until the kernel answers and its output is heard. `wait_for_ready` would take a late heartbeat for death."""
    for _ in range(60):
        client.kernel_info(reply=True, timeout=60)
        with suppress(queue.Empty):
            client.get_iopub_msg(timeout=1)
            return
    raise TimeoutError("the kernel's output is not heard")


def test_the_sample_notebook_runs_and_keeps_its_answers(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_SERVER_URL", server.url)
    monkeypatch.setenv("JPY_API_TOKEN", server.token)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "binder" / "acp.ipynb", as_version=4)
    NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(server.root)}}).execute()
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    assert " demo " in outputs[1][0].text
    (answer,) = outputs[2]
    assert answer.data["text/plain"].strip() == "I have **looked around**. Ask me anything."
    assert "1 tool call" in answer.data["text/markdown"]
    assert "1\n2\n3" in "".join(output.text for output in outputs[3])
    assert "acp.chat" in outputs[4][0].text
    assert (server.root / "acp.chat").exists()


def test_a_kernel_of_the_server_talks_to_it_in_the_chat_beside_its_notebook(server: Server) -> None:
    (server.root / "deep").mkdir()
    body = {"path": "deep/study.ipynb", "name": "study.ipynb", "type": "notebook", "kernel": {"name": "python3"}}
    kernel = server.ask("POST", "api/sessions", body)["kernel"]["id"]
    client = BlockingKernelClient(connection_file=str(server.runtime / f"kernel-{kernel}.json"))
    client.load_connection_file()
    client.start_channels()
    outputs: list[Any] = []
    try:
        _connect(client)
        for code in ("%load_ext jupyter_acp", "%%acp --agent demo\n/text hello **there**"):
            reply = client.execute_interactive(code, timeout=60, output_hook=outputs.append)
            assert reply["content"]["status"] == "ok", outputs
    finally:
        client.stop_channels()
    kinds = [message["msg_type"] for message in outputs]
    assert kinds.index("comm_open") < kinds.index("display_data") < kinds.index("update_display_data")
    shown = next(message["content"]["data"] for message in outputs if message["msg_type"] == "display_data")
    assert "application/vnd.jupyter.widget-view+json" in shown
    kept = next(message["content"]["data"] for message in outputs if message["msg_type"] == "update_display_data")
    assert kept == {"text/markdown": "hello **there**", "text/plain": "hello **there**"}
    assert (server.root / "deep" / "study.chat").exists()
