"""`jupyter acp projects ...`: what is done to projects of a running server, by its own REST interface; and `doctor`."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

POLL_SECONDS = 0.2
START_SECONDS = 120.0


class Refused(Exception):
    """The server does not do it, or there is none; the message is for the person."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server, as its own account uses it."""

    url: str
    token: str
    local: bool = True

    def call(self, method: str, *path: str) -> Any:
        """A route of `api/acp`. Refused with what the server says."""
        request = urllib.request.Request(
            f"{self.url.rstrip('/')}/api/acp/{'/'.join(quote(part, safe='') for part in path)}",
            method=method,
            data=b"{}" if method == "POST" else None,
            headers={"Authorization": f"token {self.token}"} if self.token else {},
        )
        # a server of this machine is not reached through a proxy
        handlers = [urllib.request.ProxyHandler({})] if self.local else []
        try:
            with urllib.request.build_opener(*handlers).open(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as exc:
            with exc:
                raise Refused(_message(exc)) from exc
        except (OSError, ValueError) as exc:
            raise Refused(f"{self.url} does not answer: {getattr(exc, 'reason', exc)}") from exc


def add_parser(commands: Any) -> None:
    """The subcommand and its own."""
    parser = commands.add_parser(
        "projects", help="list, start and stop projects of a running server; find what is missing"
    )
    commands = parser.add_subparsers(dest="do", required=True, metavar="COMMAND")
    for name, help in (
        ("list", "the projects, and how each is"),
        ("start", "start a project's container, and wait until it is ready"),
        ("stop", "end the turns and agents of a project, and its container"),
        ("logs", "the newest that a project's container has printed"),
    ):
        command = commands.add_parser(name, help=help)
        if name != "list":
            command.add_argument("project", help="its id")
        command.add_argument("--url", help="the server's address; else a running server of this account is found")
        command.add_argument("--token-file", type=Path, metavar="FILE", help="a file with the token for it")
    doctor = commands.add_parser("doctor", help="find out what is missing for projects in containers; needs no server")
    doctor.add_argument("project", nargs="?", help="only this one")
    doctor.add_argument("--file", type=Path, help="the file of projects; else the configured one")


def run(args: argparse.Namespace) -> int:
    """A subcommand; its exit status."""
    if args.do == "doctor":
        from .doctor import examine  # not needed for what a server does

        return asyncio.run(examine(args.project, args.file, print))
    commands: dict[str, Callable[[Server, argparse.Namespace], int]]
    commands = {"list": _list, "start": _start, "stop": _stop, "logs": _logs}
    try:
        return commands[args.do](_server(args.url, args.token_file), args)
    except Refused as exc:
        print(visible(str(exc)), file=sys.stderr)
        return 1


def visible(text: str) -> str:
    """What projects and their containers say of themselves may hold anything; none of it commands this terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _list(server: Server, args: argparse.Namespace) -> int:
    for project in server.call("GET", "projects"):
        id, name = visible(project["id"]), visible(project["name"])
        print(f"{id:<20} {project['state']:<9} {project['kind']:<10} {project['role']:<13} {name}")
    return 0


def _start(server: Server, args: argparse.Namespace) -> int:
    server.call("POST", "projects", args.project, "start")
    deadline = time.monotonic() + START_SECONDS
    while True:
        project = server.call("GET", "projects", args.project)
        if project["state"] == "running":
            print(f"{args.project} is running")
            if project["warning"]:
                print(f"{args.project}: {visible(project['warning'])}", file=sys.stderr)
            return 0
        if project["state"] == "failed" or time.monotonic() > deadline:
            raise Refused(f"{args.project} is {project['state']}: {project['error'] or 'it takes too long'}")
        time.sleep(POLL_SECONDS)


def _stop(server: Server, args: argparse.Namespace) -> int:
    state = server.call("POST", "projects", args.project, "stop")["state"]
    print(f"{args.project} is {state}")
    return 0


def _logs(server: Server, args: argparse.Namespace) -> int:
    text = server.call("GET", "projects", args.project, "logs")["text"]
    print(visible(text).rstrip("\n"))
    return 0


def _server(url: str | None, token_file: Path | None) -> Server:
    try:
        token = token_file.read_text("utf-8").strip() if token_file is not None else None
    except (OSError, ValueError) as exc:
        raise Refused(f"{token_file} cannot be read: {exc}") from exc
    if url is not None:
        return Server(url, token or "", local=False)
    from jupyter_server.serverapp import list_running_servers  # takes its time to load

    found = [Server(info["url"], token or info["token"]) for info in list_running_servers() if not info.get("sock")]
    answering, reasons = [], []
    for server in found:
        try:
            server.call("GET", "projects")
        except Refused as exc:
            reasons.append(f"{server.url}: {exc}")
        else:
            answering.append(server)
    if len(answering) == 1:
        return answering[0]
    if answering:
        raise Refused("several servers run here; say which with --url: " + " ".join(s.url for s in answering))
    hint = "no running server of this account with jupyter_acp was found; say which with --url and --token-file"
    raise Refused("\n".join([hint, *reasons]))


def _message(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["message"])
    except (OSError, ValueError, LookupError, TypeError):
        return f"{error.code} {error.reason}"
