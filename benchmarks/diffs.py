"""What it costs a turn to know which files it has changed, in a folder of 1,000 files, small ones and large ones."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from jupyter_acp.diffs.shadow import Shadow
from jupyter_acp.diffs.tracker import ChangeTracker

from .common import Figure, scratch

FILES = 1000
TURNS = 20
SMALL, LARGE = 1_000, 100_000


async def run() -> list[Figure]:
    figures = []
    times: dict[int, float] = {}
    for size in (SMALL, LARGE):
        with scratch() as folder:
            root = folder / "project"
            for number in range(FILES):
                place = root / f"folder{number % 40}" / f"{number}.txt"
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(f"{number} some words to fill it\n" * (size // 30))
            tracker = ChangeTracker(Shadow(folder / "shadow", root))
            started = time.perf_counter()
            await tracker.prepare(".")
            first = time.perf_counter() - started
            quiet = [await _turn(tracker, f"quiet-{turn}", []) for turn in range(TURNS)]
            busy = [await _turn(tracker, f"busy-{turn}", [root / f"folder{turn}/{turn}.txt"]) for turn in range(TURNS)]
        times[size] = statistics.median(busy)
        name = f"diffs: {FILES:,} files of {size // 1000} kB"
        note = f"at most {1e3 * max(busy):.0f} ms; a turn that changes nothing {1e3 * statistics.median(quiet):.0f} ms"
        figures += [
            Figure(
                name=f"{name}: both looks and the record of a turn",
                value=1e3 * times[size],
                unit="ms",
                limit=100.0,
                note=note,
            ),
            Figure(name=f"{name}: the first look", value=1e3 * first, unit="ms"),
        ]
    ratio = times[LARGE] / times[SMALL]
    note = f"files {LARGE // SMALL} times as large"
    return [*figures, Figure(name="diffs: large files against small ones", value=ratio, unit="x", limit=1.5, note=note)]


async def _turn(tracker: ChangeTracker, name: str, changed: list[Path]) -> float:
    """Seconds that a turn takes that changes these files, and does nothing else."""
    started = time.perf_counter()
    tracker.begin(f"session/{name}", ".")
    await tracker.settle()
    looked = time.perf_counter() - started
    for path in changed:
        path.write_text(path.read_text().replace("some", "other"))
    started = time.perf_counter()
    files = await tracker.end(f"session/{name}")
    assert len(files) == len(changed)
    return looked + time.perf_counter() - started
