"""How many tokens a project has used on which day (UTC): a small JSON file that outlives the coordinator. Blocking."""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

KEPT_DAYS: Final = 31


class UsageFile:
    """`{"days": {"2026-11-28": tokens}}`. What could not be written (a full disk) is kept here and written later."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unwritten: dict[str, int] = {}

    def today(self) -> int:
        """The tokens of today."""
        return self._days().get(_today(), 0)

    def add(self, tokens: int) -> None:
        """Count them for today."""
        if not tokens:
            return
        self._unwritten[_today()] = self._unwritten.get(_today(), 0) + tokens
        # read anew: another coordinator may have had the project meanwhile
        days = dict(sorted(self._days().items())[-KEPT_DAYS:])
        beside = self._path.with_name(f"{self._path.name}.new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            beside.write_text(json.dumps({"days": days}) + "\n", "utf-8")
            os.replace(beside, self._path)
        except OSError as exc:
            log.error("%s: the tokens used cannot be written: %s", self._path, exc)
        else:
            self._unwritten.clear()

    def _days(self) -> dict[str, int]:
        days = self._written()
        for day, tokens in self._unwritten.items():
            days[day] = days.get(day, 0) + tokens
        return days

    def _written(self) -> dict[str, int]:
        try:
            days = json.loads(self._path.read_bytes())["days"]
            return {str(day): int(tokens) for day, tokens in days.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as exc:
            log.error("%s: the tokens used cannot be read, counting begins at 0: %r", self._path, exc)
            return {}


def _today() -> str:
    return datetime.now(UTC).date().isoformat()
