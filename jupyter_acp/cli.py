"""`jupyter acp ...`: try the demo, list the agents, look after projects. All else is done in JupyterLab."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final
from urllib.parse import urlencode

from jupyter_core.paths import jupyter_config_path, jupyter_runtime_dir

from . import __version__, cli_projects
from .agentspec import Catalogue

AGAIN_SECONDS: Final = 5.0
SAMPLE: Final = Path(__file__).with_name("sample")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; its exit status."""
    args = _parser().parse_args(argv)
    if args.command == "agents":
        return agents()
    if args.command == "projects":
        return cli_projects.run(args)
    return demo(root=args.root, port=args.port, browser=not args.no_browser)


def agents() -> int:
    """List the agents of the catalogue and whether they are installed here."""
    catalogue = Catalogue.load(directories=[Path(folder) / "acp_agents.d" for folder in jupyter_config_path()])
    for agent in asyncio.run(catalogue.describe()):
        state = f"installed {agent['version'] or ''}".rstrip() if agent["available"] else "-"
        print(f"{agent['id']:<12} {agent['name']:<16} {state:<20} {agent['hint'] or ''}".rstrip())
    for problem in catalogue.problems:
        print(f"left out: {problem}", file=sys.stderr)
    return 1 if catalogue.problems else 0


def demo(*, root: Path, port: int, browser: bool) -> int:
    """Start JupyterLab on a sample project with the demo agent, and stay until it ends; its exit status."""
    if importlib.util.find_spec("jupyterlab") is None:
        print(
            "JupyterLab is not installed beside jupyter_acp. Install both with:\n"
            f"    {sys.executable} -m pip install 'jupyter-acp-coordinator[lab]'",
            file=sys.stderr,
        )
        return 1
    root = root.resolve()
    make_project(root)
    # no token here: the server makes one up, and tells it in a file that only this user can read
    # in a group of its own: a Ctrl-C that reached it where its input is no terminal would end it without clearing up
    process = subprocess.Popen(lab_command(root, port, browser=browser), env=lab_environ(), process_group=0)

    stopped = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True
        process.terminate()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    address = _address(process)
    if address is not None:
        with contextlib.suppress(OSError):  # the terminal is gone, and we are told of that by a signal
            print(f"\nJupyterLab with the demo agent, on {root}:\n\n    {address}\n\nStop it with Ctrl-C.", flush=True)
    while True:
        try:
            return process.wait(timeout=AGAIN_SECONDS)
        except subprocess.TimeoutExpired:
            if stopped:
                process.terminate()  # a server that is only starting may not have heard of it


def lab_command(root: Path, port: int, *, browser: bool) -> list[str]:
    """The argv of the demo's JupyterLab."""
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        f"--ServerApp.root_dir={root}",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}",
        "--ServerApp.answer_yes=True",
        "--ServerApp.log_level=ERROR",
        "--LabApp.log_level=ERROR",
        "--LabApp.default_url=/lab/tree/welcome.chat",
        "--AcpExtension.default_agent=demo",
        # who tries it out wants nothing left of it
        "--AcpExtension.end_turns_on_stop=True",
        # the panel opens chats also where jupyterlab-chat is installed, which knows nothing of the demo
        "--ServerApp.tornado_settings={'page_config_data': {'acpOpensChats': 'true'}}",
    ]
    if not browser:
        command.append("--no-browser")
    if os.geteuid() == 0:
        command.append("--allow-root")
    return command


def lab_environ() -> dict[str, str]:
    """The environment of the demo's JupyterLab: settings of its own come first, so that no question is in the way."""
    before = os.environ.get("JUPYTER_CONFIG_PATH")
    return {**os.environ, "JUPYTER_CONFIG_PATH": os.pathsep.join(filter(None, [str(SAMPLE / "config"), before]))}


def make_project(root: Path) -> None:
    """Put the sample files into `root`; what is there already stays as it is."""
    root.mkdir(parents=True, exist_ok=True)
    for source in SAMPLE.iterdir():
        if source.is_file() and not (root / source.name).exists():
            shutil.copyfile(source, root / source.name)


def _address(process: subprocess.Popen[bytes]) -> str | None:
    """Where the server listens, with its token; None where it ended before it did."""
    file = Path(jupyter_runtime_dir()) / f"jpserver-{process.pid}.json"
    while process.poll() is None:
        try:
            server = json.loads(file.read_bytes())
        except (FileNotFoundError, ValueError):  # not there yet, or half written
            time.sleep(0.1)
            continue
        query = f"?{urlencode({'token': server['token']})}" if server["token"] else ""
        return f"{server['url']}lab/tree/welcome.chat{query}"
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jupyter acp", description="Coding agents in Jupyter")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("agents", help="list the agents that can be used, and what is missing for the others")
    cli_projects.add_parser(commands)
    started = commands.add_parser("demo", help="JupyterLab on a sample project, with an agent that needs no key")
    started.add_argument(
        "--root",
        type=Path,
        default=Path("jupyter-acp-demo"),
        metavar="DIR",
        help="the sample project's folder, made if need be (default: %(default)s)",
    )
    started.add_argument("--port", type=int, default=8888, help="the next free one is taken (default: %(default)s)")
    started.add_argument("--no-browser", action="store_true", help="only print the address")
    return parser


if __name__ == "__main__":
    sys.exit(main())
