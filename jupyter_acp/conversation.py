"""The conversation as the chat file holds it: what a turn adds to it, and its writes, one at a time.

Every change is in memory at once and on disk soon; a turn costs two or three writes (the prompt, the answer, what
people did meanwhile), however much it streams. Not here: events.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from .agentspec import AgentSpec
from .chatfile import ChatFile, ChatMessage
from .events import JsonObject
from .records import TurnRow
from .sessionfile import SessionFile
from .turn import StopReason

log = logging.getLogger(__name__)


LATER_SECONDS = 1.0
AGAIN_SECONDS = 5.0


class Conversation:
    """The chat of one session.

    `failed` is told why the file could not be written, once until it can be again; the change stays in memory and is
    tried again every AGAIN_SECONDS.
    """

    def __init__(self, chat: ChatFile, spec: AgentSpec, failed: Callable[[OSError], None]) -> None:
        self.chat = chat
        self._spec = spec
        self._failed = failed
        self._dirty = False
        self._told = False
        self._later: asyncio.TimerHandle | None = None
        self._session: SessionFile | None = None
        self._saving: asyncio.Task[None] | None = None

    def add_prompt(self, turn: TurnRow) -> JsonObject:
        """A person's message at the start of a turn; the data of its `message` event. Not saved yet."""
        sender = str(turn.user.get("username", ""))
        message_id, now = f"{turn.id}-user", turn.started or time.time()
        self.chat.set_user(turn.user)
        self.chat.add(
            ChatMessage(id=message_id, body=turn.text, time=now, sender=sender, metadata={"acp": {"turn": turn.id}})
        )
        return {"message_id": message_id, "role": "user", "text": turn.text, "sender": sender, "time": now}

    def add_answer(
        self,
        turn: TurnRow,
        text: str,
        reason: StopReason,
        error: JsonObject | None,
        changes: JsonObject | None,
        *,
        at: float | None = None,
    ) -> None:
        """What the agent said in a turn that has ended (at `at`, or now), or why it said nothing."""
        now = time.time() if at is None else at
        meta: JsonObject = {"turn": turn.id, "stop_reason": str(reason)}
        if turn.started is not None:
            meta["elapsed_ms"] = max(0, round((now - turn.started) * 1000))
        if error is not None:
            meta["error"] = {key: error[key] for key in ("message", "reason")}
        if changes is not None:
            meta["changes"] = changes
        if not text:
            stopped = reason in (StopReason.CANCELLED, StopReason.INTERRUPTED)
            text = f"*{error['message']}*" if error else "*Stopped.*" if stopped else "*(no text)*"
            meta["no_text"] = True
        sender = f"acp-{self._spec.id}"
        user = {"username": sender, "name": self._spec.name, "display_name": self._spec.name, "bot": True}
        self.chat.set_user(user)
        self.chat.add(ChatMessage(id=f"{turn.id}-agent", body=text, time=now, sender=sender, metadata={"acp": meta}))
        self.save()

    def save(self) -> None:
        """Write the chat soon; changes made while it is written go with the next write."""
        self._dirty = True
        self._no_later()
        self._start()

    def save_later(self) -> None:
        """Write the chat in a second: the answer of a short turn goes with the prompt, in one write.

        Until then the log has it, and gives it back to the chat after a crash.
        """
        self._in(LATER_SECONDS)

    def _in(self, seconds: float) -> None:
        if self._later is None:
            self._later = asyncio.get_running_loop().call_later(seconds, self.save)

    def save_session(self, session: SessionFile) -> None:
        """Write the session file beside the chat soon."""
        self._session = session
        self._start()

    async def close(self, *, write: bool = True) -> None:
        """Write what is not written yet, or drop it."""
        if self._later is not None:
            self._no_later()
            self._dirty = True
        if not write:
            self._dirty, self._session = False, None
        if self._saving is not None:
            await asyncio.gather(self._saving, return_exceptions=True)
        if write:
            await self._write()
        self._no_later()

    def _no_later(self) -> None:
        if self._later is not None:
            self._later.cancel()
            self._later = None

    def _start(self) -> None:
        if self._saving is None or self._saving.done():
            self._saving = asyncio.create_task(self._write(), name="acp-chat-save")

    async def _write(self) -> None:
        while self._dirty or self._session is not None:
            session, self._session = self._session, None
            dirty, self._dirty = self._dirty, False
            try:
                if session is not None and not self.chat.read_only:
                    await self.chat.save_session(session)
                if dirty:
                    await self.chat.save()
            except OSError as exc:
                self._keep(session, dirty)
                if not self._told:
                    self._told = True
                    log.error("the chat %s cannot be written: %s", self.chat.path, exc)
                    self._failed(exc)
                return
            self._told = False

    def _keep(self, session: SessionFile | None, dirty: bool) -> None:
        """For the next attempt, unless something newer waits."""
        self._session = self._session or session
        self._dirty = self._dirty or dirty
        self._in(AGAIN_SECONDS)
