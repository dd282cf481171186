"""How a session is put together from its parts, and from where its log ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .agentspec import AgentSpec
from .chatfile import ChatFile
from .delegation import Delegation
from .editortexts import EditorTexts
from .host import AgentHost
from .kernel_exec.base import Run
from .kernel_exec.terminals import Started
from .records import SessionRow
from .session import Limits, Session
from .sites.base import Site
from .store import Store

if TYPE_CHECKING:
    from .diffs.tracker import ChangeTracker


class SessionFactory:
    """Makes the sessions of one project.

    Parameters
    ----------
    place
        Gives the project's folder, as its agents name it.
    tracker
        Gives what follows the changes of the project's files.
    run, started
        How delegated commands are run, and who is told of each that runs in a terminal.
    broken
        See `Session`.
    """

    def __init__(
        self,
        store: Store,
        site: Site,
        *,
        place: Callable[[], str],
        limits: Limits,
        tracker: Callable[[], ChangeTracker],
        run: Run,
        started: Started,
        broken: Callable[[Session, BaseException], None],
    ) -> None:
        self._store = store
        self._site = site
        self._place = place
        self._limits = limits
        self._tracker = tracker
        self._run = run
        self._started = started
        self._broken = broken

    async def make(self, row: SessionRow, chat: ChatFile, spec: AgentSpec) -> Session:
        """A session that goes on where its log ends; it is neither opened nor recovered yet."""
        # loaded with the first session: a server's start does not wait for it
        from .turnchanges import TurnChanges

        session = Session(
            row,
            store=self._store,
            chat=chat,
            spec=spec,
            first_seq=await self._store.first_seq(row.id) or 1,
            last_seq=await self._store.last_seq(row.id),
            position=await self._store.last_turn_position(row.id),
            turn_ids=await self._store.turn_ids(row.id),
            host=lambda inbox: AgentHost(row.id, inbox, self._site.launcher(spec, lambda: session.row)),
            delegation=self._delegation if spec.delegates else None,
            changes=TurnChanges(self._tracker(), row.id, row.cwd),
            limits=self._limits,
            access=self._site.access,
            broken=self._broken,
        )
        return session

    def _delegation(self, session: Session) -> Delegation:
        return Delegation.for_session(
            session.row.id,
            self._site.executor(lambda: session.row),
            self._store,
            session.journal,
            session.inbox,
            session.changes,
            lambda: session.host.connection,
            run=self._run,
            started=self._started,
            texts=EditorTexts(self._place()),
            cwd=session.row.cwd,
        )
