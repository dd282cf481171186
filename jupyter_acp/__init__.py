"""Where Jupyter finds this package: server extension, lab extension, IPython extension. Imports none of them itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__version__ = "0.1.0"


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    from jupyter_acp.app import AcpExtension

    return [{"module": "jupyter_acp.app", "app": AcpExtension}]


def _jupyter_labextension_paths() -> list[dict[str, str]]:
    return [{"src": "labextension", "dest": "jupyter-acp"}]


def load_ipython_extension(ipython: InteractiveShell) -> None:
    """Register `%acp` and `%%acp`; IPython calls this for `%load_ext jupyter_acp`."""
    # a server needs no IPython, and a kernel none of the server's side
    from jupyter_acp.magics import load_ipython_extension as load

    load(ipython)
