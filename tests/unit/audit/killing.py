"""Runs workers and a sequencer on one audit folder, kills them again and again, and prints what they had answered.

`python killing.py FOLDER ROUNDS SEED`; a child process each, made by fork so that a hundred kills take seconds.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from privyseal_service.audit.checkpoint import Signer
from privyseal_service.audit.record import Source
from privyseal_service.audit.segments import Journal
from privyseal_service.audit.sequencer import Sequencer
from tests.unit.audit.helpers import decision


def worker(root: Path, name: str, answers: int) -> None:
    """Answer calls of two threads as fast as the disk allows: a leaf hash a line, each in one write."""
    journal = Journal(root, Source("replica-1", name), rotate_bytes=200_000)

    def answer() -> None:
        number = 0
        while True:
            number += 1
            for written in journal.append([decision(number), decision(number + 1)]):
                os.write(answers, written.leaf_hash.hex().encode() + b"\n")

    threads = [threading.Thread(target=answer) for _ in range(2)]
    for thread in threads:
        thread.start()
    threads[0].join()


def sequencer(root: Path, key: str, checkpoints: int) -> None:
    """Merge without a rest, and tell of every checkpoint."""
    one = Sequencer(
        root, Signer.parse(key), publish=lambda note: os.write(checkpoints, json.dumps(note.decode()).encode() + b"\n")
    )
    one.run(threading.Event(), interval_s=0.001)


def spawn(target: Callable[[int], None], descriptor: int) -> int:
    child = os.fork()
    if child == 0:
        try:
            target(descriptor)
        finally:
            os._exit(70)  # it ends by being killed, never by itself
    return child


def kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        sys.exit(f"a child ended by itself: status {status}")


def main() -> None:
    root, rounds, chance = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))
    key = Signer.generate("audit.example.com/replica-1")
    answered, published = bytearray(), bytearray()
    pipes = [os.pipe(), os.pipe()]
    # No reading threads: a process with one thread alone can fork and go on in the child.
    for pipe in pipes:
        os.set_blocking(pipe[0], False)
    for _ in range(rounds):
        children = [spawn(lambda out, name=name: worker(root, name, out), pipes[0][1]) for name in ("w0", "w1")]
        children.append(spawn(lambda out: sequencer(root, key.private_text(), out), pipes[1][1]))
        end = time.monotonic() + chance.uniform(0.01, 0.06)
        while time.monotonic() < end:
            for pipe, into in zip(pipes, (answered, published), strict=True):
                take(pipe[0], into)
            time.sleep(0.002)
        for child in chance.sample(children, len(children)):
            kill(child)
        for pipe, into in zip(pipes, (answered, published), strict=True):
            take(pipe[0], into)
    print(
        json.dumps(
            {
                "key": str(key.verifier),
                "private": key.private_text(),
                "answered": answered.decode().split(),
                "published": [json.loads(line) for line in published.splitlines()],
            }
        )
    )


def take(descriptor: int, into: bytearray) -> None:
    """What is in a pipe now."""
    while True:
        try:
            chunk = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            return
        into += chunk


if __name__ == "__main__":
    main()
