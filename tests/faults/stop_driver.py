"""Stops builds at many moments, as a scheduler does, and prints how each ended as one JSON list.

Usage: stop_driver.py FOLDER SOURCE MOMENTS WORKERS WARM SIGNAL. Every build has a fresh store in
FOLDER and runs in a fork of this process, with whose start the waiting is done; WARM "1" spares it
the imports too, so that the moments lie in the work. SIGINT goes to the workers too, as that of a
terminal does.
"""

import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from viewstore.cli import main as cli

LATE = 1.1  # of the time of an undisturbed build: the last moments come after its end
LAZY = ("viewstore.cli.build", "viewstore.build.run", "viewstore.generators", "cv2")


def start(store: Path, source: str, workers: str) -> int:
    """Run the command in a fork of this process up to the very end of the interpreter."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        said = os.open(f"{store}.stderr", os.O_WRONLY | os.O_CREAT)
        os.dup2(said, 1)
        os.dup2(said, 2)
        sys.argv = [
            *("viewstore", "build", "--generator", "simclr", "--views", "2", "--size", "16"),
            *("--source", source, "--out", str(store), "--shard-rows", "4", "-j", workers),
        ]
        cli.main()
    return child


def listens(child: int) -> bool:
    """Whether a process has begun to listen to SIGTERM, or is gone."""
    status = Path(f"/proc/{child}/status").read_text()
    mask = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")]
    return not mask or bool(int(mask[0], 16) >> (signal.SIGTERM - 1) & 1) or "Z (zombie)" in status


def stop_after(child: int, seconds: float, number: signal.Signals) -> None:
    while not listens(child):
        time.sleep(0.0005)
    time.sleep(seconds)
    send = os.killpg if number == signal.SIGINT else os.kill
    send(child, number)


def ended(child: int, store: Path) -> dict[str, Any]:
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {"store": str(store), "code": code, "said": Path(f"{store}.stderr").read_text()}


def main() -> None:
    folder, source, moments, workers, warm, number = sys.argv[1:]
    if warm == "1":
        for name in LAZY:
            importlib.import_module(name)
    started = time.monotonic()
    ends = [ended(start(Path(folder, "whole"), source, workers), Path(folder, "whole"))]
    seconds = time.monotonic() - started
    for moment in range(int(moments)):
        store = Path(folder, str(moment))
        child = start(store, source, workers)
        stop_after(child, LATE * seconds * moment / int(moments), signal.Signals[number])
        ends.append(ended(child, store))
    print(json.dumps(ends))


if __name__ == "__main__":
    main()
