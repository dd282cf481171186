"""Which model providers projects reach through the egress proxy: the bundled ones, then the trait `model_providers`.

Only a provider with a key file is offered: without a key there is nothing to add on the way.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from ..events import JsonObject
from ..exceptions import KeyUnusable
from ..keyfiles import read_key

BUNDLED: Final = Path(__file__).with_name("providers.json")

_FIELDS = ("url", "key_file", "header", "requests")
_ID = re.compile(r"[a-z0-9][a-z0-9_-]*")
_HEADER = re.compile(r"([A-Za-z0-9-]+): ([ -~]*\{key\}[ -~]*)")
_REQUEST = re.compile(r"(GET|HEAD|POST|PUT|PATCH|DELETE) (/[A-Za-z0-9._~*:-]+)+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """One provider of models.

    `base` is the path that every request's path is put behind. `header` has the key where it says `{key}`. `requests`
    are those that a project may make, `METHOD /path` below the base, `*` standing for all but a slash; none: all.
    """

    id: str
    secure: bool
    host: str
    port: int
    base: str
    key_file: Path
    header: tuple[str, str]
    requests: tuple[str, ...] = ()

    @property
    def authority(self) -> str:
        """As a `Host` header names it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"

    def allows(self, method: str, path: str) -> bool:
        """Whether a project may make this request; `path` is below the base."""
        patterns = (re.escape(request).replace(r"\*", "[^/]+") for request in self.requests)
        asked = f"{method} {path}"
        return not self.requests or any(re.fullmatch(pattern, asked) for pattern in patterns)

    def credential(self, project: Path) -> tuple[str, str]:
        """The header with the key, read now. KeyUnusable."""
        key = read_key(self.key_file, self.id, project)
        if not key.isascii():
            raise KeyUnusable(f"{self.key_file}: a key for {self.id} that goes into a header is ASCII")
        name, value = self.header
        return name, value.replace("{key}", key)


class Providers(Mapping[str, Provider]):
    """The offered providers by id.

    `configured` is the part of the configuration that is in force, such that another process loads the same from it;
    `problems` says, one sentence each, what is wrong with the rest.
    """

    def __init__(self, providers: Mapping[str, Provider], configured: Mapping[str, Any], problems: list[str]) -> None:
        self._providers = dict(providers)
        self.configured = dict(configured)
        self.problems = problems

    @classmethod
    def load(cls, configured: Mapping[str, Any]) -> Providers:
        """Merge what is configured over what is bundled, field by field."""
        bundled: Mapping[str, JsonObject] = json.loads(BUNDLED.read_bytes())
        merged: dict[str, JsonObject] = {id: dict(entry) for id, entry in bundled.items()}
        problems = []
        in_force: dict[str, JsonObject] = {}
        for id, entry in configured.items():
            problem = _problem(id, entry)
            if problem is not None:
                problems.append(f"model_providers: {id!r}: {problem}")
            elif isinstance(entry, Mapping):
                in_force[id] = _portable(entry)
                merged[id] = {**merged.get(id, {}), **in_force[id]}
        providers = {}
        for id, fields in merged.items():
            if "key_file" not in fields:
                if id not in bundled:
                    problems.append(f"model_providers: {id!r}: it has no key_file, so it is not offered")
            elif "url" not in fields:
                problems.append(f"model_providers: {id!r}: it has no url")
            else:
                providers[id] = _provider(id, fields)
        return cls(providers, in_force, problems)

    def __getitem__(self, id: str) -> Provider:
        return self._providers[id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._providers)

    def __len__(self) -> int:
        return len(self._providers)


def _problem(id: object, entry: object) -> str | None:
    """What is wrong with an entry, or None."""
    if not isinstance(id, str) or not _ID.fullmatch(id):
        return "an id consists of a-z, 0-9 and _ -"
    if not isinstance(entry, Mapping):
        return "not an object"
    unknown = sorted(str(key) for key in entry if key not in _FIELDS)
    if unknown:
        return f"unknown {', '.join(unknown)}; known are {', '.join(_FIELDS)}"
    if "url" in entry and _base(entry["url"]) is None:
        return "url is http(s)://host[:port][/path], nothing else"
    if "key_file" in entry and not (isinstance(entry["key_file"], str) and entry["key_file"]):
        return "key_file is a path"
    header = entry.get("header", "a: {key}")
    if not isinstance(header, str) or not _HEADER.fullmatch(header):
        return "header is `Name: value` with {key} in the value"
    requests = entry.get("requests", [])
    if not isinstance(requests, list | tuple) or not all(map(_REQUEST.fullmatch, map(str, requests))):
        return "requests is a list of `METHOD /path`, in which * stands for all but a slash"
    return None


def _portable(entry: Mapping[str, Any]) -> JsonObject:
    """A sound entry in JSON, and such that it means the same in another working directory and to another HOME."""
    fields = dict(entry)
    if "key_file" in fields:
        fields["key_file"] = os.path.abspath(os.path.expanduser(fields["key_file"]))
    if "requests" in fields:
        fields["requests"] = [str(request) for request in fields["requests"]]
    return fields


def _base(url: object) -> tuple[bool, str, int, str] | None:
    """Whether it is https, host, port and path of a base URL; None for what is none."""
    try:
        parts = urlsplit(url if isinstance(url, str) else "")
        port = parts.port
    except ValueError:
        return None
    path = parts.path.rstrip("/")
    more = parts.query or parts.fragment or "@" in parts.netloc or not parts.netloc.isascii()
    if parts.scheme not in ("http", "https") or not parts.hostname or more:
        return None
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)*", path) or re.search(r"/\.{1,2}(/|$)", path):
        return None
    secure = parts.scheme == "https"
    return secure, parts.hostname, port or (443 if secure else 80), path


def _provider(id: str, fields: JsonObject) -> Provider:
    base = _base(fields["url"])
    header = _HEADER.fullmatch(fields.get("header", "Authorization: Bearer {key}"))
    assert base is not None and header is not None
    secure, host, port, path = base
    return Provider(
        id=id,
        secure=secure,
        host=host,
        port=port,
        base=path,
        key_file=Path(fields["key_file"]),
        header=(header[1], header[2]),
        requests=tuple(fields.get("requests", ())),
    )
