"""`python -m benchmarks.probe PORT TOKEN`: asks the server for status, files and kernels until stdin ends.

A process of its own, so that what it measures is the server's delay and not its client's. Prints the delays in seconds.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import sys
import time

PATHS = ("/api/status", "/api/contents", "/api/kernels")


def main(port: int, token: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    delays: list[float] = []
    for turn in range(1_000_000):
        begun = time.monotonic()
        connection.request("GET", PATHS[turn % len(PATHS)], headers={"Authorization": f"token {token}"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
        delays.append(time.monotonic() - begun)
        if turn == len(PATHS):
            print("ready", flush=True)
        if select.select([0], [], [], 0.01)[0]:
            break
    os.write(1, json.dumps(delays[len(PATHS) :]).encode())


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
