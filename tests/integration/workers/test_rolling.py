"""A new release starts beside the old one on the same port and takes over, and nobody who signs notices."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path

from tests.support.processes import until
from tests.support.serving import Place
from tests.support.workers import Builds, all_listening, configure, listeners


def release(farm: Place, name: str, address: str, workers: int) -> Place:
    """The configuration of another release in a folder of its own, at an address that it shares."""
    folder = farm.folder / name
    folder.mkdir()
    for file in farm.folder.glob("*.pem"):
        shutil.copy(file, folder)
    new = Place(folder, farm.ca, farm.environment)
    configure(new, workers=workers, share_port=True)
    new.config.write_text(new.config.read_text().replace("127.0.0.1:0", address))
    return new


def test_releases_follow_each_other_without_a_failed_call(farm: Place) -> None:
    configure(farm, workers=2, share_port=True)
    with ExitStack() as running:
        serving = running.enter_context(farm.serving())
        running.enter_context(all_listening(serving))
        first = serving
        with Builds(first) as builds:
            for name, number in (("second", 2), ("third", 0)):
                old = len(listeners(first))
                new = running.enter_context(release(farm, name, first.address, number).serving())
                assert new.address == first.address
                until(lambda: len(listeners(first)) == old + max(1, number))  # noqa: B023 - called here
                builds.go_on()
                assert serving.stop() == 0
                builds.go_on()
                serving = new
        assert builds.errors == []
        assert builds.signed > 80


def test_a_release_that_cannot_start_leaves_the_old_one_alone(farm: Place) -> None:
    configure(farm, workers=1, share_port=True)
    with farm.serving() as serving, Builds(serving, 2) as builds:
        new = release(farm, "new", serving.address, 1)
        Path(new.folder / "refuse").touch()
        done = new.run("serve", "--config", str(new.config))
        assert done.returncode == 1
        builds.go_on()
        assert builds.errors == []
