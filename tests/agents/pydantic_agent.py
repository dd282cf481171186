"""pydantic-ai's TestModel behind pydantic-acp, no key, no network: `python pydantic_agent.py FOLDER [unstable]`.

TestModel calls every tool once and then answers with what they gave. `remove` needs a person's approval, `wait` ends
only when it is cancelled. Sessions are kept in FOLDER. Without `unstable` the SDK refuses `session/resume`, which
pydantic-acp advertises all the same.
"""

import asyncio
import sys
from pathlib import Path

from acp import run_agent
from acp.schema import SessionMode
from pydantic_acp import AdapterConfig, AdapterModel, FileSessionStore, ModeState, create_acp_agent
from pydantic_ai import Agent
from pydantic_ai.models.test import TestModel


class Modes:
    """Two modes, kept with the session."""

    def get_mode_state(self, session, agent):  # type: ignore[no-untyped-def]  # the provider's types are generic over the agent
        modes = [SessionMode(id="ask", name="Ask"), SessionMode(id="auto", name="Auto")]
        return ModeState(modes=modes, current_mode_id=session.metadata.get("mode", "ask"))

    def set_mode(self, session, agent, mode_id):  # type: ignore[no-untyped-def]  # as above
        session.metadata["mode"] = mode_id
        return self.get_mode_state(session, agent)


def model(*tools: str) -> TestModel:
    """A model that calls these tools."""
    return TestModel(call_tools=list(tools), custom_output_text=f"Called {', '.join(tools)}.")


agent = Agent(model("look", "remove"), name="pydantic")


@agent.tool_plain
def look(path: str) -> str:
    """Look at a file."""
    return f"looked at {path}"


@agent.tool_plain(requires_approval=True)
def remove(path: str) -> str:
    """Remove a file."""
    return f"removed {path}"


@agent.tool_plain
async def wait() -> str:
    """Wait until cancelled."""
    await asyncio.Event().wait()
    return "never"


config = AdapterConfig(
    session_store=FileSessionStore(root=Path(sys.argv[1])),
    allow_model_selection=True,
    available_models=[
        AdapterModel(model_id="careful", name="Careful", override=model("look", "remove")),
        AdapterModel(model_id="quick", name="Quick", override=model("look")),
        AdapterModel(model_id="stuck", name="Stuck", override=model("wait")),
    ],
    modes_provider=Modes(),
)
asyncio.run(run_agent(create_acp_agent(agent, config=config), use_unstable_protocol="unstable" in sys.argv))
