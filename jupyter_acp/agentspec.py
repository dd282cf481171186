"""Which agents can be launched, and how: the bundled catalogue, `acp_agents.d/*.json`, then the trait `agents`.

Like kernel specs: an entry says what to start, and `environment` is all that the started process gets to know of ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from .events import JsonObject
from .exceptions import NotFound
from .keyfiles import read_key

BUNDLED: Final = Path(__file__).with_name("agents.json")
PLACEMENTS: Final = ("project", "host-remote", "host-delegated")
ACCESS: Final = ("full-access", "workspace-write", "read-only")
VERSION_TIMEOUT: Final = 3.0

BASIC_ENVIRONMENT: Final = frozenset(
    """PATH HOME USER LOGNAME SHELL TERM COLORTERM TZ TMPDIR LANG LANGUAGE
    XDG_CONFIG_HOME XDG_DATA_HOME XDG_STATE_HOME XDG_CACHE_HOME XDG_RUNTIME_DIR
    http_proxy https_proxy ftp_proxy all_proxy no_proxy HTTP_PROXY HTTPS_PROXY FTP_PROXY ALL_PROXY NO_PROXY
    SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE NODE_EXTRA_CA_CERTS GIT_SSL_CAINFO""".split()  # noqa: SIM905
)
"""What every agent gets of the server's environment, with the `LC_*` beside it (DESIGN 7)."""

_TEXTS = ("name", "description", "install", "login")
_FIELDS = frozenset(
    (*_TEXTS, "command", "env", "pass_env", "key_files", "providers", "exec_server", "placement", "access", "folders")
)
_WITH_DEFAULT = re.compile(r"\$\{(\w+):-([^}]*)\}")
_ID = re.compile(r"[a-z0-9][a-z0-9._-]*")
# their --version is not the agent's, and npx and uvx would fetch it first
_INTERPRETER = re.compile(r"(python|node|bun|deno|npx|uvx|uv|sh|bash|env|podman|docker|ssh)[\d.]*")
_VERSION = re.compile(r"\d+\.\d+[\w.+-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSpec:
    """One agent that can be launched.

    `env` is set for it, `pass_env` names what it gets of the server's environment, `key_files` are variables that are
    read from files at each start. `providers` are variables that are set where it calls a model provider through the
    egress proxy: `{provider: {NAME: value}}`, `{url}` standing for where it is, and what is no text set as JSON.
    `access` says which of the agent's own options goes with a kind of access: `{access: {option id: value}}`. `folders`
    are the agent's own, which it reads and writes also where its access is restricted; `~` and `${NAME:-default}` are
    understood. `exec_server` is the program in a container that carries out what an agent with placement host-remote
    wants there. `install` and `login` tell people how.
    """

    id: str
    name: str
    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    pass_env: tuple[str, ...] = ()
    key_files: Mapping[str, str] = field(default_factory=dict)
    providers: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    placement: str = "project"
    exec_server: tuple[str, ...] = ()
    access: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    description: str = ""
    install: str = ""
    login: str = ""

    @property
    def delegates(self) -> bool:
        """Whether it is served files and commands by us, since it runs none itself."""
        return self.placement == "host-delegated"

    def argv(self, python: str = sys.executable) -> list[str]:
        """What starts it, where our own Python is `python`."""
        return [python if word == "{python}" else word for word in self.command]

    @property
    def program(self) -> str | None:
        """Where its program is, or None where it is not installed."""
        return shutil.which(self.argv()[0], path=search_path(os.environ))

    @property
    def hint(self) -> str | None:
        """What a person may have to do before it works."""
        if self.program is not None:
            return self.login or None
        return f"Not installed: {self.install or f'there is no {self.command[0]!r} on the PATH'}"


def environment(spec: AgentSpec, base: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of the agent's process: the basic variables, what its entry names, what its entry sets."""
    named = {name: base[name] for name in spec.pass_env if name in base}
    return {**basic_environment(base), **named, **spec.env}


def basic_environment(base: Mapping[str, str]) -> dict[str, str]:
    """What every agent gets of a server's environment."""
    env = {name: value for name, value in base.items() if name in BASIC_ENVIRONMENT or name.startswith("LC_")}
    return {**env, "PATH": search_path(base)}


def keys(spec: AgentSpec, project: Path) -> dict[str, str]:
    """The agent's keys, out of files that only this account can read. KeyUnusable where one is not so."""
    return {name: read_key(Path(text), name, project) for name, text in spec.key_files.items()}


def provider_environment(spec: AgentSpec, providers: Collection[str], port: int) -> dict[str, str]:
    """The variables by which the agent calls these model providers through the forwarder at `port`, without their keys.

    They replace what `environment` says. Where two providers set one variable, that counts which the entry names first;
    JSON objects are merged, also with one in `env`.
    """
    found: JsonObject = {}
    for id, variables in spec.providers.items():
        if id in providers:
            text = json.dumps(variables).replace("{url}", f"http://127.0.0.1:{port}/{id}")
            found = _deep(found, json.loads(text))
    set_already = {name: _parsed(spec.env[name]) for name in found.keys() & spec.env.keys()}
    merged = _deep(found, set_already)
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in merged.items()}


def own_folders(spec: AgentSpec, env: Mapping[str, str]) -> list[Path]:
    """The agent's own folders and files, as its environment says where they are."""
    home = env.get("HOME", str(Path.home()))
    found = []
    for folder in spec.folders:
        text = _WITH_DEFAULT.sub(lambda match: env.get(match[1]) or match[2], folder)
        found.append(Path(home + text[1:] if text.startswith("~/") else text))
    return found


def search_path(base: Mapping[str, str]) -> str:
    """PATH, then this Python's own folder: an agent that is installed beside Jupyter is found without activation."""
    return os.pathsep.join([base.get("PATH") or os.defpath, os.path.dirname(sys.executable)])


class Catalogue:
    """All agents of this server by id. `problems` says, one sentence each, which entries were left out and why."""

    def __init__(self, specs: Iterable[AgentSpec], *, problems: Iterable[str] = (), default: str | None = None) -> None:
        self.specs = {spec.id: spec for spec in specs}
        self.problems = list(problems)
        self._default = default
        self._versions: dict[str, str | None] = {}
        if default is not None and default not in self.specs:
            self.problems.append(f"default_agent: there is no agent {default!r}")
            self._default = None

    @classmethod
    def load(
        cls,
        *,
        directories: Iterable[Path] = (),
        configured: Mapping[str, object] | None = None,
        default: str | None = None,
    ) -> Catalogue:
        """Merge the sources, field by field. `directories` come as Jupyter lists them, the most important first.

        What was configured stands before what is bundled, so that it is also preferred as the default.
        """
        problems: list[str] = []
        files = [file for folder in directories for file in sorted(folder.glob("*.json"), reverse=True)]
        sources = [("AcpExtension.agents", configured or {})]
        sources += [(str(file), _read(file, problems)) for file in files]
        sources.append((BUNDLED.name, _read(BUNDLED, problems)))
        merged: dict[str, JsonObject] = {}
        for source, entries in sources:
            for id, entry in entries.items():
                problem = _problem(id, entry)
                if problem is not None:
                    problems.append(f"{source}: agent {id!r}: {problem}")
                elif isinstance(entry, Mapping):
                    merged[id] = _merge(merged.get(id, {}), entry)
        specs = []
        for id, entry in merged.items():
            if "command" in entry:
                specs.append(_spec(id, entry))
            else:
                problems.append(f"agent {id!r}: it has no command")
        return cls(specs, problems=problems, default=default)

    @property
    def default(self) -> str:
        """The agent of a new chat: the configured one, else the first that is installed on this machine."""
        if self._default is not None:
            return self._default
        return next((spec.id for spec in self.available()), "demo")

    @property
    def configured(self) -> str | None:
        """The configured agent of a new chat."""
        return self._default

    def get(self, id: str) -> AgentSpec:
        """The agent of that id. NotFound."""
        try:
            return self.specs[id]
        except KeyError:
            raise NotFound(f"there is no agent {id!r}", "agent_not_found") from None

    def available(self) -> list[AgentSpec]:
        """The agents whose program is installed."""
        return [spec for spec in self.specs.values() if spec.program is not None]

    async def describe(self, specs: Sequence[AgentSpec] | None = None, default: str | None = None) -> list[JsonObject]:
        """What people choose from, the default one first: all agents, or those given; as they are on this machine."""
        specs, default = list(self.specs.values()) if specs is None else specs, default or self.default
        versions = await asyncio.gather(*(self.version(spec) for spec in specs))
        described = [
            {
                "id": spec.id,
                "name": spec.name,
                "description": spec.description,
                "available": spec.program is not None,
                "version": version,
                "hint": spec.hint,
                "placement": spec.placement,
                "command": spec.argv(),
                "default": spec.id == default,
            }
            for spec, version in zip(specs, versions, strict=True)
        ]
        return sorted(described, key=lambda agent: not agent["default"])

    async def version(self, spec: AgentSpec) -> str | None:
        """What its program says of its version; asked once, and None where it says nothing in time."""
        program = spec.program
        if program is None or _INTERPRETER.fullmatch(os.path.basename(program)):
            return None
        if program not in self._versions:
            self._versions[program] = await _version_of(program, environment(spec, os.environ))
        return self._versions[program]


async def _version_of(program: str, env: Mapping[str, str]) -> str | None:
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            "--version",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=env,
            start_new_session=True,
        )
    except OSError:  # not a program of this machine; starting the agent says so in full
        return None
    try:
        async with asyncio.timeout(VERSION_TIMEOUT):
            output, _ = await process.communicate()
    except TimeoutError:
        # its group: a wrapper script has children, and they hold the pipe
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()
        return None
    found = _VERSION.search(output.decode(errors="replace"))
    return found.group() if found else None


def _read(file: Path, problems: list[str]) -> Mapping[str, object]:
    try:
        entries = json.loads(file.read_bytes())
    except (OSError, ValueError) as exc:
        problems.append(f"{file}: {exc}")
        return {}
    if not isinstance(entries, dict):
        problems.append(f"{file}: not an object of agents by id")
        return {}
    return entries


def _problem(id: object, entry: object) -> str | None:
    """What is wrong with an entry, or None."""
    if not isinstance(id, str) or not _ID.fullmatch(id):
        return "an id consists of a-z, 0-9 and . _ -"
    if not isinstance(entry, Mapping):
        return "not an object"
    unknown = sorted(str(key) for key in entry if key not in _FIELDS)
    if unknown:
        return f"unknown {', '.join(unknown)}; known are {', '.join(sorted(_FIELDS))}"
    for key in _TEXTS:
        if not isinstance(entry.get(key, ""), str):
            return f"{key} is not text"
    command = entry.get("command", ["x"])
    if not _texts(command) or not command or not command[0]:
        return "command is a list of texts, the program first"
    if not _texts(entry.get("exec_server", [])):
        return "exec_server is a list of texts, the program first"
    if not _texts(entry.get("pass_env", [])):
        return "pass_env is a list of names"
    files = entry.get("key_files", {})
    if not isinstance(files, Mapping) or not _texts([*files, *files.values()]):
        return "key_files is an object of paths by variable"
    providers = entry.get("providers", {})
    if not isinstance(providers, Mapping) or not all(
        isinstance(variables, Mapping) for variables in providers.values()
    ):
        return "providers is an object of objects {provider: {NAME: value}}"
    if not _texts(entry.get("folders", [])):
        return "folders is a list of paths"
    env = entry.get("env", {})
    if not isinstance(env, Mapping) or not _texts([*env, *env.values()]):
        return "env is an object of texts"
    if entry.get("placement", "project") not in PLACEMENTS:
        return f"placement is one of {', '.join(PLACEMENTS)}"
    access = entry.get("access", {})
    if not isinstance(access, Mapping) or not all(isinstance(options, Mapping) for options in access.values()):
        return "access is an object of objects {access: {option: value}}"
    if not set(access) <= set(ACCESS):
        return f"the kinds of access are {', '.join(ACCESS)}"
    return None


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _deep(over: JsonObject, below: JsonObject) -> JsonObject:
    """`over` before `below`, object by object; the names of `over` come first."""
    merged = {**over, **below, **over}
    for name in over.keys() & below.keys():
        if isinstance(over[name], dict) and isinstance(below[name], dict):
            merged[name] = _deep(over[name], below[name])
    return merged


def _texts(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)


def _merge(over: JsonObject, entry: Mapping[str, object]) -> JsonObject:
    """`over` before `entry`; of both the variables, for who adds one does not mean to unset the others."""
    below: JsonObject = {"env": {}, "pass_env": [], "key_files": {}, "providers": {}, **entry}
    merged = {**below, **over}
    merged["env"] = {**dict(below["env"]), **over.get("env", {})}
    merged["key_files"] = {**dict(below["key_files"]), **over.get("key_files", {})}
    ours = over.get("providers", {})
    merged["providers"] = {**ours, **below["providers"], **ours}  # the first counts for more
    merged["pass_env"] = [*over.get("pass_env", []), *below["pass_env"]]
    return merged


def _spec(id: str, entry: JsonObject) -> AgentSpec:
    return AgentSpec(
        id=id,
        name=entry.get("name") or id,
        command=tuple(entry["command"]),
        env=entry["env"],
        pass_env=tuple(dict.fromkeys(entry["pass_env"])),
        key_files=entry["key_files"],
        providers=entry["providers"],
        placement=entry.get("placement", "project"),
        exec_server=tuple(entry.get("exec_server", ())),
        access=entry.get("access", {}),
        folders=tuple(entry.get("folders", ())),
        description=entry.get("description", ""),
        install=entry.get("install", ""),
        login=entry.get("login", ""),
    )
