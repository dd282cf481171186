"""An agent on the Python SDK's agent side, grown from the SDK's own examples: `python sdk_agent.py FOLDER`.

It keeps its sessions in FOLDER, resumes them without a replay, and does what words in the prompt say: ask, form, wait,
run (a command through the client), save (a file through the client). Anything is echoed, block by block.
"""

import asyncio
import json
import sys
import uuid
from pathlib import Path
from typing import Any

from acp import (
    PROTOCOL_VERSION,
    Agent,
    InitializeResponse,
    NewSessionResponse,
    PromptResponse,
    RequestError,
    plan_entry,
    run_agent,
    start_tool_call,
    text_block,
    tool_content,
    tool_terminal_ref,
    update_agent_message,
    update_agent_thought_text,
    update_plan,
    update_tool_call,
)
from acp.helpers import update_available_commands
from acp.interfaces import Client
from acp.schema import (
    AgentCapabilities,
    AvailableCommand,
    ConfigOptionUpdate,
    ElicitationFormSessionMode,
    ElicitationSchema,
    ElicitationStringPropertySchema,
    Implementation,
    PermissionOption,
    PromptCapabilities,
    ResumeSessionResponse,
    SessionCapabilities,
    SessionCloseCapabilities,
    SessionConfigOptionBoolean,
    SessionConfigOptionSelect,
    SessionConfigSelectOption,
    SessionInfoUpdate,
    SessionResumeCapabilities,
    SetSessionConfigOptionResponse,
    ToolCallUpdate,
    UsageUpdate,
)


class SdkAgent(Agent):
    """One process, many sessions, one JSON file each."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._client: Client
        self._cancelled: dict[str, asyncio.Event] = {}

    def on_connect(self, conn: Client) -> None:
        self._client = conn

    async def initialize(self, protocol_version: int, **kwargs: Any) -> InitializeResponse:
        return InitializeResponse(
            protocol_version=PROTOCOL_VERSION,
            agent_info=Implementation(name="sdk-agent", title="SDK Agent", version="0.12.1"),
            agent_capabilities=AgentCapabilities(
                prompt_capabilities=PromptCapabilities(image=True, embedded_context=True),
                session_capabilities=SessionCapabilities(
                    resume=SessionResumeCapabilities(), close=SessionCloseCapabilities()
                ),
            ),
        )

    async def new_session(self, cwd: str, **kwargs: Any) -> NewSessionResponse:
        session = uuid.uuid4().hex
        self._save(session, {"model": "small", "fast": False, "prompts": 0})
        await self._client.session_update(
            session, update_available_commands([AvailableCommand(name="help", description="What it can do")])
        )
        return NewSessionResponse(session_id=session, config_options=self._options(session))

    async def resume_session(self, cwd: str, session_id: str, **kwargs: Any) -> ResumeSessionResponse:
        if not self._file(session_id).exists():
            raise RequestError.resource_not_found(session_id)
        return ResumeSessionResponse(config_options=self._options(session_id))

    async def close_session(self, session_id: str, **kwargs: Any) -> None:
        self._file(session_id).unlink()

    async def set_config_option(
        self, config_id: str, session_id: str, value: str | bool, **kwargs: Any
    ) -> SetSessionConfigOptionResponse:
        self._save(session_id, {**self._load(session_id), config_id: value})
        return SetSessionConfigOptionResponse(config_options=self._options(session_id))

    async def cancel(self, session_id: str, **kwargs: Any) -> None:
        self._cancelled.setdefault(session_id, asyncio.Event()).set()

    async def prompt(self, prompt: list[Any], session_id: str, **kwargs: Any) -> PromptResponse:
        cancelled = self._cancelled[session_id] = asyncio.Event()
        state = self._load(session_id)
        self._save(session_id, {**state, "prompts": state["prompts"] + 1})
        await self._tell(session_id, update_agent_thought_text("An echo."))
        for block in prompt:
            await self._tell(session_id, update_agent_message(block))
        words = "".join(getattr(block, "text", "") for block in prompt).split()
        for word in words:
            if work := getattr(self, f"_do_{word}", None):
                await work(session_id)
            if cancelled.is_set():
                return PromptResponse(stop_reason="cancelled")
        await self._say(session_id, f" prompt {state['prompts'] + 1}")
        return PromptResponse(stop_reason="end_turn")

    async def _do_plan(self, session: str) -> None:
        entries = [plan_entry("Look", status="completed"), plan_entry("Write", priority="high")]
        await self._tell(session, update_plan(entries))
        await self._tell(session, UsageUpdate(session_update="usage_update", used=5, size=100))
        await self._tell(session, SessionInfoUpdate(session_update="session_info_update", title="An echo"))

    async def _do_mind(self, session: str) -> None:
        """It changes an option itself."""
        self._save(session, {**self._load(session), "model": "large"})
        options = self._options(session)
        await self._tell(session, ConfigOptionUpdate(session_update="config_option_update", config_options=options))

    async def _do_ask(self, session: str) -> None:
        await self._tell(session, start_tool_call("ask", "Write a file", kind="edit", status="pending"))
        answer = await self._client.request_permission(
            session_id=session,
            tool_call=ToolCallUpdate(tool_call_id="ask", raw_input={"path": "a.py"}),
            options=[
                PermissionOption(option_id="yes", name="Yes", kind="allow_once"),
                PermissionOption(option_id="no", name="No", kind="reject_once"),
            ],
        )
        said = getattr(answer.outcome, "option_id", answer.outcome.outcome)
        await self._tell(session, update_tool_call("ask", status="completed" if said == "yes" else "failed"))
        await self._say(session, f" said {said}")

    async def _do_form(self, session: str) -> None:
        schema = ElicitationSchema(
            properties={"name": ElicitationStringPropertySchema(type="string", title="Name")}, required=["name"]
        )
        mode = ElicitationFormSessionMode(session_id=session, requested_schema=schema)
        answer = await self._client.create_elicitation("Who are you?", mode)
        await self._say(session, f" {answer.action} {json.dumps(getattr(answer, 'content', None))}")

    async def _do_wait(self, session: str) -> None:
        await self._say(session, " waiting")
        await self._tell(session, start_tool_call("wait", "Wait", kind="think", status="in_progress"))
        await self._cancelled[session].wait()

    async def _do_run(self, session: str) -> None:
        terminal = await self._client.create_terminal(
            command="sh", session_id=session, args=["-c", "echo from the shell; exit 3"]
        )
        where = {"session_id": session, "terminal_id": terminal.terminal_id}
        shown = [tool_terminal_ref(terminal.terminal_id)]
        await self._tell(session, start_tool_call("run", "A command", kind="execute", content=shown))
        ended = await self._client.wait_for_terminal_exit(**where)
        output = await self._client.terminal_output(**where)
        await self._client.kill_terminal(**where)
        await self._client.release_terminal(**where)
        await self._tell(session, update_tool_call("run", status="completed"))
        await self._say(session, f" {output.output.strip()} ({ended.exit_code})")

    async def _do_save(self, session: str) -> None:
        await self._client.write_text_file(session_id=session, path="saved.txt", content="one\ntwo\nthree\n")
        found = await self._client.read_text_file(session_id=session, path="saved.txt", line=2, limit=1)
        shown = [tool_content(text_block(found.content))]
        await self._tell(session, start_tool_call("save", "A file", kind="edit", status="completed", content=shown))

    async def _tell(self, session: str, update: Any) -> None:
        await self._client.session_update(session, update)

    async def _say(self, session: str, text: str) -> None:
        await self._tell(session, update_agent_message(text_block(text)))

    def _options(self, session: str) -> list[Any]:
        state = self._load(session)
        models = [SessionConfigSelectOption(value=name, name=name.title()) for name in ("small", "large")]
        return [
            SessionConfigOptionSelect(
                id="model", name="Model", category="model", type="select", current_value=state["model"], options=models
            ),
            SessionConfigOptionBoolean(id="fast", name="Fast", type="boolean", current_value=state["fast"]),
        ]

    def _file(self, session: str) -> Path:
        return self._folder / f"{session}.json"

    def _load(self, session: str) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self._file(session).read_text())
        return state

    def _save(self, session: str, state: dict[str, Any]) -> None:
        self._file(session).write_text(json.dumps(state))


asyncio.run(run_agent(SdkAgent(Path(sys.argv[1])), use_unstable_protocol=True))
