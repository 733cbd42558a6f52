"""Metrics and health detail of the real program, with its workers and without."""

from __future__ import annotations

import json
import os
import signal
import stat

import pytest

from privyseal_service.telemetry.status_socket import SOCKET
from tests.support.processes import children, until
from tests.support.prometheus import metrics_address, scraped
from tests.support.serving import KEY, Place, configure_software, head, outcome, sentence, settled

METRICS = '[metrics]\naddress = "127.0.0.1:0"\nnames = true\n'
OK = "privyseal_calls_total{code=OK,operation=sign-checksum}"


def health(place: Place, *arguments: str) -> tuple[int, dict[str, object]]:
    done = place.run("health", "--config", str(place.config), "--json", *arguments)
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_an_operator_reads(software: Place, workers: int) -> None:
    configure_software(software, head=head(workers, state_folder="state") + "\n" + METRICS)
    good = software.config.read_text()
    with software.serving() as serving:
        address = metrics_address(serving)
        settled(serving, "OK")  # six calls at least, over as many connections
        assert outcome(serving) == "OK"
        until(lambda: scraped(address).get("privyseal_ready{}") == max(1, workers))
        until(lambda: scraped(address)[OK] >= 7)
        shown = scraped(address)
        assert shown["privyseal_results_total{key=demo}"] == shown[OK]
        assert shown["privyseal_store_seconds_count{operation=sign-checksum}"] == shown[OK]
        assert shown["privyseal_keys{key=demo,state=serving}"] == max(1, workers)
        assert shown["privyseal_audit_writable{}"] == max(1, workers)
        assert shown["privyseal_problems{}"] == 0
        code, detail = health(software)
        assert (code, detail["ready"], detail["problems"]) == (0, True, {})
        assert [worker["keys"] for worker in detail["workers"]] == [{"demo": "serving"}] * max(1, workers)  # type: ignore[attr-defined]
        made = (software.folder / "state" / SOCKET).stat()
        assert (stat.S_ISSOCK(made.st_mode), stat.S_IMODE(made.st_mode)) == (True, 0o600)

        if workers:  # counts outlive the worker that counted
            os.kill(children(serving.process.pid)[0], signal.SIGKILL)
            until(lambda: scraped(address).get("privyseal_worker_ends_total{}") == 1)
            assert scraped(address)[OK] >= shown[OK]

        software.config.write_text(good.replace(KEY, KEY.replace("software:demo", "software:none")))
        serving.process.send_signal(signal.SIGHUP)
        until(lambda: scraped(address).get("privyseal_reloads_total{result=failed}") == 1)
        code, detail = health(software)
        assert code == 1
        assert "key 'demo': object: there is no key none" in detail["problems"]["configuration"]  # type: ignore[index]
        done = software.run("health", "--state-folder", str(software.folder / "state"))
        assert (done.returncode, done.stdout.splitlines()[0][:6]) == (1, "ready:")
        assert "problem: configuration: the configuration stays as it was: key 'demo'" in done.stdout
        software.config.write_text(good)
        serving.process.send_signal(signal.SIGHUP)
        until(lambda: scraped(address).get("privyseal_reloads_total{result=ok}") == 1)
        until(lambda: health(software)[0] == 0)
        assert serving.stop() == 0
    assert not (software.folder / "state" / SOCKET).exists()
    assert "no service runs" in sentence(software.run("health", "--config", str(software.config)), 3)


def test_without_metrics_there_are_none(software: Place) -> None:
    configure_software(software, head=head(0))
    assert "server.state_folder: is not set" in sentence(software.run("health", "--config", str(software.config)), 2)
    assert "--state-folder DIR" in sentence(software.run("health"), 2)
    configure_software(software, head=head(0) + '\n[metrics]\naddress = "192.0.2.1:0"\nremote = true\n')
    said = sentence(software.run("serve", "--config", str(software.config)), 2)
    assert "cannot listen at 192.0.2.1:0" in said
