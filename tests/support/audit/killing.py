"""Runs workers and a sequencer on one audit folder, kills them again and again, and prints what they had answered.

`python killing.py FOLDER ROUNDS SEED`; a child process each, made by fork so that a hundred kills take seconds.
"""

from __future__ import annotations

import contextlib
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

from privyseal.transparency.checkpoint import Signer
from privyseal_service.audit.journal import Journal
from privyseal_service.audit.sequencer import Sequencer
from privyseal_service.domain.replica import Source
from tests.support.audit.helpers import decision


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


class Outlet:
    """A pipe that children write lines into. No thread reads it: a process with one thread alone can fork and go on in
    the child."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        os.set_blocking(self.read_end, False)
        self.data = bytearray()

    def take(self) -> int:
        """Read what is there now; the number of lines so far."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.data += os.read(self.read_end, 1 << 16)
        return self.data.count(b"\n")


def main() -> None:
    root, rounds, chance = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))
    key = Signer.generate("audit.example.com/replica-1")
    answered, published = Outlet(), Outlet()
    for _ in range(rounds):
        children = [spawn(lambda out, name=name: worker(root, name, out), answered.write_end) for name in ("w0", "w1")]
        children.append(spawn(lambda out: sequencer(root, key.private_text(), out), published.write_end))
        # Some progress first, however slow the machine is; then a moment that nobody chose.
        answers, checkpoints = answered.take() + chance.randrange(1, 200), published.take() + chance.randrange(4)
        while answered.take() < answers or published.take() < checkpoints:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.004))
        for child in chance.sample(children, len(children)):
            kill(child)
        answered.take()
        published.take()
    print(
        json.dumps(
            {
                "key": str(key.verifier),
                "private": key.private_text(),
                "answered": answered.data.decode().split(),
                "published": [json.loads(line) for line in published.data.splitlines()],
            }
        )
    )


if __name__ == "__main__":
    main()
