"""Speaks ACP version 1 as a client: one method per request, raw objects in and out. Not here: turns, order, restarts.

https://agentclientprotocol.com/protocol/overview
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from . import __version__
from . import options as config
from .events import JsonObject
from .exceptions import AgentError, AgentProtocolError
from .jsonrpc import Connection, RequestId

PROTOCOL_VERSION = 1
AUTH_REQUIRED = -32000


def client_capabilities(*, delegated: bool = False) -> JsonObject:
    """What we say that we can do; files and terminals only for an agent that works by them (DESIGN 2.1)."""
    ours: JsonObject = {
        "auth": {"terminal": True},
        "elicitation": {"form": {}, "url": {}},
        "session": {"configOptions": {"boolean": {}}, "notices": {}, "compaction": {}},
        # codex and claude stream the output of their own commands only to who asks for it
        "_meta": {"terminal_output": True},
    }
    if delegated:
        ours |= {"fs": {"readTextFile": True, "writeTextFile": True}, "terminal": True}
    return ours


class Agent:
    """One connected agent.

    Attributes
    ----------
    capabilities, agent_info, auth_methods, meta
        What it said of itself in `initialize`; empty before.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.capabilities: JsonObject = {}
        self.agent_info: JsonObject | None = None
        self.auth_methods: list[JsonObject] = []
        self.meta: JsonObject = {}

    # --- what it can ---------------------------------------------------------------------------------------------

    @property
    def can_load(self) -> bool:
        """It can replay a conversation."""
        return self.capabilities.get("loadSession") is True

    @property
    def can_resume(self) -> bool:
        """It can go on with a conversation without replaying it."""
        return self._session_can("resume")

    @property
    def can_close(self) -> bool:
        """It can free a session and stay."""
        return self._session_can("close")

    @property
    def can_steer(self) -> bool:
        """It takes words in mid-turn, by `_session/steering`."""
        steering = self.meta.get("steering")
        return isinstance(steering, dict) and steering.get("supported") is True

    def known(self) -> JsonObject:
        """What `recall` needs after a new coordinator attached to this agent."""
        return {
            "capabilities": self.capabilities,
            "agent_info": self.agent_info,
            "auth_methods": self.auth_methods,
            "meta": self.meta,
        }

    def recall(self, known: JsonObject) -> None:
        """Take over what an earlier coordinator had learned."""
        info = known.get("agent_info")
        self.capabilities = _object(known.get("capabilities"))
        self.agent_info = info if isinstance(info, dict) else None
        self.auth_methods = _objects(known.get("auth_methods"))
        self.meta = _object(known.get("meta"))

    # --- requests ------------------------------------------------------------------------------------------------

    async def initialize(self, capabilities: JsonObject | None = None, *, delegated: bool = False) -> JsonObject:
        """Greet the agent and learn what it can. AgentProtocolError where we have no version in common."""
        reply = await self._request(
            "initialize",
            {
                "protocolVersion": PROTOCOL_VERSION,
                "clientInfo": {"name": "jupyter-acp", "title": "Jupyter ACP", "version": __version__},
                "clientCapabilities": client_capabilities(delegated=delegated)
                if capabilities is None
                else capabilities,
            },
        )
        spoken = reply.get("protocolVersion", PROTOCOL_VERSION)
        if str(spoken) != str(PROTOCOL_VERSION):
            raise AgentProtocolError(f"the agent speaks version {spoken} of ACP, we speak {PROTOCOL_VERSION}")
        self.recall(
            {
                "capabilities": reply.get("agentCapabilities"),
                "agent_info": reply.get("agentInfo"),
                "auth_methods": reply.get("authMethods"),
                "meta": reply.get("_meta"),
            }
        )
        return reply

    async def authenticate(self, method_id: str, meta: JsonObject | None = None) -> None:
        """Log in by one of `auth_methods`, not one of type `terminal`."""
        await self._request("authenticate", {"methodId": method_id, **({"_meta": meta} if meta else {})})

    async def new_session(self, cwd: str) -> JsonObject:
        """Start a conversation; the reply has `sessionId`."""
        reply = await self._request("session/new", {"cwd": cwd, "mcpServers": []})
        if not isinstance(reply.get("sessionId"), str) or not reply["sessionId"]:
            raise AgentProtocolError("the agent opened a session without an id")
        return reply

    async def resume_session(self, session_id: str, cwd: str) -> JsonObject:
        """Go on with a conversation. Its history is not repeated."""
        return await self._request("session/resume", {"sessionId": session_id, "cwd": cwd, "mcpServers": []})

    async def load_session(self, session_id: str, cwd: str) -> JsonObject:
        """Go on with a conversation. Its history comes as updates before this returns."""
        return await self._request("session/load", {"sessionId": session_id, "cwd": cwd, "mcpServers": []})

    async def close_session(self, session_id: str, *, timeout: float | None = None) -> None:
        """Let the agent free a session; does nothing where it cannot."""
        if self.can_close:
            await self._request("session/close", {"sessionId": session_id}, timeout=timeout)

    async def prompt(
        self, session_id: str, blocks: Sequence[JsonObject], *, id: str | None = None, number: int | None = None
    ) -> JsonObject:
        """Run a turn; returns its whole result when it ends. `number` was reserved when the turn was recorded.

        Whoever has recorded what came of it has the connection `go_on`.
        """
        params = {"sessionId": session_id, "prompt": list(blocks)}
        return _object(await self._connection.request("session/prompt", params, id=id, number=number, hold=True))

    def answered(self, request_id: str) -> Coroutine[Any, Any, JsonObject]:
        """As `prompt`, of one that an earlier coordinator sent. Call it before the connection runs on."""
        # registered at once and not when awaited: the answer may be the next line
        return _result(self._connection.expect(request_id, hold=True))

    async def cancel(self, session_id: str) -> None:
        """Ask the agent to end the running turn; the end is the answer to its prompt."""
        await self._connection.notify("session/cancel", {"sessionId": session_id})

    async def cancel_request(self, request_id: RequestId) -> None:
        """Ask the agent to end one of our requests."""
        await self._connection.cancel_request(request_id)

    async def steer(self, session_id: str, blocks: Sequence[JsonObject]) -> JsonObject:
        """Add words to the running turn; the reply's `outcome` says what became of them."""
        return await self._request("_session/steering", {"sessionId": session_id, "prompt": list(blocks)})

    async def set_option(self, session_id: str, options: list[JsonObject], id: str, value: object) -> list[JsonObject]:
        """Set one of `options` (see options.py) and return all of them as they are now."""
        try:
            method, params = config.request(options, id, value)
        except KeyError:
            raise AgentError(f"the agent has no option {id!r}") from None
        reply = await self._request(method, {"sessionId": session_id, **params})
        return config.apply_set(options, id, value, reply)

    async def _request(self, method: str, params: JsonObject, *, timeout: float | None = None) -> JsonObject:
        # several agents answer null where an empty object is meant
        return _object(await self._connection.request(method, params, timeout=timeout))

    def _session_can(self, name: str) -> bool:
        # a capability that is an object is one by being there and not null
        return _object(self.capabilities.get("sessionCapabilities")).get(name) not in (None, False)


async def _result(future: asyncio.Future[object]) -> JsonObject:
    return _object(await future)


def _object(value: object) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _objects(value: object) -> list[JsonObject]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
