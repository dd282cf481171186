"""Codex beside the coordinator, with every command and file of its own in the project's container.

Codex has a protocol of its own for that, and a program that speaks it at the other end (`codex exec-server`). Which one
is said in `environments.toml` of its CODEX_HOME; with `include_local = false` there is nothing else that it could use,
so where the container is gone its commands fail. A CODEX_HOME is a session's: one Codex has one environment.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from ..agentspec import AgentSpec
from ..exceptions import AgentError
from ..runner_processes import MARK

_SETTINGS = ("config.toml", "auth.json")
#: what podman needs of our environment, in place of what the agent has
_PODMANS = ("HOME", "XDG_RUNTIME_DIR", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF")


def environment(
    spec: AgentSpec,
    env: Mapping[str, str],
    ours: Mapping[str, str],
    home: Path,
    container: str,
    mark: str,
    cwd: str,
) -> dict[str, str]:
    """Make a session's CODEX_HOME at `home`; the variables by which Codex finds it. Blocking. AgentError.

    Settings and login are those of the account's own Codex (`env` and `ours` say where that is), as they are now. What
    is started in `container` has `mark` in its environment.
    """
    if not spec.exec_server:
        raise AgentError(f"{spec.id}: placement host-remote needs exec_server, the program at the other end")
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    source = Path(env.get("CODEX_HOME") or Path(ours.get("HOME") or Path.home()) / ".codex")
    for name in _SETTINGS:
        try:
            _copy_newer(source / name, home / name)
        except OSError as exc:
            raise AgentError(f"{source / name} cannot be copied: {exc.strerror}") from exc
    podman = [f"{name}={ours[name]}" for name in _PODMANS if name in ours]
    podman += ["podman", "exec", "--interactive", "--env", f"{MARK}={mark}", "--workdir", cwd, container]
    # strings of JSON are strings of TOML
    (home / "environments.toml").write_text(
        'default = "project"\n'
        "include_local = false\n"
        "[[environments]]\n"
        'id = "project"\n'
        'program = "env"\n'
        f"args = {json.dumps([*podman, *spec.exec_server])}\n"
    )
    return {"CODEX_HOME": str(home)}


def _copy_newer(source: Path, target: Path) -> None:
    """Codex renews its login where it finds it: what it has written there stays until the account logs in anew."""
    if not source.exists() or (target.exists() and target.stat().st_mtime > source.stat().st_mtime):
        return
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(source.read_bytes())
