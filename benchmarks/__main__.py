"""`python -m benchmarks [names...] [--json FILE]`: run the measurements and print a table. Linux only."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path

from .common import Figure

NAMES = (
    "stream",
    "first",
    "long_chat",
    "crowd",
    "stop",
    "output",
    "delegated",
    "executors",
    "containers",
    "loading",
    "retention",
    "reattach",
    "diffs",
)


def machine() -> str:
    """The machine, in one line."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = models[0].split(":")[1].strip() if models else platform.machine()
    return (
        f"{os.cpu_count()} cores ({model}), {memory:.0f} GB, Python {platform.python_version()}, "
        f"{time.strftime('%Y-%m-%d %H:%M')}, load before {os.getloadavg()[0]:.2f}"
    )


def row(figure: Figure) -> str:
    """One line of the table, in Markdown."""
    limit = "" if figure.limit is None else f"≤ {figure.limit:g} {figure.unit}"
    reached = {None: "", True: "yes", False: "**no**"}[figure.reached]
    return f"| {figure.name} | {limit} | {figure.value:.2f} {figure.unit} | {reached} | {figure.note} |"


def main() -> None:
    """Exit status 0 however the figures come out: a miss is a finding, not a fault. 1 where a measurement broke."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"which: {', '.join(NAMES)}; all without")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    args = parser.parse_args()
    if unknown := set(args.names) - set(NAMES):
        parser.error(f"no such measurement: {', '.join(sorted(unknown))}")
    where = machine()
    print(where, "", "| Figure | Limit | Measured | Reached | |", "|---|---|---|---|---|", sep="\n", flush=True)
    figures: list[Figure] = []
    broken = []
    for name in args.names or NAMES:
        try:
            found = asyncio.run(asyncio.wait_for(importlib.import_module(f"benchmarks.{name}").run(), 600))
        except Exception as exc:  # the others are still worth running
            print(f"{name} broke: {exc!r}", file=sys.stderr)
            broken.append(name)
            continue
        figures += found
        print(*map(row, found), sep="\n", flush=True)
    if args.json is not None:
        values = [{**asdict(figure), "reached": figure.reached} for figure in figures]
        args.json.write_text(json.dumps({"machine": where, "figures": values, "broken": broken}, indent=2) + "\n")
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
