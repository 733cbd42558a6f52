"""Keep the demo's service in the foreground, and print the exports that make `privyseal` in another shell just work."""

from __future__ import annotations

import fcntl
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path

import demo_service
from demo_service import CHECKOUT, DemoError


def prepare(locks: ExitStack) -> None:
    """Make what is missing, and hold it against a `make demo` that would make it anew."""
    try:
        house = locks.enter_context(demo_service.lock("house.lock", fcntl.LOCK_EX | fcntl.LOCK_NB))
    except BlockingIOError:
        locks.enter_context(demo_service.lock("house.lock", fcntl.LOCK_SH, "serve: waiting for `make demo`"))
        return
    if demo_service.is_complete():
        demo_service.refresh()
    else:
        demo_service.make_all()
    fcntl.flock(house, fcntl.LOCK_SH)


def serve() -> int:
    """Serve for as long as the service runs; its exit code, 1 when it could not start."""
    try:
        with ExitStack() as locks:
            prepare(locks)
            service = locks.enter_context(demo_service.service("serve.log"))
            print("Paste these lines into another shell:\n", file=sys.stderr, flush=True)
            for name, value in demo_service.client_environment(service.address).items():
                print(f"export {name}={shlex.quote(value)}", flush=True)
            print(
                f"\nThen `privyseal key list` works there (privyseal is in {Path(sys.executable).parent}).\n"
                f"Ctrl-C stops the service; its log is {service.log.relative_to(CHECKOUT)}.",
                file=sys.stderr,
                flush=True,
            )
            code = demo_service.wait(service.process)
            print(f"serve: privyseal-server ended with exit code {code}; see {service.log}", file=sys.stderr)
            return code or 1
    except DemoError as error:
        print(f"serve: {error}", file=sys.stderr)
        return 1


def main() -> int:
    """Serve until Ctrl-C or SIGTERM; 0 then."""
    interruption = demo_service.Interruption()
    try:
        return serve()
    except BaseException:
        if not interruption.came:
            raise
        return 0


if __name__ == "__main__":
    sys.exit(main())
