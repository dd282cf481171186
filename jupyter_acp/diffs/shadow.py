"""A git repository of ours beside the coordinator's database, whose work tree is the project. Owns git.

The project's own repository, where it has one, is neither read nor written. Git brings what this needs: an index that
tells changed files without reading the others, `.gitignore`, contents kept once and compressed, renames, unified diffs.
Nothing in the project can make it run anything: hooks, filters, attributes and configuration are ours.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from jupyter_acp.events import JsonObject
from jupyter_acp.exceptions import AcpError, ExecutorError
from jupyter_acp.kernel_exec.paths import Root

_SETTINGS = {
    "core.bare": "false",
    "core.compression": "1",
    "core.fsync": "none",  # what a power cut takes is a diff, not a file of the project
    "core.autocrlf": "false",
    "core.fileMode": "true",
    "core.symlinks": "true",
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.quotePath": "false",
    "core.protectNTFS": "false",  # any name that a file here can have
    "core.protectHFS": "false",
    "core.excludesFile": "/dev/null",
    "gc.auto": "0",
    "user.name": "jupyter_acp",
    "user.email": "jupyter_acp@localhost",
}
#: of highest precedence: contents are kept byte for byte whatever the project's .gitattributes say
_ATTRIBUTES = "* -text -ident -filter -working-tree-encoding\n"
#: conversations, uploads and Jupyter's own copies are no work of a turn
_EXCLUDED = "*.chat\n.*.chat.acp.json\n/.acp/\n.ipynb_checkpoints/\n*.acp-tmp\n"
_ARGUMENTS = 64 << 10  # bytes of paths in one argv
_NESTED = 8


class GitFailed(AcpError):
    """Git is missing, took too long, or refused; the message is for a person."""


class Entry(NamedTuple):
    """A file as git names it: `mode` (100644, 100755, 120000 a link) and the id of its contents."""

    mode: str
    blob: str


Entries = Mapping[str, Entry | None]
"""Files by path from the root; None where there is none."""


class Shadow:
    """Parameters

    ----------
    folder
        Where the repository is; made when it is missing.
    root
        The project.
    timeout
        Seconds that one call of git may take.
    confine
        What git is run in, where others than this account can put links into the project: git looks at a file, and then
        opens it. From the argv to the argv; nothing but `root` and `folder` may be there.
    """

    def __init__(
        self,
        folder: Path,
        root: Path,
        *,
        timeout: float = 10.0,
        confine: Callable[[list[str]], list[str]] = lambda argv: argv,
    ) -> None:
        self._confine = confine
        self.folder = folder
        self.root = root
        self._timeout = timeout
        self._git = shutil.which("git")
        # when the index was written that no file is read again for
        self._trusted = 0.0
        self._environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "LC_ALL": "C",
            "GIT_DIR": str(folder),
            "GIT_WORK_TREE": str(root),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_LITERAL_PATHSPECS": "1",
            "GIT_TERMINAL_PROMPT": "0",
        }

    async def open(self) -> dict[str, Entry]:
        """Make the repository where there is none; what it knows of every file."""
        if not self.is_made():
            await asyncio.to_thread(self.folder.mkdir, 0o700, True, True)
            await self._run("init", "-q", "--template=")
            await asyncio.to_thread(self._configure)
        with suppress(FileNotFoundError):
            (self.folder / "index.lock").unlink()  # of a git that was killed; nobody else writes here
        return await self.entries()

    def is_made(self) -> bool:
        """Whether there is a repository."""
        return (self.folder / "acp-ready").exists()

    def _configure(self) -> None:
        (self.folder / "info").mkdir(exist_ok=True)
        (self.folder / "info" / "attributes").write_text(_ATTRIBUTES)
        (self.folder / "info" / "exclude").write_text(_EXCLUDED)
        lines = [f"[{key.split('.')[0]}]\n\t{key.split('.')[1]} = {value}\n" for key, value in _SETTINGS.items()]
        (self.folder / "config").write_text("".join(lines))
        (self.folder / "acp-ready").touch()

    # --- the work tree -----------------------------------------------------------------------------------------------

    async def changed(self, scopes: Iterable[str]) -> list[str]:
        """The files beneath `scopes` that differ from the index, new and gone ones included, ignored ones left out."""
        await self._trust_index()
        listing = ("ls-files", "-z", "-m", "-d", "-o", "--exclude-standard")
        found = _paths(await self._run(*listing, "--", *scopes))
        paths = [path for path in found if not path.endswith("/")]
        nested = [path for path in found if path.endswith("/")]
        for _ in range(_NESTED):  # repositories inside the project; git names only their folder
            inner: list[str] = []
            for folder in nested:
                for path in await self._inside(folder):
                    (inner if path.endswith("/") else paths).append(folder + path)
            nested = inner
        return sorted(set(paths))

    async def _trust_index(self) -> None:
        """Have git write its index again, once, in a later second than the last time.

        At each look it reads all files anew that were changed in the second in which the index was written: they could
        have been changed again with the same time.
        """
        try:
            written = (self.folder / "index").stat().st_mtime
        except FileNotFoundError:
            return
        if written != self._trusted and time.time() >= int(written) + 1:
            await self._run("update-index", "--force-write-index")
            self._trusted = (self.folder / "index").stat().st_mtime

    async def _inside(self, folder: str) -> list[str]:
        """All files of a repository in the project, by its own `.gitignore`."""
        extra = {"GIT_WORK_TREE": str(self.root / folder), "GIT_INDEX_FILE": str(self.folder / "empty-index")}
        return _paths(await self._run("ls-files", "-z", "-o", "--exclude-standard", extra=extra))

    async def entries(self, paths: Sequence[str] | None = None) -> dict[str, Entry]:
        """What the index has, of all files or of these."""
        if paths is not None and sum(len(path) + 1 for path in paths) < _ARGUMENTS:
            return _listed(await self._run("ls-files", "-z", "-s", "--", *paths)) if paths else {}
        found = _listed(await self._run("ls-files", "-z", "-s"))
        return found if paths is None else {path: found[path] for path in paths if path in found}

    async def take(self, paths: Iterable[str]) -> None:
        """Bring the index up to what is there now, and keep the contents."""
        if data := _joined(paths):
            await self._run("update-index", "-z", "--add", "--remove", "--stdin", input=data)

    async def now(self, paths: Iterable[str]) -> dict[str, Entry | None]:
        """What is there now, without keeping it."""
        return await asyncio.to_thread(self._now, list(paths))

    def _now(self, paths: Iterable[str]) -> dict[str, Entry | None]:
        with closing(Root(self.root)) as root:
            return {path: _present(root, path) for path in paths}

    # --- contents ----------------------------------------------------------------------------------------------------

    async def keep(self, data: bytes) -> str:
        """Keep contents; their id."""
        return (await self._run("hash-object", "-w", "--stdin", "--no-filters", input=data)).decode().strip()

    async def contents(self, blob: str) -> bytes:
        """Contents by id. GitFailed where they are not kept."""
        return await self._run("cat-file", "blob", blob)

    # --- records -----------------------------------------------------------------------------------------------------

    async def record(self, name: str, before: Entries, after: Entries, note: JsonObject) -> None:
        """Keep two states of some files as `name`, and a note with them."""
        ref = f"refs/acp/{name}"
        lines = [*_commit(ref, "before", before, "mark :1"), *_commit(ref, json.dumps(note), after, "from :1")]
        # a name that is there already is replaced: the end of a turn that was interrupted by a crash comes again
        await self._run("fast-import", "--quiet", "--force", input=b"\n".join(lines) + b"\n")

    async def note(self, name: str) -> JsonObject | None:
        """The note of a record; None where there is no such record."""
        try:
            text = await self._run("log", "-1", "--format=%B", f"refs/acp/{name}", "--")
        except GitFailed:
            return None
        found: JsonObject = json.loads(text)
        return found

    async def states(self, name: str) -> tuple[dict[str, Entry], dict[str, Entry]]:
        """The two states of a record."""
        before, after = [
            _listed(await self._run("ls-tree", "-r", "-z", "--full-tree", f"refs/acp/{name}{which}"))
            for which in ("^", "")
        ]
        return before, after

    async def difference(self, name: str, *options: str) -> bytes:
        """`git diff-tree` between the two states of a record, renames found."""
        fixed = ("diff-tree", "-r", "-M", "--full-index", "--no-ext-diff", "--no-textconv", "--no-color")
        return await self._run(*fixed, *options, f"refs/acp/{name}^", f"refs/acp/{name}")

    async def records(self, prefix: str = "") -> dict[str, float]:
        """The names of all records, and when each was made (seconds since the epoch)."""
        if not self.is_made():
            return {}
        listing = await self._run(
            "for-each-ref", "--format=%(refname) %(committerdate:unix)", f"refs/acp/{prefix}" if prefix else "refs/acp"
        )
        found = (line.split() for line in listing.decode().splitlines())
        return {name.removeprefix("refs/acp/"): float(when) for name, when in found}

    async def forget(self, names: Iterable[str], *, clean: bool) -> None:
        """Remove records, and with `clean` all contents that neither the index nor a record needs."""
        if lines := "".join(f"delete refs/acp/{name}\n" for name in names):
            await self._run("update-ref", "--stdin", input=lines.encode())
        if clean:
            await self._run("gc", "--quiet", "--prune=now", timeout=600.0)

    async def pack(self) -> None:
        """Put many small files of the repository together, where there are many."""
        if self.is_made():
            await self._run("-c", "gc.auto=2000", "-c", "gc.autoDetach=false", "gc", "--auto", "--quiet", timeout=600.0)

    async def _run(
        self, *arguments: str, input: bytes = b"", extra: Mapping[str, str] | None = None, timeout: float | None = None
    ) -> bytes:
        if self._git is None:
            raise GitFailed("git is not installed, so changes of files are not compared")
        try:
            process = await asyncio.create_subprocess_exec(
                *self._confine([self._git, *arguments]),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                cwd=self.root,
                env={**self._environment, **(extra or {})},
                start_new_session=True,
            )
        except OSError as exc:
            raise GitFailed(f"git cannot start: {exc}") from exc
        try:
            async with asyncio.timeout(timeout or self._timeout):
                output, errors = await process.communicate(input)
        except TimeoutError as exc:
            raise GitFailed(f"git {arguments[0]} took more than {timeout or self._timeout:.0f} s") from exc
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise GitFailed(f"git {arguments[0]}: {errors.decode(errors='replace').strip()[:500]}")
        return output


def _paths(listing: bytes) -> list[str]:
    return [os.fsdecode(path) for path in listing.split(b"\0") if path]


def _joined(paths: Iterable[str]) -> bytes:
    return b"".join(os.fsencode(path) + b"\0" for path in paths)


def _listed(listing: bytes) -> dict[str, Entry]:
    """`ls-files -s` and `ls-tree`: the mode is first, and the id the last but of stage."""
    found: dict[str, Entry] = {}
    for line in listing.split(b"\0"):
        if line:
            facts, path = line.split(b"\t", 1)
            words = facts.decode().split()
            blob = words[2] if words[1] == "blob" else words[1]
            found[os.fsdecode(path)] = Entry(words[0], blob)
    return found


def _commit(ref: str, message: str, entries: Entries, relation: str) -> list[bytes]:
    """A commit of just these files, for fast-import."""
    text = message.encode()
    mark, parent = (relation, "") if relation.startswith("mark") else ("", relation)
    head = [f"commit {ref}", mark, f"committer jupyter_acp <jupyter_acp@localhost> {int(time.time())} +0000"]
    lines = [line.encode() for line in head if line]
    lines += [b"data %d" % len(text), text, *([parent.encode()] if parent else []), b"deleteall"]
    for path, entry in entries.items():
        if entry is not None:
            lines.append(f"M {entry.mode} {entry.blob} ".encode() + _quoted(path))
    return lines


def _quoted(path: str) -> bytes:
    """As git's C-style quoting wants it."""
    inside = os.fsencode(path).replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n")
    return b'"' + inside + b'"'


def blob_id(data: bytes) -> str:
    """The id that git gives to these contents."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _present(root: Root, path: str) -> Entry | None:
    try:
        if (target := root.link(path)) is not None:
            return Entry("120000", blob_id(os.fsencode(target)))
        with root.open_read(path) as file:
            mode = os.fstat(file.fileno()).st_mode
            return Entry("100755" if mode & 0o100 else "100644", blob_id(file.read()))
    except ExecutorError:  # nothing, or no file
        return None
