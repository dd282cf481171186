"""What the extension adds to the start of a server, and what JupyterLab adds."""

from __future__ import annotations

from statistics import median

from .common import Figure, Server, cpu, memory, scratch

ROUNDS = 4


async def run() -> list[Figure]:
    variants: dict[str, tuple[str, ...]] = {"bare": (), "ours": ("jupyter_acp",), "lab": ("jupyterlab",)}
    used: dict[str, list[float]] = {name: [] for name in variants}
    held: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(ROUNDS + 1):
        for name, extensions in variants.items():
            with scratch() as folder:
                async with Server(folder, extensions=extensions) as server:
                    if turn:
                        used[name].append(1e3 * cpu([server.process.pid]))
                        held[name].append(memory(server.process.pid) / 1e6)
    time, size = {n: median(v) for n, v in used.items()}, {n: median(v) for n, v in held.items()}
    note = f"server alone {time['bare']:.0f} ms, JupyterLab adds {time['lab'] - time['bare']:.0f}"
    note_size = f"server alone {size['bare']:.0f} MB, JupyterLab adds {size['lab'] - size['bare']:.1f}"
    return [
        Figure(name="loading: CPU added", value=time["ours"] - time["bare"], unit="ms", limit=150.0, note=note),
        Figure(name="loading: memory added", value=size["ours"] - size["bare"], unit="MB", limit=15.0, note=note_size),
    ]
