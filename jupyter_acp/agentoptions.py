"""What a person asked of an agent's options (its mode and model included), applied and read back.

https://agentclientprotocol.com/protocol/session-config-options
"""

from __future__ import annotations

from collections.abc import Mapping

from . import options
from .agent import Agent
from .exceptions import AgentError
from .inbox import Inbox


async def apply(agent: Agent, session_id: str, inbox: Inbox, wanted: Mapping[str, object]) -> bool:
    """Make the options what was asked for; `inbox.options` is then what the agent says. Whether anything was set.

    AgentError where the agent refuses, or says something else afterwards: no turn runs under a setting that is not
    the one on screen.
    """
    changed = False
    # Twice: setting one option may change another (claude's model and its `fast`).
    for _ in range(2):
        for id, value in wanted.items():
            option = next((option for option in inbox.options if option["id"] == id), None)
            if option is None:
                raise AgentError(f"the agent has no option {id!r} any more, asked for {value!r}")
            if option.get("currentValue") != value:
                inbox.options = await agent.set_option(session_id, inbox.options, id, value)
                changed = True
    effective = options.effective(inbox.options)
    for id, value in wanted.items():
        if effective.get(id) != value:
            raise AgentError(f"asked for {id} {value!r}, but the agent says {effective.get(id)!r}")
    return changed
