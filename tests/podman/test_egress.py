"""A container without a network calls a model, and whoever looks into it finds no key."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from pathlib import Path

import pytest
from egress_world import KEY, STREAM, Seen, event, world

from jupyter_acp.egress.link import EgressLink
from jupyter_acp.exceptions import ExecutorError
from jupyter_acp.kernel_exec.base import Exit
from jupyter_acp.kernel_exec.container_recipe import EGRESS_PORT, WHOLE, Key
from jupyter_acp.kernel_exec.containers import Containers, Use
from jupyter_acp.kernel_exec.podman import Podman as OurPodman
from jupyter_acp.projects.base import ContainerSpec, Network, Project

from .conftest import OWNER, ProjectsFile
from .containers import Podman
from .host import AGENTS, Host, output, run

CALL = f"""
import http.client, os
connection = http.client.HTTPConnection("127.0.0.1", {EGRESS_PORT})
connection.request("POST", "/openai/responses", b"from inside", {{"Authorization": "Bearer added-by-jupyter"}})
answer = connection.getresponse()
print(answer.status, answer.readline().decode().strip(), flush=True)
print(open("/proc/net/dev").read().count(":"), os.getuid())
"""
LOOK = f"""
import os
key = {KEY[:8]!r} + {KEY[8:]!r}
paths = [f"/proc/{{pid}}/{{name}}" for pid in os.listdir("/proc") if pid.isdigit() for name in ("environ", "cmdline")]
for folder, folders, files in os.walk("/"):
    folders[:] = [name for name in folders if os.path.join(folder, name) not in ("/sys", "/proc", "/usr", "/dev")]
    paths += [path for name in files if os.path.isfile(path := os.path.join(folder, name))]
found = []
for path in paths:
    try:
        found += [path] if key in open(path, errors="replace").read() else []
    except OSError:
        pass  # what cannot be read is not found
print(len(paths) > 20, found)
"""


def _containers(projects: ProjectsFile, folder: Path, network: Network, way_out: EgressLink) -> Containers:
    root = projects.add(f"p-{network}")
    spec = ContainerSpec(image=projects.image, network=network)
    project = Project(id=f"p-{network}", name="p", root=root, place="/project", container=spec)
    return Containers(
        project,
        podman=OurPodman(),
        instance=f"egress{os.getpid()}",
        folder=folder / "c",
        home=folder / "home",
        way_out=way_out,
    )


async def _python(use: Use, code: str) -> str:
    """What a program in the container prints."""
    printed: list[str] = []
    ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
    command = await use.container.executor.spawn(
        ["python3", "-c", code], run="pipe", on_output=lambda text, _: printed.append(text), on_exit=ended.set_result
    )
    async with asyncio.timeout(30):
        exit = await ended
    await command.close()
    assert exit.code == 0, "".join(printed)
    return "".join(printed)


async def test_a_container_without_a_network_calls_a_model_and_no_key_is_in_it(
    projects: ProjectsFile, folder: Path, podman: Podman, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with world(folder) as w:
        taken = asyncio.Event()

        async def answer(request: Seen, writer: asyncio.StreamWriter) -> None:
            writer.write(STREAM + event("hello"))
            await taken.wait()
            writer.write(b"0\r\n\r\n")

        w.upstream.answer = answer
        link = w.link(folder / "p")
        containers = _containers(projects, folder, "providers", link)
        use = await containers.use(Key(WHOLE, ""))
        try:
            printed = await _python(use, CALL)
            assert printed.splitlines() == ['200 data: "hello"', f"1 {OWNER}"]  # lo, and no other network
            [seen] = w.upstream.seen
            assert (bytes(seen.body), seen.headers["authorization"]) == (b"from inside", [f"Bearer {KEY}"])
            assert await _python(use, LOOK) == "True []\n"
            assert KEY not in json.dumps(podman.containers())
            assert KEY not in podman("logs", use.container.id).stdout

            # another proxy is where that one was
            await link.stop()
            await link.start()
            assert (await _python(use, CALL)).startswith("200 ")
        finally:
            taken.set()
            use.release()
            await containers.stop()
            await containers.close()
    assert KEY not in caplog.text


async def test_a_container_that_is_to_have_no_network_has_no_way_to_models_either(
    projects: ProjectsFile, folder: Path
) -> None:
    async with world(folder) as w:
        containers = _containers(projects, folder, "none", w.link(folder / "p"))
        use = await containers.use(Key(WHOLE, ""))
        try:
            refused = await _python(use, f"try:\n{CALL.replace(chr(10), chr(10) + ' ')}\nexcept OSError as e: print(e)")
            assert "Connection refused" in refused
            with pytest.raises(ExecutorError):
                await use.container.executor.read_text_file("/run/acp-egress/egress.sock")
            assert "egress" not in await _python(use, "import os; print(os.listdir('/run'))")
        finally:
            use.release()
            await containers.stop()
            await containers.close()
        assert not w.upstream.seen


async def test_a_key_that_is_added_on_the_way_is_not_read_into_the_container(
    projects: ProjectsFile, folder: Path
) -> None:
    async with world(folder) as w:
        projects.add("alpha", members={"ann": "owner"}, tokens_per_day=1000)
        agent = {
            **AGENTS["inside"],
            "key_files": {"MODEL_KEY": str(w.key_file), "OTHER_KEY": str(w.key_file)},
            "providers": {"openai": {"MODEL_KEY": "none", "MODEL_URL": "{url}"}},
        }
        url = f"http://127.0.0.1:{w.upstream.port}/v1"
        (folder / "s").mkdir()
        host = Host(
            folder / "s",
            projects,
            agents={"inside": agent},
            model_providers={"openai": {"url": url, "key_file": str(w.key_file)}},
        )
        await host.start()
        try:
            ann = host.person("ann", "alpha")
            chat = await ann.open(agent="inside")
            call = (
                f"python3 -c 'import urllib.request as u; u.urlopen(\"http://127.0.0.1:{EGRESS_PORT}/openai/models\")'"
            )
            await chat.run(run("inside", f'echo $MODEL_KEY $MODEL_URL; test -n "$OTHER_KEY" && echo given; {call}'))
            assert output(chat, "t1").split() == ["none", f"http://127.0.0.1:{EGRESS_PORT}/openai", "given"]
            assert [seen.start for seen in w.upstream.seen] == ["GET /v1/models HTTP/1.1"]
            project = await ann.ok("GET", "projects", "alpha")
            assert project["usage"] == {"tokens_today": 0, "token_limit": 1000}
            assert "project=alpha GET /openai/models 200 " in host.log()
        finally:
            await host.end()


async def test_a_model_goes_on_answering_while_the_coordinator_is_killed_and_comes_back(
    projects: ProjectsFile, folder: Path
) -> None:
    async with world(folder) as w:
        asked, go_on = asyncio.Event(), asyncio.Event()

        async def answer(request: Seen, writer: asyncio.StreamWriter) -> None:
            writer.write(STREAM + event("first"))
            asked.set()
            await go_on.wait()
            writer.write(event("second") + b"0\r\n\r\n")

        w.upstream.answer = answer
        projects.add("alpha", members={"ann": "owner"})
        (folder / "s").mkdir()
        openai = {"url": f"http://127.0.0.1:{w.upstream.port}/v1", "key_file": str(w.key_file)}
        host = Host(folder / "s", projects, model_providers={"openai": openai})
        await host.start()
        try:
            ann = host.person("ann", "alpha")
            chat = await ann.open(agent="inside")
            call = f'u.urlopen("http://127.0.0.1:{EGRESS_PORT}/openai/responses", b"{{}}").read().decode()'
            await chat.submit(run("inside", f"python3 -c 'import urllib.request as u; print({call})'"), "t1")
            async with asyncio.timeout(30):
                await asked.wait()
            host.kill()
            await host.hang_up()
            await host.start()
            go_on.set()
            chat.drive = host.person("ann", "alpha")
            assert (await chat.until_kind("turn_ended", id="t1"))["data"]["stop_reason"] == "end_turn"
            assert output(chat, "t1").split() == ["data:", '"first"', "data:", '"second"']
            await chat.hang_up()
            assert len(w.upstream.seen) == 1
            async with asyncio.timeout(10):
                while "project=alpha POST /openai/responses 200 " not in host.log():  # noqa: ASYNC110
                    await asyncio.sleep(0.05)  # a log has no event
            assert KEY not in host.log()
        finally:
            await host.end()
