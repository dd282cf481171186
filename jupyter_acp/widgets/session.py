"""The live view of one turn in a notebook. Its browser side (static/session.js) talks to the server by itself, so that
approvals and Stop work while the kernel is busy; the traits only tell it where to look."""

from __future__ import annotations

from pathlib import Path

import anywidget
import traitlets

_STATIC = Path(__file__).parent / "static"


class SessionWidget(anywidget.AnyWidget):
    """Shows `turn` of `session` from the event `after` on. `chat` is the path of its chat, for the title."""

    _esm = _STATIC / "session.js"
    _css = _STATIC / "session.css"

    project = traitlets.Unicode().tag(sync=True)
    session = traitlets.Unicode().tag(sync=True)
    turn = traitlets.Unicode().tag(sync=True)
    after = traitlets.Int().tag(sync=True)
    chat = traitlets.Unicode().tag(sync=True)
