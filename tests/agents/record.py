"""Stands between a client and an agent and writes down what both say: `python record.py FOLDER -- agent ...`.

Each run makes `FOLDER/<pid>.sent` (the client's lines) and `FOLDER/<pid>.said` (the agent's). Nothing is changed or
held back, and it ends as the agent ends.
"""

import os
import subprocess
import sys
import threading
from pathlib import Path


def pump(source: int, target: int, copy: Path) -> None:
    """Pass on what comes from `source` until it ends or nobody reads `target` any more."""
    with copy.open("ab", buffering=0) as record:
        while data := os.read(source, 1 << 18):
            record.write(data)
            view = memoryview(data)
            try:
                while view:
                    view = view[os.write(target, view) :]
            except BrokenPipeError:
                return
    if target != 1:
        os.close(target)


def main() -> None:
    folder, _, *command = sys.argv[1:]
    Path(folder).mkdir(parents=True, exist_ok=True)
    stem = Path(folder, str(os.getpid()))
    agent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert agent.stdin is not None and agent.stdout is not None
    threads = [
        threading.Thread(target=pump, args=(0, agent.stdin.fileno(), stem.with_suffix(".sent")), daemon=True),
        threading.Thread(target=pump, args=(agent.stdout.fileno(), 1, stem.with_suffix(".said")), daemon=True),
    ]
    for thread in threads:
        thread.start()
    code = agent.wait()
    # what it said last; a process that it left behind may keep its output open
    threads[1].join(1.0)
    if code < 0:
        os.kill(os.getpid(), -code)
    os._exit(code)


main()
