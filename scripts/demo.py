"""The main job, from nothing: seal examples/app with a key inside a SoftHSM token, and open it as a device would.

It uses the two programs as their users do. All that it makes is under .demo/.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
import sys
import time
import zipfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import demo_service
from demo_service import CHECKOUT, DEMO, KEY_NAME, DemoError, program, run

if TYPE_CHECKING:
    from collections.abc import Iterator

APP = CHECKOUT / "examples" / "app"
ZIP, SEALED, ANSWER, PUBLIC = (
    DEMO / name for name in ("app.zip", "app.zip_encrypted.zip", "sealed.json", "public.pem")
)
OPENED = DEMO / "opened.zip"


@dataclass
class Steps:
    """Prints each step with its time, and what came of it."""

    started: float = field(default_factory=time.monotonic)

    @contextmanager
    def step(self, what: str, *commands: str) -> Iterator[list[str]]:
        """Time the block; the lines put into the list are shown beneath, after the commands that were run."""
        print(f"  {what:<58}", end="", flush=True)
        outcome: list[str] = []
        begun = time.monotonic()
        try:
            yield outcome
        except BaseException:
            print("failed", flush=True)
            raise
        print(f"{time.monotonic() - begun:6.2f} s")
        for command in commands:
            print(f"      $ {command}")
        for line in outcome:
            print(f"        {line}")
        sys.stdout.flush()


def make_house(steps: Steps) -> None:
    """The token, the certificates, the configuration and the key."""
    demo_service.clear()
    with steps.step("make a SoftHSM token"):
        demo_service.make_token()
    with steps.step("make a development CA, a server and a client certificate"):
        demo_service.make_certificates()
    with steps.step("write the service's configuration, make its audit key") as outcome:
        demo_service.write_configuration()
        demo_service.make_audit_key()
        outcome.append(inside(demo_service.CONFIG))
    told = f"privyseal-server key create --config {inside(demo_service.CONFIG)} {KEY_NAME}"
    with steps.step("make an RSA-2048 key inside the token", told) as outcome:
        outcome.extend(demo_service.make_key().splitlines())
    demo_service.COMPLETE.touch()


def zip_app() -> tuple[int, int]:
    """Zip the app, the same bytes at each run; the number of files and their size in bytes."""
    files = sorted(path for path in APP.rglob("*") if path.is_file())
    with zipfile.ZipFile(ZIP, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            entry = zipfile.ZipInfo(path.relative_to(APP).as_posix())
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes())
    return len(files), sum(path.stat().st_size for path in files)


def seal(steps: Steps, address: str) -> None:
    """What a build job does."""
    environment = demo_service.client_environment(address)
    seal_it = ["bundle", "encrypt", ZIP.name, "--format", "capgo-v3", "--json"]
    with steps.step(
        "seal it: AES here, two RSA operations in the token", command_line("privyseal", seal_it)
    ) as outcome:
        ANSWER.write_text(run(program("privyseal"), *seal_it, environment=client_side(environment)).stdout)
        answer = json.loads(ANSWER.read_text())
        outcome.extend(f"{name} {shortened(value)}" for name, value in answer.items())


def open_again(steps: Steps) -> None:
    """What a device does: it has the public key and what the update server sent, and no way to the service."""
    shutil.copyfile(demo_service.PUBLIC, PUBLIC)
    answer = json.loads(ANSWER.read_text())
    OPENED.unlink(missing_ok=True)
    opening = ["bundle", "decrypt", SEALED.name, answer["ivSessionKey"], "--public-key", PUBLIC.name]
    rest = ["--checksum", answer["checksum"], "--output", OPENED.name]
    told = f"privyseal bundle decrypt {SEALED.name} … --public-key {PUBLIC.name} --checksum … --output {OPENED.name}"
    with steps.step("open it with the public key alone", told) as outcome:
        run(program("privyseal"), *opening, *rest, environment=client_side({}))
        if OPENED.read_bytes() != ZIP.read_bytes():
            raise DemoError(f"{OPENED} is not {ZIP}")
        outcome.append(f"{OPENED.name} has the bytes of {ZIP.name}")
    OPENED.unlink()


def client_side(settings: dict[str, str]) -> dict[str, str]:
    """The environment of a build machine or a device: nothing of the token, and `settings`."""
    kept = demo_service.service_environment()
    del kept["SOFTHSM2_CONF"]
    return {**kept, **settings}


def inside(path: Path) -> str:
    """A path as a person in .demo/ would type it."""
    return str(path.relative_to(DEMO))


def shortened(value: str) -> str:
    """A long value's beginning."""
    return value if len(value) <= 48 else f"{value[:40]}… ({len(value)} characters)"


def command_line(name: str, arguments: list[str]) -> str:
    """A command as one would type it."""
    return shlex.join([name, *arguments])


def demo(locks: ExitStack, steps: Steps) -> None:
    """All steps. Without a running `make serve` everything is made anew; with one, its token is used."""
    try:
        house = locks.enter_context(demo_service.lock("house.lock", fcntl.LOCK_EX | fcntl.LOCK_NB))
    except BlockingIOError:
        locks.enter_context(demo_service.lock("house.lock", fcntl.LOCK_SH))
        print("  make serve is running: its token, certificates and key are used")
    else:
        make_house(steps)
        fcntl.flock(house, fcntl.LOCK_SH)
    with ExitStack() as running:
        with steps.step(
            "start privyseal-server", f"privyseal-server serve --config {inside(demo_service.CONFIG)}"
        ) as outcome:
            service = running.enter_context(demo_service.service("demo.log"))
            outcome.append(f"mutual TLS on {service.address}")
        with steps.step("zip examples/app") as outcome:
            files, size = zip_app()
            outcome.append(f"{files} files, {size / 2**20:.1f} MiB, zipped {ZIP.stat().st_size / 2**20:.1f} MiB")
        seal(steps, service.address)
        with steps.step("stop privyseal-server"):
            code = demo_service.stop(service.process)
            if code != 0:
                raise DemoError(f"privyseal-server ended with exit code {code}; see {service.log}")
    open_again(steps)
    print(f"\nDone in {time.monotonic() - steps.started:.1f} s. Left in {DEMO.name}/:")
    for path, what in (
        (ZIP, "the app"),
        (SEALED, "the sealed app, as it goes to the update server"),
        (ANSWER, "what goes with it: checksum and session key, made with the key in the token"),
        (PUBLIC, "the public key, as Capgo's configuration wants it"),
    ):
        print(f"  {path.name:<22} {path.stat().st_size:>9,} bytes  {what}")
    print("\nTo seal by hand: `make serve`, and its exports in another shell.")


def run_demo() -> None:
    """Run the demo alone in this checkout."""
    print(f"Seal an app bundle with a key that never leaves its token. Commands are run in {DEMO.name}/.\n", flush=True)
    with ExitStack() as locks:
        waiting = "waiting for another `make demo` in this checkout"
        locks.enter_context(demo_service.lock("demo.lock", fcntl.LOCK_EX, waiting))
        demo(locks, Steps())


def main() -> int:
    """Run the demo; 1 when a step failed, 130 when it was interrupted."""
    interruption = demo_service.Interruption()
    try:
        run_demo()
    except BrokenPipeError:
        # Whoever read the output has gone, as `head` does; nothing is left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except BaseException as error:
        # An interruption may surface as another error: of a program that it ended, of a file left half-written.
        if interruption.came:
            print("demo: stopped", file=sys.stderr)
            return 130
        if isinstance(error, DemoError):
            print(f"demo: {error}", file=sys.stderr)
            return 1
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
