"""`%acp` and `%%acp`: an agent from a notebook. Parses the line, asks the server through `connection`, shows a view.

A turn belongs to the server, not to this kernel: when the kernel dies in the middle of one, it goes on.
"""

from __future__ import annotations

import argparse
import shlex
import uuid
from contextlib import closing
from pathlib import PurePosixPath
from typing import Any, Final, NoReturn, Protocol

from IPython.core.error import StdinNotImplementedError, UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_cell_magic, magics_class
from IPython.display import display, update_display

from .connection import Connection
from .events import Event, JsonObject, Kind
from .exceptions import Conflict, RequestError
from .widgets.text import printable, visible
from .widgets.transcript import Transcript

HELP: Final = """\
%%acp [--project NAME] [--chat NAME] [--agent ID] [--plain]
<your request, any number of lines>
    sends the cell to an agent and shows its work; the cell ends with the turn, and interrupting it stops the turn

%acp projects              your projects, and which one is talked to
%acp agents                the agents of the project
%acp status [--chat NAME]  the conversation of this notebook
%acp stop [--chat NAME]    stop what runs and what waits in that conversation
%acp help                  this text

--project NAME  the project, by its id or name, for any of these; without it the one that the variable
                JUPYTER_ACP_PROJECT names (`%env JUPYTER_ACP_PROJECT=NAME`), else the folder that Jupyter serves
--chat NAME     the chat file, beside the notebook; without it the notebook's own name with .chat
                (in another project than the notebook's: not beside it, but in the project's own folder)
--agent ID      the agent of a new chat; without it the server's default
--plain         text only, and questions asked by input(), for front ends without widgets"""


class View(Protocol):
    """Shows a turn while it runs, and leaves its result behind."""

    def show(self, event: Event) -> None:
        """Show one event of the turn."""

    def finish(self, transcript: Transcript) -> None:
        """The turn has ended."""


@magics_class
class AcpMagics(Magics):
    """The magics; without state of their own, so that a renamed notebook or a restarted server is no matter."""

    @line_cell_magic
    def acp(self, line: str, cell: str | None = None) -> None:
        """Talk to a coding agent; `%acp help` tells how."""
        try:
            arguments = _parser().parse_args(shlex.split(line))
        except ValueError as error:
            raise UsageError(f"{line}: {error}") from error
        if cell is None and arguments.command in (None, "help"):
            print(HELP)
            return
        if cell is not None and (arguments.command or not cell.strip()):
            raise UsageError("%%acp takes a request in the lines below it, and no command beside it. See %acp help")
        try:
            with Connection.of_this_kernel(project=arguments.project) as connection:
                if arguments.command == "projects":
                    print(_projects(connection))
                    return
                notebook = connection.address.notebook
                if notebook and connection.project != "local":
                    notebook = PurePosixPath(notebook).name  # its folder is one of Jupyter's
                chat = chat_path(arguments.chat, notebook)
                if cell is not None:
                    self._run(connection, chat, arguments.agent, cell.strip("\n"), plain=arguments.plain)
                elif arguments.command == "agents":
                    print(_agents(connection.agents()))
                else:
                    self._report(connection, chat, stop=arguments.command == "stop")
        except RequestError as error:
            raise UsageError(error.message) from error

    def _run(self, connection: Connection, chat: str, agent: str | None, prompt: str, *, plain: bool) -> None:
        session = connection.open_session(chat, agent)
        transcript = Transcript(turn=uuid.uuid4().hex, seq=session["last_seq"])
        view = self._view(connection, session, transcript, plain=plain)
        interrupted = False
        try:
            connection.submit(session["id"], transcript.turn, prompt)
        except KeyboardInterrupt:
            connection.stop(session["id"], transcript.turn)
            raise
        while transcript.stop_reason is None:
            try:
                _follow(connection, session["id"], transcript, view)
            except KeyboardInterrupt:
                if interrupted:
                    raise
                interrupted = True
                connection.stop(session["id"], transcript.turn)
        view.finish(transcript)
        if interrupted:
            raise KeyboardInterrupt
        if transcript.error is not None:
            raise UsageError(f"The turn ended with an error: {printable(transcript.error)}")

    def _view(self, connection: Connection, session: JsonObject, transcript: Transcript, *, plain: bool) -> View:
        in_kernel = self.shell is not None and hasattr(self.shell, "kernel")
        if plain or not in_kernel:
            return PlainView(connection, session["id"])
        return WidgetView(
            project=connection.project,
            session=session["id"],
            turn=transcript.turn,
            after=transcript.seq,
            chat=session["path"],
        )

    def _report(self, connection: Connection, chat: str, *, stop: bool) -> None:
        session = next((session for session in connection.sessions() if session["path"] == chat), None)
        if session is None:
            print(f"{chat}: no conversation yet. A %%acp cell begins one.")
            return
        if not stop:
            print(_status(connection.session(session["id"])))
            return
        turns = connection.session(session["id"])["turns"]
        # the newest first, so that the next in the queue does not start in between
        for turn in reversed(turns):
            connection.stop(session["id"], turn["id"])
        print(f"{chat}: {f'stopping {len(turns)}' if turns else 'nothing runs'}")


def _follow(connection: Connection, session: str, transcript: Transcript, view: View) -> None:
    with closing(connection.follow(session, transcript.seq)) as events:
        for event in events:
            if transcript.apply(event):
                view.show(event)
            if transcript.stop_reason is not None:
                return


class WidgetView:
    """The live widget; when the turn has ended its place is taken by the answer, which needs neither kernel nor widget
    and so survives in the saved notebook."""

    def __init__(self, **where: Any) -> None:
        from .widgets.session import SessionWidget  # loading ipywidgets takes a while, and plain views do without

        self._widget = SessionWidget(**where)
        self._place = f"acp-{where['turn']}"
        display(self._widget, display_id=self._place)  # type: ignore[no-untyped-call]  # IPython's

    def show(self, event: Event) -> None:
        """Nothing: the widget follows the log by itself."""

    def finish(self, transcript: Transcript) -> None:
        """Put the answer in the widget's place."""
        data = {"text/markdown": transcript.to_markdown(), "text/plain": transcript.to_text()}
        metadata = {"acp": {"session": self._widget.session, "turn": transcript.turn}}
        update_display(data, display_id=self._place, raw=True, metadata=metadata)  # type: ignore[no-untyped-call]
        self._widget.close()


class PlainView:
    """Prints as it comes, and asks by `input()`."""

    def __init__(self, connection: Connection, session: str) -> None:
        self._connection = connection
        self._session = session
        self._statuses: dict[str, str | None] = {}

    def show(self, event: Event) -> None:
        """Print what is new in `event`."""
        data = event.data
        match event.kind:
            case Kind.MESSAGE_DELTA if data["role"] == "agent":
                print(printable(data["text"]), end="", flush=True)
            case Kind.TOOL_CALL:
                self._tool_call(data)
            case Kind.PERMISSION_REQUESTED:
                self._ask(data)
            case Kind.NOTICE:
                print(f"\n[{printable(str(data['title']))}]")

    def finish(self, transcript: Transcript) -> None:
        """Say how it ended, where that is not the usual way."""
        ending = "" if transcript.stop_reason == "end_turn" else f"[ended: {transcript.stop_reason}]"
        print(f"\n{ending}".rstrip())

    def _tool_call(self, call: JsonObject) -> None:
        status = call.get("status")
        if self._statuses.get(call["toolCallId"], "") != status:
            self._statuses[call["toolCallId"]] = status
            print(f"\n[{printable(str(call.get('title') or call['toolCallId']))}: {status or 'called'}]")

    def _ask(self, request: JsonObject) -> None:
        print(f"\n{_question(request)}")
        options = request["options"]
        try:
            answer = input(f"1-{len(options)}, or nothing to answer elsewhere: ").strip()
        except (StdinNotImplementedError, EOFError):
            print("This front end cannot ask. Answer in the ACP panel of JupyterLab.")
            return
        if answer.isdecimal() and 1 <= int(answer) <= len(options):
            try:
                self._connection.resolve(self._session, request["id"], options[int(answer) - 1]["optionId"])
            except Conflict:
                print("[already answered]")


def _question(request: JsonObject) -> str:
    call = request.get("tool_call") or {}
    elicitation = request.get("elicitation") or {}
    raw = call.get("rawInput")
    details = raw.items() if isinstance(raw, dict) else [("input", raw)] if raw else []
    lines = [
        f"The agent asks: {elicitation.get('message') or call.get('title') or 'permission'}",
        *([f"  open: {elicitation['url']}"] if elicitation.get("url") else []),
        *(f"  {name}: {value}" for name, value in details),
        *(
            f"  {n}. {option['name']}{' (lasting)' if str(option.get('kind')).endswith('_always') else ''}"
            for n, option in enumerate(request["options"], 1)
        ),
    ]
    return visible("\n".join(lines))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """A kernel must not exit over a typing error."""
        raise UsageError(f"{message}\n{HELP}")


def _parser() -> _Parser:
    parser = _Parser(prog="%acp", add_help=False)
    parser.add_argument("command", nargs="?", choices=["projects", "agents", "status", "stop", "help"])
    parser.add_argument("--project")
    parser.add_argument("--chat")
    parser.add_argument("--agent")
    parser.add_argument("--plain", action="store_true")
    return parser


def chat_path(name: str | None, notebook: str | None) -> str:
    """The chat that a cell talks to: `name` beside the notebook (from the root if it begins with a slash), or the
    notebook's own; `acp.chat` where the notebook is not known."""
    beside = PurePosixPath(notebook) if notebook else PurePosixPath("acp")
    if name is None:
        # a console's path has no suffix to replace
        return str(beside.with_suffix(".chat"))
    path = PurePosixPath(name) if name.endswith(".chat") else PurePosixPath(f"{name}.chat")
    return str(beside.parent / path).lstrip("/")


def _projects(connection: Connection) -> str:
    try:
        chosen = connection.project
    except RequestError:
        chosen = ""  # it has to be said
    lines = []
    for project in connection.projects():
        facts = ", ".join(str(project[name]) for name in ("state", "role") if project.get(name))
        lines.append(f"{'*' if project['id'] == chosen else ' '} {project['id']:<16} {project.get('name')} ({facts})")
    return printable("\n".join(lines)) or "You are a member of no project."


def _agents(agents: list[JsonObject]) -> str:
    lines = []
    for agent in agents:
        state = agent.get("version") or "available" if agent["available"] else agent.get("hint") or "not installed"
        lines.append(f"{'*' if agent.get('default') else ' '} {agent['id']:<16} {agent['name']} ({state})")
    return "\n".join(lines) or "No agents are configured."


def _status(session: JsonObject) -> str:
    model = next((o.get("currentValue") for o in session["config_options"] if o.get("category") == "model"), None)
    usage = session.get("usage") or {}
    facts = {
        "project": session["project"] if session["project"] != "local" else None,
        "chat": session["path"],
        "agent": session["agent"],
        "model": model,
        "access": (session.get("access") or {}).get("effective"),
        "state": session["state"],
        "tokens": f"{usage['used']} of {usage['size']}" if usage.get("size") else None,
        "error": (session.get("error") or {}).get("message"),
    }
    lines = [f"{name:<8}{value}" for name, value in facts.items() if value]
    lines += [f"turn    {turn['state']}: {' '.join(turn['text'].split())[:60]}" for turn in session["turns"]]
    lines += [f"waits for an answer: {_question(request).splitlines()[0]}" for request in session["permissions"]]
    return printable("\n".join(lines))


def load_ipython_extension(ipython: InteractiveShell) -> None:
    """Register the magics."""
    ipython.register_magics(AcpMagics)
