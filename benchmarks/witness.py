"""The scripted agent, which also notes in `cancelled.ns` of its folder when it was told to cancel."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from jupyter_acp.testing import __main__ as scripted
from jupyter_acp.testing.wire import Wire


class WitnessWire(Wire):
    """Stamps each session/cancel as soon as its line is there."""

    def lines(self) -> Iterator[bytes]:
        for line in super().lines():
            if b'"session/cancel"' in line:
                now = time.monotonic_ns()
                Path("cancelled.ns").write_text(str(now))
            yield line


if __name__ == "__main__":
    scripted.Wire = WitnessWire  # type: ignore[misc]  # the one seam between the agent and its pipe
    scripted.main()
