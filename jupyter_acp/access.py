"""Which kinds of access can be enforced here, and why others cannot. Ours, never the agent's word."""

from __future__ import annotations

from .events import JsonObject

FULL_ACCESS = "full-access"
WORKSPACE_WRITE = "workspace-write"
READ_ONLY = "read-only"


def kinds(missing: str | None) -> list[JsonObject]:
    """Every kind of access; `missing` is why none but full access can be enforced, None where all can."""
    restricted: JsonObject = {"available": True} if missing is None else {"available": False, "reason": missing}
    return [{"id": FULL_ACCESS, "available": True}, *({"id": id, **restricted} for id in (WORKSPACE_WRITE, READ_ONLY))]
