"""A project's server leads its agents to the egress proxy of the coordinator."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
from egress_world import post, world

from stack.process import ServerProcess


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_a_projects_server_has_a_port_that_leads_to_model_providers_where_it_is_told_of_the_proxy(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        port = _free_port()
        config = {"serve_project": True, "egress_socket": str(w.socket), "egress_port": port}
        server = ServerProcess(tmp_path, config)
        await server.start()
        try:
            # it answers a moment before it has started its extensions
            async with asyncio.timeout(20):
                while True:
                    try:
                        reader, writer = await asyncio.open_connection("127.0.0.1", port)
                        break
                    except ConnectionRefusedError:
                        await asyncio.sleep(0.02)  # a port has no event
            writer.write(post("/openai/responses", b"through"))
            assert (await reader.read()).endswith(b'{"ok": true}')
            writer.close()
            assert w.upstream.seen[0].body == b"through"
        finally:
            await server.stop()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
