"""What a project may ask of a model provider, and what of its request goes on. No I/O.

A request is `METHOD /<provider>/<path>`. Its path means the same to everybody who reads it, or it is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from .http import Framing, Head, Header, request_framing
from .providers import Provider, Providers

LARGEST_BODY: Final = 64 << 20  # bytes of a request

_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_REPLACED = re.compile(r"authorization|cookie2?|x-api-key|x-goog-api-key|api-key|proxy-.*|host|accept-encoding")
_PATH = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]*)+")
_NEVER_ESCAPED = re.compile(r"[/\\%\x00-\x20\x7f]")
_KEY_IN_QUERY = re.compile(r"(?:key|api[-_]?key|access_token)(?:=.*)?", re.I | re.S)


class Refused(Exception):
    """The request goes nowhere, and the client is told why; `type` is for programs."""

    def __init__(self, status: int, type: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.type = type


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A request as it goes to its provider, without the key. Whoever sends it adds that, the host and the length."""

    provider: Provider
    method: str
    target: str
    headers: tuple[Header, ...]
    framing: Framing


def admit(head: Head, providers: Providers) -> Outgoing:
    """What is asked for, if it may be. Refused; MessageError where it is unclear where the request ends."""
    method, target, _ = head.start
    path, _, query = target.partition("?")
    if method not in _METHODS:
        raise Refused(405, "invalid_request", f"No {method} here; there is {', '.join(_METHODS)}.")
    _check_path(path)
    id, slash, rest = path[1:].partition("/")
    provider = providers.get(id)
    if provider is None:
        known = ", ".join(providers) or "none"
        raise Refused(404, "provider_not_found", f"There is no model provider '{id}' here; there is: {known}.")
    below = slash + rest
    if not provider.allows(method, below):
        raise Refused(403, "request_not_allowed", f"Projects cannot make this request to '{id}'.")
    if head.all("upgrade"):
        raise Refused(400, "invalid_request", "Plain requests only: no WebSocket, no other protocol.")
    if any(value.lower() != "100-continue" for value in head.all("expect")):
        raise Refused(417, "invalid_request", "Nothing but 100-continue can be expected.")
    framing = request_framing(head)
    if isinstance(framing, int):
        check_size(framing)
    query = "&".join(part for part in query.split("&") if not _KEY_IN_QUERY.fullmatch(unquote(part)))
    own = provider.header[0].lower()
    return Outgoing(
        provider=provider,
        method=method,
        target=(provider.base + below or "/") + (f"?{query}" if query else ""),
        headers=tuple(
            (name, value)
            for name, value in head.passed_on()
            if not _REPLACED.fullmatch(name.lower()) and name.lower() != own
        ),
        framing=framing,
    )


def check_size(size: int) -> None:
    """Refused for a body that is too large."""
    if size > LARGEST_BODY:
        raise Refused(413, "request_too_large", f"A request has {LARGEST_BODY} bytes at most.")


def _check_path(path: str) -> None:
    parts = path.split("/")[1:]
    plain = [unquote(part, "latin-1") for part in parts]
    if (
        not _PATH.fullmatch(path)
        or "" in parts[:-1]
        # what is left of `%252e` after one reader is `%2e` to the next; of what is no escape the `%` is
        or any(map(_NEVER_ESCAPED.search, plain))
        # some readers take away what follows a `;`
        or any(part.partition(";")[0] in (".", "..") for part in plain)
    ):
        raise Refused(400, "invalid_request", "A path has no empty, '.' or '..' parts here, and no slash in disguise.")
