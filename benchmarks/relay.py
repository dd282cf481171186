"""The bare relay to measure against: agent stdout -> json -> one WebSocket frame per update, no record.

It keeps nothing and promises nothing: it is what a client of this protocol costs at the least. Run as
`python -m benchmarks.relay PORT AGENT...`; a WebSocket client sends the prompt's text as one message.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import ClassVar

from tornado.httpserver import HTTPServer
from tornado.web import Application
from tornado.websocket import WebSocketClosedError, WebSocketHandler


class Relay(WebSocketHandler):
    """One agent, one client."""

    sockets: ClassVar[set[Relay]] = set()

    def open(self, *args: str, **kwargs: str) -> None:
        self.set_nodelay(True)
        self.sockets.add(self)

    def on_close(self) -> None:
        self.sockets.discard(self)

    def on_message(self, message: str | bytes) -> None:
        agent: asyncio.subprocess.Process = self.application.settings["agent"]
        assert agent.stdin is not None
        params = {"sessionId": self.application.settings["session"], "prompt": [{"type": "text", "text": message}]}
        agent.stdin.write(_line(2, "session/prompt", params))


def _line(id: int, method: str, params: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).encode() + b"\n"


async def main(port: int, argv: list[str]) -> None:
    agent = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 26
    )
    assert agent.stdin is not None and agent.stdout is not None
    agent.stdin.write(_line(0, "initialize", {"protocolVersion": 1, "clientCapabilities": {}}))
    agent.stdin.write(_line(1, "session/new", {"cwd": "/tmp", "mcpServers": []}))
    session = None
    while session is None:
        message = json.loads(await agent.stdout.readline())
        if message.get("id") == 1:
            session = message["result"]["sessionId"]
    application = Application([("/ws", Relay)], agent=agent, session=session)
    server = HTTPServer(application)
    server.listen(port, "127.0.0.1")
    print("ready", flush=True)
    while line := await agent.stdout.readline():
        message = json.loads(line)
        if "method" in message or message.get("id") == 2:
            frame = json.dumps(message)
            for socket in list(Relay.sockets):
                try:
                    await socket.write_message(frame)
                except WebSocketClosedError:
                    Relay.sockets.discard(socket)
    agent.kill()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2:]))
