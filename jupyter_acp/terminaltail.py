"""How much of a command's output goes into the log: its beginning, what a screen can follow, at last the newest MiB.

For commands that an agent runs itself and only tells us of. No I/O; the caller's clock. What is logged is in order
and never twice; where something was left out, the piece behind the gap says so.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TypeAlias

LIMIT = 1 << 20
HEAD = 256 << 10
STEADY = 64 << 10
LIVE = 4000
LIVE_SECONDS = 1.0

Piece: TypeAlias = tuple[str, bool]
"""Text to log, and whether output before it was left out."""


@dataclass(slots=True)
class _Terminal:
    logged: int = 0
    waiting: deque[str] = field(default_factory=deque)
    size: int = 0
    gap: bool = False
    shown: float = 0.0


class TerminalTails:
    """The terminals of one session whose commands have not ended, by id."""

    def __init__(self) -> None:
        self._terminals: dict[str, _Terminal] = {}

    def output(self, terminal_id: str, data: str, now: float) -> Piece | None:
        """What to log now that a piece of output has come, or None.

        Past the first 256 KiB once a second: all that has come, or of more than 64 KiB the newest 4,000 characters.
        """
        terminal = self._terminals.setdefault(terminal_id, _Terminal())
        if terminal.logged + len(data) <= HEAD:
            terminal.logged += len(data)
            return data, False
        terminal.logged = HEAD
        terminal.gap |= len(data) > LIMIT
        terminal.waiting.append(data[-LIMIT:])
        terminal.size += len(terminal.waiting[-1])
        while terminal.size - len(terminal.waiting[0]) >= LIMIT:
            terminal.size -= len(terminal.waiting.popleft())
            terminal.gap = True
        if now - terminal.shown < LIVE_SECONDS:
            return None
        terminal.shown = now
        return _taken(terminal, LIVE if terminal.size > STEADY else LIMIT)

    def ended(self, terminal_id: str) -> Piece | None:
        """What is left to log at the end of a command."""
        terminal = self._terminals.pop(terminal_id, None)
        return _taken(terminal, LIMIT) if terminal is not None and terminal.waiting else None

    def ended_all(self) -> list[tuple[str, Piece]]:
        """As `ended`, for every terminal: the turn is over, or the agent gone."""
        return [(id, piece) for id in list(self._terminals) if (piece := self.ended(id)) is not None]


def _taken(terminal: _Terminal, limit: int) -> Piece:
    text = "".join(terminal.waiting)
    gap = terminal.gap or len(text) > limit
    terminal.waiting.clear()
    terminal.size, terminal.gap = 0, False
    return text[-limit:], gap
