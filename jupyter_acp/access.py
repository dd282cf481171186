"""Which kinds of access can be enforced here, and why others cannot. Ours, never the agent's word."""

from __future__ import annotations

from .events import JsonObject

FULL_ACCESS = "full-access"

_NO_SANDBOX = "this version has no sandbox on this machine"

AVAILABLE: list[JsonObject] = [
    {"id": FULL_ACCESS, "available": True},
    {"id": "workspace-write", "available": False, "reason": _NO_SANDBOX},
    {"id": "read-only", "available": False, "reason": _NO_SANDBOX},
]
