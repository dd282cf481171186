"""The Jupyter Server extension: traits -> object graph -> handlers. The only file that knows everybody."""

from __future__ import annotations

import getpass
import hashlib
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_core.paths import jupyter_config_dir, jupyter_config_path, jupyter_data_dir, jupyter_runtime_dir
from jupyter_server.auth.identity import IdentityProvider, PasswordIdentityProvider
from jupyter_server.extension.application import ExtensionApp
from jupyter_server.serverapp import ServerApp
from traitlets import Bool, Dict, Enum, Float, Int, Type, Unicode

from . import __version__
from .agentspec import Catalogue, basic_environment
from .coordinator import Coordinator, Settings
from .egress.providers import Providers
from .events import JsonObject
from .handlers import handlers, project_side_handlers
from .handlers.base import ProjectAccess
from .hub import ProjectHub
from .projects.base import Project, ProjectDirectory
from .projects.local import LocalProjects
from .session import Limits
from .sites.base import Site
from .sites.local import LocalSite, Machine
from .store import Store
from .terminaltabs import TerminalTabs

if TYPE_CHECKING:
    from .handlers.project_side import ProjectSide

_CONTENTS_EVENTS = "https://events.jupyter.org/jupyter_server/contents_service/v1"


class AcpExtension(ExtensionApp):
    """Coding agents that speak the Agent Client Protocol, for this Jupyter Server."""

    name = "jupyter_acp"
    version = __version__
    load_other_extensions = True

    agents: Any = Dict(
        help="Agents beside the bundled ones: {id: {name, command: [argv...], env, placement, access, description}}."
    ).tag(config=True)
    default_agent: Any = Unicode(help="Id of the agent of a new chat; empty: the first that is installed.").tag(
        config=True
    )
    database: Any = Unicode(help="The coordinator's SQLite file; empty: acp/coordinator.db in Jupyter's data dir.").tag(
        config=True
    )
    runtime_dir: Any = Unicode(help="Folder of the runners' sockets; empty: acp in Jupyter's runtime dir.").tag(
        config=True
    )
    projects_class: Any = Type(
        LocalProjects, klass=ProjectDirectory, help="Where projects come from: a subclass of ProjectDirectory."
    ).tag(config=True)
    queue_limit: Any = Int(100, help="Prompts that may wait in one session.").tag(config=True)
    permission_timeout: Any = Float(8 * 3600.0, help="Seconds until an unanswered question is cancelled.").tag(
        config=True
    )
    cancel_grace: Any = Float(5.0, help="Seconds after Stop until the turn's commands are killed.").tag(config=True)
    kill_grace: Any = Float(5.0, help="Seconds after that until the agent is killed.").tag(config=True)
    upload_limit: Any = Int(50 << 20, help="Bytes of one file that is added to a prompt.").tag(config=True)
    upload_keep: Any = Float(7 * 86400.0, help="Seconds after which such a file is removed.").tag(config=True)
    log_days: Any = Float(90.0, help="Days after the end of a turn until its activity is removed; 0: never.").tag(
        config=True
    )
    log_bytes: Any = Int(1 << 30, help="Bytes of a project's activity, the oldest is removed; 0: no limit.").tag(
        config=True
    )
    sandbox_network: Any = Bool(True, help="Whether agents with restricted access have the machine's network.").tag(
        config=True
    )
    delegated_commands: Any = Enum(
        ("terminal", "pipe"),
        "terminal",
        help="How a command runs that an agent has us run: in a terminal that people can open, or by a pipe.",
    ).tag(config=True)
    follow_changes: Any = Bool(
        True, help="Find out which files of the project a turn changes, and keep both versions."
    ).tag(config=True)
    agent_idle_timeout: Any = Float(
        4 * 3600.0,
        help="Seconds without a request until a session's agent is ended, if it can resume or load; 0: never.",
    ).tag(config=True)
    container_grace: Any = Float(
        30.0, help="Seconds that the container of a session with restricted access is kept after its last use."
    ).tag(config=True)
    runner_idle_timeout: Any = Float(
        86400.0,
        help="Seconds without a server until a runner ends an agent that says nothing, and an egress proxy itself.",
    ).tag(config=True)
    serve_project: Any = Bool(
        False,
        help="Be a project's server: a coordinator elsewhere reads, writes and runs in this server's root, with its "
        "token, and there is no coordinator here.",
    ).tag(config=True)
    model_providers: Any = Dict(
        help="Whom agents in containers can call, and with which key: {id: {url, key_file, header, requests}}, merged "
        "over the bundled ones; without a key_file a provider is not offered."
    ).tag(config=True)
    egress_socket: Any = Unicode(
        help="In a project's server: the unix socket of the egress proxy; empty: there is no way to model providers."
    ).tag(config=True)
    egress_port: Any = Int(4141, help="In a project's server: the port of its loopback that leads there.").tag(
        config=True
    )
    end_turns_on_stop: Any = Bool(
        False, help="End running turns and idle agents when the server stops, instead of leaving them."
    ).tag(config=True)

    def initialize_settings(self) -> None:
        """Build the object graph."""
        if sys.platform == "win32":
            raise OSError("jupyter_acp needs Linux or macOS; on Windows run Jupyter inside WSL")
        assert self.serverapp is not None
        # into the server's log, with its times; a line for each step of each turn only where somebody looks for a fault
        package = logging.getLogger(__package__)
        package.handlers = list(self.serverapp.log.handlers)
        package.setLevel(logging.DEBUG if self.serverapp.log.level <= logging.DEBUG else logging.WARNING)
        root = Path(self.serverapp.root_dir)
        self.side: ProjectSide | None = None
        if self.serve_project:
            self._serve_project(root)
        else:
            self._coordinate(root, self.serverapp)

    def _serve_project(self, root: Path) -> None:
        # a server with a coordinator need not load it
        from .egress.forwarder import Forwarder
        from .handlers.project_side import ProjectSide

        forwarder = Forwarder(self.egress_port, Path(self.egress_socket)) if self.egress_socket else None
        self.side = ProjectSide(root, self._own_folders, self._runtime, forwarder)

    def _coordinate(self, root: Path, server: ServerApp) -> None:
        data = self._data
        catalogue = Catalogue.load(
            directories=[Path(folder) / "acp_agents.d" for folder in jupyter_config_path()],
            configured=dict(self.agents),
            default=self.default_agent or None,
        )
        for problem in catalogue.problems:
            self.log.warning("agent catalogue: %s", problem)
        limits = Limits(
            queue=self.queue_limit,
            permission_timeout=self.permission_timeout,
            cancel_grace=self.cancel_grace,
            kill_grace=self.kill_grace,
        )
        settings = Settings(
            snapshots=data.parent / "snapshots",
            limits=limits,
            follow_changes=self.follow_changes,
            end_turns_on_stop=self.end_turns_on_stop,
            upload_limit=self.upload_limit,
            upload_keep=self.upload_keep,
            log_days=self.log_days,
            log_bytes=self.log_bytes,
            delegated_commands=self.delegated_commands,
            agent_idle_timeout=self.agent_idle_timeout,
        )
        machine = Machine(
            runtime_dir=self._runtime,
            environment=os.environ.copy(),
            hidden=self._own_folders,
            sandbox_network=self.sandbox_network,
            runner_idle_timeout=self.runner_idle_timeout,
        )
        self.providers = Providers.load(dict(self.model_providers))
        for problem in self.providers.problems:
            self.log.warning("%s", problem)
        self.tabs = TerminalTabs(lambda: self._of_server("terminal_manager"))

        here: dict[str, Any] = {
            "chat_manager": lambda: self._of_server("chat_manager"),
            "started": self.tabs.add,
        }

        def database(project: Project) -> Path:
            return data if project.id == "local" else data.parent / "projects" / f"{project.id}.db"

        def make(project: Project) -> Coordinator:
            return Coordinator(
                store=Store(database(project)),
                project=project,
                site=self._site(project, machine),
                catalogue=catalogue,
                settings=settings,
                # what is of this server's own folder; Jupyter shows its terminals to everybody who may use it
                **(here if project.container is None else {}),
            )

        self.hub = ProjectHub(
            self.projects_class(root, self._own_folders, parent=self),
            make,
            has_work=lambda project: project.id == "local" or database(project).exists(),
            remove_left=self._remove_left if (data.parent / "projects").is_dir() else None,
        )
        self.access = ProjectAccess(self.hub)
        self.settings["acp_account"] = _account(server.identity_provider)
        assert server.event_logger is not None
        server.event_logger.add_listener(schema_id=_CONTENTS_EVENTS, listener=self._contents_changed)

    def _site(self, project: Project, machine: Machine) -> Site:
        """Where a project runs."""
        if project.container is None:
            return LocalSite(project, machine)
        from .egress.link import EgressLink, EgressSettings
        from .kernel_exec.containers import Containers
        from .kernel_exec.podman import Podman
        from .sites.container import ContainerSite

        kept, sockets = self._data.parent / "projects" / project.id, self._runtime / "projects" / project.id
        egress = EgressLink(
            sockets,
            EgressSettings(
                providers=self.providers,
                environment=basic_environment(machine.environment),
                idle_timeout=machine.runner_idle_timeout,
            ),
            kept / "usage.json",
            project=project.id,
            root=project.root,
            limit=project.token_limit,
        )
        containers = Containers(
            project,
            podman=Podman(),
            instance=self._coordinator_id,
            folder=sockets / "c",
            home=kept / "home",
            way_out=egress,
            grace=self.container_grace,
        )
        return ContainerSite(project, machine, containers, folder=kept, egress=egress)

    async def _remove_left(self, is_gone: Callable[[str], bool]) -> None:
        """Containers of an earlier server, of projects that are gone, and their ways out."""
        from .egress.link import CONTROL, end
        from .kernel_exec.containers import remove_left
        from .kernel_exec.podman import Podman

        for control in self._runtime.glob(f"projects/*/{CONTROL}"):
            if is_gone(control.parent.name):
                await end(control)
        await remove_left(Podman(), self._coordinator_id, is_gone)

    def initialize_handlers(self) -> None:
        """Register the URL table."""
        if self.side is not None:
            self.handlers.extend(project_side_handlers(self.side))
        else:
            self.handlers.extend(handlers(self.access))

    async def _start_jupyter_server_extension(self, serverapp: Any) -> None:
        if self.side is not None:
            await self.side.start()
        else:
            await self.hub.start()

    async def stop_extension(self) -> None:
        """Let every session go, or end the commands of a coordinator elsewhere."""
        if self.side is not None:
            await self.side.stop()
            return
        await self.tabs.close()  # first: Jupyter ends the terminals that it finds listed, and fails where one has gone
        await self.hub.stop()

    @property
    def _data(self) -> Path:
        return Path(self.database) if self.database else Path(jupyter_data_dir()) / "acp" / "coordinator.db"

    @property
    def _coordinator_id(self) -> str:
        """By this two coordinators of one account leave each other's containers alone."""
        return hashlib.sha256(os.fsencode(self._data.resolve())).hexdigest()[:8]

    @property
    def _runtime(self) -> Path:
        return Path(self.runtime_dir) if self.runtime_dir else Path(jupyter_runtime_dir()) / "acp"

    @property
    def _own_folders(self) -> tuple[Path, ...]:
        """What nobody with restricted access may see."""
        own = (jupyter_data_dir(), jupyter_runtime_dir(), jupyter_config_dir())
        return (self._data.parent, self._runtime, *map(Path, own))

    def _of_server(self, name: str) -> Any | None:
        """What another extension, loaded before or after this one, has put into the server's settings."""
        return self.serverapp.web_app.settings.get(name) if self.serverapp else None

    async def _contents_changed(self, logger: Any, schema_id: str, data: JsonObject) -> None:
        assert self.serverapp is not None
        root = Path(self.serverapp.root_dir).resolve()
        for coordinator in self.hub.known():
            below = coordinator.project.root

            def inner(path: object, below: Path = below) -> str | None:
                whole = root / str(path).strip("/")
                return str(whole.relative_to(below)) if below in whole.parents else None

            path, source = inner(data["path"]), inner(data.get("source_path", ""))
            if data.get("action") == "rename" and source is not None and path is not None:
                await coordinator.moved(source, path)
            elif data.get("action") == "save" and path is not None:
                coordinator.saved(path)
            elif data.get("action") == "delete" and path is not None:
                await coordinator.deleted(path)


def _account(provider: Any) -> JsonObject | None:
    """Where people log in by token or password they have no name: Jupyter makes up a new one for each login, and nobody
    could edit their own message tomorrow. Then the person is the account that the server runs as."""
    if type(provider) not in (IdentityProvider, PasswordIdentityProvider):
        return None
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = f"uid-{os.getuid()}"
    return {"username": name, "name": name, "display_name": name, "initials": name[:1].upper()}


main = launch_new_instance = AcpExtension.launch_instance
