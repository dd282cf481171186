"""Differences of notebooks by cell, source and outputs apart, through nbdime.

Run as a process of its own (`python -m jupyter_acp.diffs.notebooks`): nbdime takes long for large notebooks and holds
the interpreter meanwhile, and a process can be ended. It reads a JSON list of `[before, after]`, texts or null, and
writes a list with the cells that differ, or null where one is no notebook.
"""

from __future__ import annotations

import asyncio
import difflib
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from jupyter_acp.events import JsonObject, encode

SECONDS = 20.0
_OUTPUT = 20_000  # characters of a cell's outputs that are compared as text
_EMPTY = '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'


async def cells(pairs: Sequence[tuple[str | None, str | None]]) -> list[list[JsonObject] | None]:
    """The cells that differ, for each pair of texts; None where they cannot be compared as notebooks.

    A cell is `{change, index, cell_type, id?, source?, outputs?, metadata?}`: `change` is added, removed or modified,
    `index` its place in the new notebook, or in the old one where it was removed; `source` and `outputs` are unified
    diffs without a header, present where they differ, and `metadata` is true where that does.
    """
    if not pairs:
        return []
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __name__),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(SECONDS):
            output, _ = await process.communicate(encode([list(pair) for pair in pairs]).encode())
        found: list[list[JsonObject] | None] = json.loads(output)
        return found
    except (TimeoutError, ValueError):  # too large, or nbdime is not installed
        return [None] * len(pairs)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def main() -> None:
    """See the module."""
    found: list[list[JsonObject] | None] = []
    for before, after in json.load(sys.stdin):
        try:
            found.append(list(_differing(before or _EMPTY, after or _EMPTY)))
        except Exception:  # whatever nbformat and nbdime make of what an agent wrote
            found.append(None)
    sys.stdout.write(encode(found))


def _differing(before: str, after: str) -> Iterator[JsonObject]:
    import nbformat
    from nbdime.diffing.notebooks import diff_notebooks  # type: ignore[import-untyped]

    old, new = (nbformat.reads(text, as_version=4) for text in (before, after))  # type: ignore[no-untyped-call]
    changes: list[Any] = next((op.diff for op in diff_notebooks(old, new) if op.key == "cells"), [])
    shift = 0  # of places in the new notebook against those in the old one
    for op in sorted(changes, key=lambda op: (op.key, op.op == "patch")):
        if op.op == "addrange":
            for offset, cell in enumerate(op.valuelist):
                yield {"change": "added", "index": op.key + shift + offset, **_whole(cell, "+")}
            shift += len(op.valuelist)
        elif op.op == "removerange":
            for place in range(op.key, op.key + op.length):
                yield {"change": "removed", "index": place, **_whole(old.cells[place], "-")}
            shift -= op.length
        else:
            cell, other = old.cells[op.key], new.cells[op.key + shift]
            touched = {part.key for part in op.diff}
            data: JsonObject = {"change": "modified", "index": op.key + shift, **_about(other)}
            if "source" in touched:
                data["source"] = _unified(cell.source, other.source)
            if "outputs" in touched:
                data["outputs"] = _unified(_shown(cell), _shown(other))
            if touched & {"metadata", "cell_type", "attachments"}:
                data["metadata"] = True
            if len(data.keys() & {"source", "outputs", "metadata"}) > 0:  # a new execution count alone is nothing
                yield data


def _about(cell: Any) -> JsonObject:
    return {"cell_type": cell.cell_type, **({"id": cell.id} if "id" in cell else {})}


def _whole(cell: Any, sign: str) -> JsonObject:
    data = {**_about(cell), "source": _signed(cell.source, sign)}
    return {**data, "outputs": _signed(_shown(cell), sign)} if cell.get("outputs") else data


def _signed(text: str, sign: str) -> str:
    return "".join(f"{sign}{line}\n" for line in text.splitlines())


def _unified(before: str, after: str) -> str:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="")
    return "".join(f"{line}\n" for line in list(lines)[2:])


def _shown(cell: Any) -> str:
    """The outputs as text: what is no text is named only."""
    parts = []
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            parts.append(output.text)
        elif output.output_type == "error":
            parts.append(f"{output.ename}: {output.evalue}")
        else:
            data = output.get("data", {})
            others = [f"[{kind}, {len(str(value))} characters]" for kind, value in data.items() if kind != "text/plain"]
            parts += [data.get("text/plain", ""), *others]
    return "\n".join(part for part in parts if part)[:_OUTPUT]


if __name__ == "__main__":
    main()
