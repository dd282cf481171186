"""Files that a person adds to a prompt: kept inside the project, where the agent can read them, for a limited time.

They lie in `.acp/uploads/` of the project, which git ignores by a `.gitignore` of its own.
"""

from __future__ import annotations

import asyncio
import mimetypes
import os
import re
import secrets
import stat
import time
from contextlib import closing, suppress
from pathlib import Path

from .events import JsonObject
from .exceptions import BadRequest, ExecutorError, TooLarge, Unavailable
from .kernel_exec.paths import Root

FOLDER = ".acp/uploads"
_IGNORE = ".acp/.gitignore"
_UNSAFE = re.compile(r"[^\w.-]+")
_ANYTHING = "application/octet-stream"


class Uploads:
    """The uploads of one project.

    Parameters
    ----------
    root
        The project's directory.
    limit
        Bytes of one upload.
    keep
        Seconds after which an upload is removed.
    place
        The project's directory as its agents name it.
    """

    def __init__(self, root: Path, *, limit: int, keep: float, place: str | None = None) -> None:
        self._root = root
        self._place = Path(root if place is None else place)
        self._limit = limit
        self._keep = keep

    async def add(self, data: bytes, *, name: str = "", mime_type: str = "") -> JsonObject:
        """Keep `data`; returns `{uri, mime_type, size}` for a `resource_link` block of a prompt.

        BadRequest for nothing, TooLarge above the limit, Unavailable where the project cannot be written.
        """
        if not data:
            raise BadRequest("the upload is empty", "empty_upload")
        if len(data) > self._limit:
            raise TooLarge(f"{len(data)} bytes are more than an upload may have ({self._limit})")
        kind = mime_type.partition(";")[0].strip().lower()
        if kind in ("", _ANYTHING, "application/x-www-form-urlencoded"):
            kind = mimetypes.guess_type(name)[0] or _ANYTHING
        # the newest part of a long name: it has the ending by which programs know the kind
        shown = _UNSAFE.sub("-", name.replace("\\", "/").rpartition("/")[2]).lstrip(".-")[-80:] or "upload"
        if "." not in shown:
            shown += mimetypes.guess_extension(kind) or ""
        file = f"{FOLDER}/{secrets.token_hex(6)}-{shown}"
        try:
            await asyncio.to_thread(self._write, file, data)
        except (ExecutorError, OSError) as exc:
            raise Unavailable(f"the upload could not be written: {exc}", "upload_failed") from exc
        return {"uri": (self._place / file).as_uri(), "mime_type": kind, "size": len(data)}

    async def clean(self) -> None:
        """Remove what is older than `keep`."""
        await asyncio.to_thread(self._clean)

    def _write(self, file: str, data: bytes) -> None:
        with closing(Root(self._root)) as root:
            self._remove_old(root)
            with root.open_write(_IGNORE) as ignore:
                ignore.write(b"*\n")
            with root.open_write(file) as out:
                out.write(data)

    def _clean(self) -> None:
        with suppress(ExecutorError, OSError), closing(Root(self._root)) as root:
            self._remove_old(root)

    def _remove_old(self, root: Root) -> None:
        try:
            opened = root.open_directory(FOLDER)
        except ExecutorError:
            return  # nothing was ever uploaded
        oldest = time.time() - self._keep
        try:
            folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=opened)
            try:
                for name in os.listdir(folder):
                    with suppress(OSError):
                        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
                        if stat.S_ISREG(found.st_mode) and found.st_mtime < oldest:
                            os.unlink(name, dir_fd=folder)
            finally:
                os.close(folder)
        finally:
            os.close(opened)
