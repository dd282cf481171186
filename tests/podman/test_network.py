"""What a project's container reaches: nothing, model providers through our proxy, or what podman lets it reach."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import ProjectsFile
from .host import Host, output

# an ordinary user's podman has its own network by slirp4netns, which needs that
IS_FULL_POSSIBLE = os.getuid() == 0 or os.access("/dev/net/tun", os.R_OK | os.W_OK)
NETWORKS = ("none", "providers", *(["full"] if IS_FULL_POSSIBLE else []))
LOOK = """import socket
print([name for _, name in socket.if_nameindex()])
print(socket.socket().connect_ex(("127.0.0.1", 4141)) == 0)
"""


@pytest.fixture
def host(folder: Path, projects: ProjectsFile, jp_asyncio_loop: Any) -> Iterator[Host]:
    """A project for each kind of network."""
    for network in NETWORKS:
        root = projects.add(network, members={"ann": "owner"}, network=network)
        (root / "look.py").write_text(LOOK)
    (folder / "s").mkdir()
    host = Host(folder / "s", projects)
    jp_asyncio_loop.run_until_complete(host.start())
    yield host
    jp_asyncio_loop.run_until_complete(host.end())


async def test_a_container_has_the_network_that_its_project_says(host: Host) -> None:
    seen = {}
    for network in NETWORKS:
        chat = await host.person("ann", network).open(agent="inside")
        assert (await chat.run("/shell python3 look.py", "t1"))["stop_reason"] == "end_turn"
        seen[network] = output(chat, "t1").splitlines()
    assert seen["none"] == ["['lo']", "False"]
    assert seen["providers"] == ["['lo']", "True"]
    if not IS_FULL_POSSIBLE:
        pytest.skip("no container of this user can have a network: /dev/net/tun is root's alone; the others are right")
    [interfaces, proxy] = seen["full"]
    assert len(interfaces.split(",")) > 1 and proxy == "False"
