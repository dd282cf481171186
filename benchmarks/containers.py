"""Projects in containers: start, first words, a delegated command beside `podman exec`, memory, and the build."""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from jupyter_acp.kernel_exec.containers import Container

from .common import REPOSITORY, Figure, Line, Server, Session, own_memory, quantile, scratch

IDLE = 20
STARTS = 5
TURNS = 50
COMMANDS = 200
OWNER = 1000
SCRIPTS = Path(REPOSITORY, "containers")


async def run() -> list[Figure]:
    with scratch() as folder:
        image = await asyncio.to_thread(_prepare, folder)
        (projects := folder / "projects.json").write_text("{}")
        settings = {"projects_class": "jupyter_acp.projects.podman.PodmanProjects"}
        async with Server(
            folder / "s", settings=settings, traits={"PodmanProjects": {"file": str(projects)}}
        ) as server:
            declared = _declare(folder, projects, image, 1)
            try:
                figures = await _start(server)
                figures += await _turns(server)
                figures += await _commands(server)
                await _stop(server, "p0")
                before = own_memory(server.process.pid)
                declared = _declare(folder, projects, image, 1 + IDLE)
                for id in declared[1:]:
                    await _used_once(server, id)
                grown = own_memory(server.process.pid) - before
            finally:
                for id in declared:
                    await _stop(server, id)
        figures.append(
            Figure(
                name=f"containers: memory for each of {IDLE} projects that were used once and are stopped",
                value=grown / IDLE / 1e6,
                unit="MB",
                limit=1.0,
                note=f"server with one {before / 1e6:.1f} MB",
            )
        )
        with _own_storage(folder):
            begun = time.monotonic()
            await asyncio.to_thread(_build)
            seconds = time.monotonic() - begun
        figures.append(
            Figure(name="containers: build of base and image, packages there", value=seconds, unit="s", limit=60.0)
        )
    return figures


def _prepare(folder: Path) -> str:
    """Have podman work, and find the image; its name."""
    found = subprocess.run([SCRIPTS / "podman_conf.sh", folder], capture_output=True, text=True, check=True)
    if found.stdout.strip():
        os.environ["CONTAINERS_CONF"] = found.stdout.strip()
    return _build()


def _build() -> str:
    """The name of this tree's image, which is built where it must be."""
    done = subprocess.run(
        [SCRIPTS / "build.sh"], capture_output=True, text=True, env={**os.environ, "PYTHON": sys.executable}
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout.strip()


@contextmanager
def _own_storage(folder: Path) -> Iterator[None]:
    """Have podman find nothing that was built before, nor leave anything."""
    (store := folder / "store").mkdir()
    conf = folder / "storage.conf"
    conf.write_text(f'[storage]\ndriver = "overlay"\ngraphroot = "{store}"\nrunroot = "{folder}/run"\n')
    os.environ["CONTAINERS_STORAGE_CONF"] = str(conf)
    try:
        yield
    finally:
        del os.environ["CONTAINERS_STORAGE_CONF"]
        subprocess.run(["umount", store / "overlay"], capture_output=True)


def _declare(folder: Path, file: Path, image: str, count: int) -> list[str]:
    """Declare projects with empty folders; their ids."""
    entries = {}
    for id in (f"p{number}" for number in range(count)):
        (root := folder / id).mkdir(exist_ok=True)
        if os.getuid() == 0:
            os.chown(root, OWNER, OWNER)
        members = {getpass.getuser(): "owner"}
        entries[id] = {"image": image, "folder": str(root), "members": members, "network": "none"}
    new = file.with_suffix(".new")
    new.write_text(json.dumps(entries))
    new.replace(file)
    return list(entries)


async def _known(server: Server, id: str) -> None:
    """Return once a project is there that was just declared."""
    async with asyncio.timeout(10):
        while id not in [project["id"] for project in await server.fetch("GET", "/api/acp/projects")]:
            await asyncio.sleep(0.05)


async def _stop(server: Server, id: str) -> None:
    await server.fetch("POST", f"/api/acp/projects/{id}/stop", {})
    await _until(server, id, "stopped")


async def _until(server: Server, id: str, state: str) -> None:
    async with asyncio.timeout(60):
        while (found := await server.fetch("GET", f"/api/acp/projects/{id}"))["state"] != state:
            if found["state"] == "failed":
                raise RuntimeError(found["error"])
            await asyncio.sleep(0.01)


async def _start(server: Server) -> list[Figure]:
    await _known(server, "p0")
    times = []
    for _ in range(STARTS):
        begun = time.monotonic()
        await server.fetch("POST", "/api/acp/projects/p0/start", {})
        await _until(server, "p0", "running")
        times.append(time.monotonic() - begun)
        await _stop(server, "p0")
    note = f"at most {max(times):.2f} s of {STARTS}"
    return [Figure(name="containers: start to ready, median", value=median(times), unit="s", limit=3.0, note=note)]


async def _turns(server: Server) -> list[Figure]:
    cold = []
    for number in range(STARTS):
        begun = time.monotonic()
        summary = await server.fetch("POST", "/api/acp/projects/p0/sessions", {"path": f"{number}.chat"})
        session = Session(server, summary["id"], "p0")
        await session.follow(0)
        await _first_word(session, begun, cold)
        if number < STARTS - 1:
            await _stop(server, "p0")
    warm: list[float] = []
    async with Line(server) as line:
        for _ in range(TURNS):
            await _first_word(session, time.monotonic(), warm, line)
            await asyncio.sleep(0.02)
    warm = [1e3 * seconds for seconds in warm[TURNS // 10 :]]
    return [
        Figure(
            name="containers: first word in a chat of a stopped project, median",
            value=median(cold),
            unit="s",
            limit=5.0,
            note=f"at most {max(cold):.2f} s of {STARTS}",
        ),
        Figure(
            name="containers: first word where the agent runs, median",
            value=median(warm),
            unit="ms",
            limit=50.0,
            note=f"p95 {quantile(warm, 0.95):.1f} ms",
        ),
    ]


async def _first_word(session: Session, begun: float, times: list[float], line: Line | None = None) -> None:
    """One turn; the seconds from `begun` until its first word is here are added to `times`."""
    turn = f"w-{secrets.token_hex(4)}"
    body = {"id": turn, "prompt": "/text hello"}
    if line is None:
        await session.server.fetch("POST", session.path + "/turns", body)
    else:
        line.ask("POST", session.path + "/turns", body)
    seen = ended = False
    while not ended:
        for event in await session.receive():
            if event["turn"] == turn and event["kind"] == "message_delta" and not seen:
                times.append(time.monotonic() - begun)
                seen = True
            ended = ended or (event["turn"] == turn and event["kind"] == "turn_ended")
    if line is not None:
        await line.answer()
    if not seen:
        raise RuntimeError("a turn without a word")


async def _commands(server: Server) -> list[Figure]:
    """`true` by the executor of the project's container, and by `podman exec`, in alternation."""
    ours: list[float] = []
    theirs: list[float] = []
    [id, name] = _podman(
        "ps", "--filter", f"volume={server.folder.parent / 'p0'}", "--no-trunc", "--format", "{{.ID}} {{.Names}}"
    )
    [sock] = server.folder.glob("runtime/**/c/project/run/server.sock")
    [pid] = _podman("container", "inspect", "--format", "{{.State.Pid}}", id)
    container = Container(id, name, "project", sock.parents[1], int(pid))
    try:
        for turn in range(COMMANDS + 20):
            begun = time.perf_counter()
            command = await container.executor.spawn(["true"], run="pipe")
            await command.wait()
            if turn >= 20:
                ours.append(1e3 * (time.perf_counter() - begun))
            await command.close()
            if turn % 10 == 0:
                begun = time.perf_counter()
                process = await asyncio.create_subprocess_exec("podman", "exec", id, "true")
                await process.wait()
                theirs.append(1e3 * (time.perf_counter() - begun))
    finally:
        await container.close()
    note = f"p95 {quantile(ours, 0.95):.1f} ms; `podman exec` {median(theirs):.0f} ms"
    return [
        Figure(
            name="containers: `true` by pipe in a container, median",
            value=median(ours),
            unit="ms",
            limit=10.0,
            note=note,
        )
    ]


def _podman(*arguments: str) -> list[str]:
    """What podman prints, by words."""
    return subprocess.run(["podman", *arguments], capture_output=True, text=True, check=True).stdout.split()


async def _used_once(server: Server, id: str) -> None:
    """One turn in one chat."""
    await _known(server, id)
    session = await server.session("a.chat", project=id)
    await session.run("/text hello")
    session.socket.close()
    await _stop(server, id)
