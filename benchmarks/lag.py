"""A Jupyter Server extension that tells how long the event loop was blocked: `GET /benchmarks/lag`."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tornado.web import RequestHandler

_TICK = 0.002


class Lag:
    """Ticks on the loop; the longest delay of a tick is how long something held the loop."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time() + _TICK
        self._loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        now = self._loop.time()
        self.longest = max(self.longest, now - self._due)
        self._due = now + _TICK
        self._loop.call_at(self._due, self._tick)


class LagHandler(RequestHandler):
    """The longest delay in seconds; the next begins at zero."""

    def get(self) -> None:
        lag: Lag = self.application.settings["benchmark_lag"]
        self.finish(json.dumps(lag.longest))
        lag.longest = 0.0


async def _start_jupyter_server_extension(serverapp: Any) -> None:
    serverapp.web_app.settings["benchmark_lag"] = Lag()


def _load_jupyter_server_extension(serverapp: Any) -> None:
    serverapp.web_app.add_handlers(".*$", [("/benchmarks/lag", LagHandler)])


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "benchmarks.lag"}]
