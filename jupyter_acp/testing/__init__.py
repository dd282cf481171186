"""The scripted agent: a real ACP program on stdio that does what the prompt's text says.

Not a mock: `python -m jupyter_acp.testing` is a process of its own that speaks ACP version 1, keeps its sessions on
disk and is what `jupyter acp demo` starts. Standard library only, and nothing else of this package, so that it starts
fast and runs anywhere. Its directives are described in docs/reference/scripted-agent.md.
"""

from __future__ import annotations

import sys

from .wire import chunk_text

__all__ = ["chunk_text", "command"]


def command(*arguments: str) -> list[str]:
    """The argv that starts the scripted agent with `arguments`, for example ``command("--no-resume")``."""
    return [sys.executable, "-m", "jupyter_acp.testing", *arguments]
