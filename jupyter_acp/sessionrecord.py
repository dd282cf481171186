"""The row of one session as its owner has it; each change of it goes with the next commit of the log."""

from __future__ import annotations

from dataclasses import replace

from .events import Kind
from .journal import Journal
from .records import Change, SessionRow, delivered


class SessionRecord:
    """See the module. `row` is what it is now."""

    def __init__(self, row: SessionRow, journal: Journal) -> None:
        self.row = row
        self._journal = journal

    def save(self, **fields: object) -> None:
        """Change fields of the row."""
        self._journal.change(self.changed(**fields))

    def changed(self, **fields: object) -> Change:
        """As `save`, for a commit of the caller's own."""
        self.row = replace(self.row, **fields)  # type: ignore[arg-type]  # names of SessionRow's own fields
        return self.row.save()

    def show(self, name: str, value: object) -> None:
        """Keep something that people are shown of the session."""
        self.save(shown={**self.row.shown, name: value})

    def set_title(self, title: str) -> None:
        """Keep and log the title that people see."""
        self.save(title=title[:200])
        self._journal.append(Kind.SESSION_CHANGED, {"title": self.row.title}, turn=None)

    def progress(self, position: int, number: int) -> list[Change]:
        """How far the agent was read, and the highest number sent to it: nothing where that is known already."""
        if (position, number) == (self.row.position, self.row.number):
            return []
        self.row = replace(self.row, position=position, number=number)
        return [delivered(self.row.id, position, number)]
