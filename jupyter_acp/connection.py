"""The kernel's link to the coordinator on its own Jupyter server: REST and the event stream, with a synchronous face.

It runs in a person's kernel, not in the server. It holds no state of a session: what it is asked it asks the server,
and what happens it reads from the log.

Everything goes through one event loop in a thread of its own, because the kernel's loop is blocked for as long as a
cell runs.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import socket
import threading
from collections.abc import AsyncIterator, Coroutine, Generator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote, urlsplit

from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.netutil import Resolver
from tornado.simple_httpclient import SimpleAsyncHTTPClient
from tornado.websocket import WebSocketClientConnection, websocket_connect

from .events import Event, JsonObject, Kind, encode
from .exceptions import BadRequest, Conflict, NotAllowed, NotFound, RequestError, TooLarge, Unavailable, Unsupported

T = TypeVar("T")

_ERRORS: Final = {error.status: error for error in (BadRequest, NotAllowed, NotFound, Conflict, TooLarge, Unsupported)}
_ATTEMPTS = 8  # with waits of 0.1 s doubling: a lost event stream is given up after half a minute

PROJECT: Final = "JUPYTER_ACP_PROJECT"

HOW_TO_CONNECT = """\
This kernel cannot find the Jupyter server that it belongs to. What helps:
- start the kernel from JupyterLab or Jupyter Server, on the same machine and as the same user;
- or set JUPYTER_SERVER_URL and JPY_API_TOKEN in the kernel's environment (`%env JUPYTER_SERVER_URL=http://...`);
- `jupyter server list` shows which servers run, and their tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a Jupyter server listens. `sock` is the path of its unix socket, else None. `notebook` is the path of the
    notebook that this kernel runs, as that server knows it, or None."""

    url: str
    token: str = ""
    sock: str | None = None
    notebook: str | None = None


class Connection:
    """The coordinator as one kernel sees it: one server, one project.

    `project` is what a person calls it, its id or its name; None: that of the server's own folder, or the only one.
    Every method blocks until the server has answered, and raises the RequestError that the server's status stands
    for; Unavailable where no server answers.
    """

    def __init__(self, address: Address, project: str | None = None) -> None:
        self.address = address
        self._wanted = project
        self._project: str | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="jupyter_acp", daemon=True)
        self._thread.start()
        self._client = self._wait(self._make_client())

    @classmethod
    def of_this_kernel(cls, environ: Mapping[str, str] = os.environ, project: str | None = None) -> Connection:
        """Connect to the Jupyter server that started this kernel; Unavailable, saying what to do, if there is none.

        Without `project` it is the one that JUPYTER_ACP_PROJECT names, if that is set.
        """
        refusals = []
        for address, kernel in _candidates(environ):
            connection = cls(address, project or environ.get(PROJECT))
            try:
                notebook = connection._notebook(kernel) if kernel else None
            except RequestError as error:
                refusals.append(f"- {address.url}: {error.message}")
                connection.close()
                continue
            except BaseException:
                connection.close()
                raise
            if notebook is not None:
                connection.address = replace(address, notebook=notebook)
            return connection
        tried = "\nTried:\n" + "\n".join(refusals) if refusals else ""
        raise Unavailable(HOW_TO_CONNECT + tried, "no_server")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the thread. Idempotent."""
        if self._loop.is_closed():
            return
        self._wait(self._close_client())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # what the server knows

    @property
    def project(self) -> str:
        """The id of the project that is talked to. NotFound for a name that is none, Conflict where it must be said."""
        if self._project is None:
            projects = self.projects()
            if not projects:
                raise NotAllowed("There is no project here that you may use.", "no_project")
            wanted, names = self._wanted, ", ".join(project["id"] for project in projects)
            if wanted is None:
                found = projects if len(projects) == 1 else [p for p in projects if p["id"] == "local"]
                if not found:
                    raise Conflict(f"Say which project you mean, with --project: {names}.", "project")
            else:
                found = [p for p in projects if p["id"] == wanted] or [p for p in projects if p["name"] == wanted]
                if len(found) != 1:
                    raise NotFound(f"{wanted} is not the id, or the name, of one of these: {names}.", "unknown_project")
            self._project = str(found[0]["id"])
        return self._project

    def projects(self) -> list[JsonObject]:
        """The projects that one is a member of."""
        return list(self._acp("GET", "")["projects"])

    def agents(self) -> list[JsonObject]:
        """The catalogue of agents, those that are not installed included."""
        return self._list("GET", f"/projects/{_q(self.project)}/agents")

    def sessions(self) -> list[JsonObject]:
        """The summaries of the project's sessions."""
        return self._list("GET", f"/projects/{_q(self.project)}/sessions")

    def open_session(self, path: str, agent: str | None = None) -> JsonObject:
        """The summary of the session of the chat at `path`; both are made if need be."""
        body: JsonObject = {"path": path} | ({"agent": agent} if agent else {})
        return self._acp("POST", f"/projects/{_q(self.project)}/sessions", body)

    def session(self, session: str) -> JsonObject:
        """The summary of one session."""
        return self._acp("GET", self._path(session))

    # what a person does

    def submit(self, session: str, turn: str, prompt: str | Sequence[JsonObject]) -> JsonObject:
        """Queue a prompt under an id of the caller's choice; sending the same id again changes nothing."""
        content = prompt if isinstance(prompt, str) else list(prompt)
        return self._acp("POST", self._path(session, "turns"), {"id": turn, "prompt": content})

    def stop(self, session: str, turn: str) -> None:
        """Withdraw `turn` if it waits, interrupt it if it runs. Returns once that is recorded: follow the log for the
        end. Harmless for a turn that has ended."""
        try:
            self._acp("DELETE", self._path(session, "turns", turn))
        except Conflict:
            with suppress(Conflict):
                self._acp("POST", self._path(session, "interrupt"), {"turn": turn})
        except NotFound:
            # the turn has ended and its record is gone: stopped it is
            return

    def resolve(self, session: str, permission: str, option: str, content: JsonObject | None = None) -> None:
        """Answer a permission request; `content` holds the values of a form. Conflict if somebody was quicker."""
        body: JsonObject = {"option_id": option} | ({} if content is None else {"content": content})
        self._acp("POST", self._path(session, "permissions", permission), body)

    def follow(self, session: str, after: int) -> Generator[Event, None, None]:
        """The events with a `seq` above `after`, first those of the past and then each as it happens, without end.

        A lost connection is taken up again where it broke off; Unavailable once that has failed for half a minute.
        Kinds that this version does not know are left out. Close the iterator to end the stream.
        """
        batches: queue.SimpleQueue[list[Event] | RequestError] = queue.SimpleQueue()
        path = f"api/acp{self._path(session, 'events')}/subscribe"
        feed = asyncio.run_coroutine_threadsafe(self._feed(path, after, batches), self._loop)
        try:
            while True:
                batch = batches.get()
                if isinstance(batch, RequestError):
                    raise batch
                yield from batch
        finally:
            feed.cancel()

    # the wire

    def _path(self, session: str, *parts: str) -> str:
        return "/".join([f"/projects/{_q(self.project)}/sessions/{_q(session)}", *map(_q, parts)])

    def _acp(self, method: str, path: str, body: JsonObject | None = None) -> JsonObject:
        answer = self._wait(self._fetch(method, f"api/acp{path}", body))
        return answer if isinstance(answer, dict) else {}

    def _list(self, method: str, path: str) -> list[JsonObject]:
        answer = self._wait(self._fetch(method, f"api/acp{path}"))
        return answer if isinstance(answer, list) else []

    def _notebook(self, kernel: str) -> str | None:
        """The path of the notebook that `kernel` runs; NotFound if this server has no such kernel."""
        self._wait(self._fetch("GET", f"api/kernels/{_q(kernel)}"))
        sessions = self._wait(self._fetch("GET", "api/sessions"))
        if not isinstance(sessions, list):
            return None
        return next((s["path"] for s in sessions if s["kernel"] and s["kernel"]["id"] == kernel), None)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def _make_client(self) -> SimpleAsyncHTTPClient:
        return SimpleAsyncHTTPClient(force_instance=True, resolver=self._resolver())

    async def _close_client(self) -> None:
        feeds = asyncio.all_tasks() - {asyncio.current_task()}
        for feed in feeds:
            if not feed.cancelling():
                feed.cancel()
        await asyncio.gather(*feeds, return_exceptions=True)
        self._client.close()

    def _resolver(self) -> Resolver | None:
        return UnixResolver(self.address.sock) if self.address.sock else None

    def _request(self, method: str, path: str, body: JsonObject | None = None, *, scheme: str = "http") -> HTTPRequest:
        parts = urlsplit(self.address.url)
        secure = "s" if parts.scheme == "https" else ""
        # a unix socket has no host, and Jupyter Server takes requests for unknown names to be attacks
        host = "localhost" if self.address.sock else parts.netloc
        base = f"{scheme}{secure}://{host}{parts.path.rstrip('/')}/"
        headers = {"Authorization": f"token {self.address.token}"} if self.address.token else {}
        if body is not None:
            headers["Content-Type"] = "application/json"
        return HTTPRequest(
            base + path,
            method=method,
            headers=headers,
            body=encode(body) if body is not None else "" if method == "POST" else None,
            request_timeout=60,
            # a redirect leads to a login page: the token was refused
            follow_redirects=False,
        )

    async def _fetch(self, method: str, path: str, body: JsonObject | None = None) -> object:
        try:
            response = await self._client.fetch(self._request(method, path, body), raise_error=False)
        except OSError as error:
            raise Unavailable(f"The Jupyter server at {self.address.url} cannot be reached: {error}") from error
        if response.code >= 300:
            raise _error(response.code, response.body, self.address)
        return json.loads(response.body) if response.body else None

    async def _feed(self, path: str, after: int, batches: queue.SimpleQueue[list[Event] | RequestError]) -> None:
        """Put what the socket says into `batches`, again and again from where the last socket broke off."""
        failures = 0
        while failures < _ATTEMPTS:
            request = self._request("GET", f"{path}?after={after}", scheme="ws")
            try:
                async with _socket(request, self._resolver()) as socket_:
                    while (frame := await socket_.read_message()) is not None:
                        failures = 0
                        raw = json.loads(frame)
                        after = max([after, *(event["seq"] for event in raw)])
                        batches.put([_event(event) for event in raw if event["kind"] in _KINDS])
            except HTTPClientError as error:
                if error.code < 500:
                    body = error.response.body if error.response else b""
                    return batches.put(_error(error.code, body, self.address))
            except OSError:
                # the server restarts, or the network is away: tried again below
                pass
            await asyncio.sleep(0.1 * 2**failures)
            failures += 1
        batches.put(Unavailable(f"The event stream of {self.address.url} broke off and did not come back."))


@asynccontextmanager
async def _socket(request: HTTPRequest, resolver: Resolver | None) -> AsyncIterator[WebSocketClientConnection]:
    """A connected WebSocket, whose descriptor is closed at the end, whenever that comes."""
    connecting = websocket_connect(request, resolver=resolver)
    try:
        yield await asyncio.shield(connecting)
    finally:
        with suppress(TimeoutError, HTTPClientError, OSError):
            async with asyncio.timeout(1):
                connected = await connecting
            protocol = connected.protocol
            connected.close()
            # tornado would keep the descriptor until the server closes its end, and by then the loop has stopped
            if protocol is not None and protocol.stream is not None:
                protocol.stream.close()


class UnixResolver(Resolver):
    """Leads every name to one unix socket."""

    def initialize(self, path: str) -> None:
        self._sock = path

    async def resolve(self, host: str, port: int, family: int = socket.AF_UNSPEC) -> list[tuple[int, Any]]:
        """The one address that there is."""
        return [(socket.AF_UNIX, self._sock)]


_KINDS: Final = frozenset(Kind)


def _event(raw: JsonObject) -> Event:
    return Event(seq=raw["seq"], time=raw["time"], turn=raw["turn"], kind=Kind(raw["kind"]), data=raw["data"])


def _q(part: str) -> str:
    return quote(part, safe="")


def _error(status: int, body: bytes, address: Address) -> RequestError:
    try:
        told = json.loads(body)
        message, reason = str(told["message"]), told.get("reason")
    except (ValueError, KeyError, TypeError, AttributeError):
        message, reason = f"The Jupyter server answered with status {status}.", None
    if status in (301, 302, 401) or (status == 403 and not address.token):
        return NotAllowed(f"{address.url} wants another login than this kernel has (set JPY_API_TOKEN).", "login")
    return _ERRORS.get(status, Unavailable)(message, reason)


def _candidates(environ: Mapping[str, str]) -> Iterator[tuple[Address, str | None]]:
    """Where the server may be, best guess first; with the id of this kernel where the server must prove that it runs
    it. Without the proof, a kernel would talk to whatever other server the same person runs."""
    running = list(_running_servers(environ))
    token = next((environ[name] for name in _TOKENS if environ.get(name)), "")
    kernel = kernel_id()
    if kernel is not None:
        parent = environ.get("JPY_PARENT_PID")
        for server in sorted(running, key=lambda server: str(server.get("pid")) != parent):
            yield _address(server, token, environ.get("JPY_SESSION_NAME")), kernel
    if url := environ.get("JUPYTER_SERVER_URL"):
        same = [server for server in running if server["url"].rstrip("/") == url.rstrip("/")]
        yield (_address(same[0], token) if same and not token else Address(url=url, token=token)), None


_TOKENS: Final = ("JPY_API_TOKEN", "JUPYTER_TOKEN", "JUPYTERHUB_API_TOKEN")


def _address(server: JsonObject, token: str, notebook: str | None = None) -> Address:
    # the notebook's whole path, set when the kernel starts: stale after a rename, so what the server says comes first
    path = Path(notebook) if notebook else None
    root = str(server.get("root_dir"))
    return Address(
        url=server["url"],
        token=server.get("token") or token,
        sock=server.get("sock") or None,
        notebook=path.relative_to(root).as_posix() if path and path.is_relative_to(root) else None,
    )


def _running_servers(environ: Mapping[str, str]) -> Iterator[JsonObject]:
    """What the files say that every Jupyter server leaves in its runtime directory.

    `jupyter_server.serverapp.list_running_servers` reads the same files, but importing it loads the whole server:
    seconds in a kernel.
    """
    from jupyter_core.paths import jupyter_runtime_dir  # only here, and read at call time

    connection_file = _connection_file()
    folders = {Path(environ.get("JUPYTER_RUNTIME_DIR") or jupyter_runtime_dir())}
    if connection_file is not None:
        folders.add(connection_file.parent)
    for file in sorted(file for folder in folders for file in folder.glob("jpserver-*.json")):
        # a server may be writing the file, or removing it, at this moment
        with suppress(OSError, ValueError):
            server = json.loads(file.read_text(encoding="utf-8"))
            if isinstance(server, dict) and isinstance(server.get("url"), str):
                yield server


def kernel_id() -> str | None:
    """The id under which a Jupyter server knows this kernel; None where this is no kernel."""
    file = _connection_file()
    return file.stem.removeprefix("kernel-") if file and file.stem.startswith("kernel-") else None


def _connection_file() -> Path | None:
    try:
        from ipykernel.kernelapp import IPKernelApp  # absent outside a kernel
    except ImportError:
        return None
    if not IPKernelApp.initialized():
        return None
    return Path(IPKernelApp.instance().abs_connection_file)
