"""`privyseal-server audit …` as an auditor meets it: output, sentences and exit codes."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from privyseal.transparency.errors import KeyFileError
from privyseal_service.audit.export import COLUMNS, Selection, Sums, csv_line, csv_row
from privyseal_service.audit.journal import Journal
from privyseal_service.audit.keys import load_key, make_key
from privyseal_service.audit.record import DenialSummary
from privyseal_service.audit.sequencer import Sequencer
from privyseal_service.audit.sinks import FileSink
from privyseal_service.commands.audit import audit
from privyseal_service.domain.caller import Caller
from privyseal_service.domain.decisions import NO_PROOF, Outcome
from privyseal_service.domain.errors import Code
from privyseal_service.domain.replica import Source
from tests.support.audit.helpers import START_US, decision

NAME = "audit.example.com/replica-1"
DAY_US = 86_400_000_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A trail of two days: 30 calls of three callers, some denied, and a summary; its key, vkey and checkpoints."""
    folder = tmp_path_factory.mktemp("trail")
    vkey = make_key(NAME, folder / "audit.key")
    (folder / "audit.vkey").write_text(f"{vkey}\n")
    journal = Journal(folder / "audit", Source("replica-1", "w0"), clock_ns=lambda: START_US * 1_000)
    for i in range(30):
        denied = {"outcome": Outcome.DENIED, "code": Code.PERMISSION_DENIED, "grant": "", "signature_sha256": None}
        journal.append(
            [
                decision(
                    i,
                    time_us=START_US + i // 20 * DAY_US + i,
                    caller=Caller(f"dns:build-{i % 3}.example", NO_PROOF),
                    key="app" if i % 2 else "other",
                    **(denied if i % 5 == 0 else {}),
                )
            ]
        )
    journal.append([decision(40, key="=HYPERLINK(1)", caller=Caller("", NO_PROOF), outcome=Outcome.DENIED)])
    journal.append(
        [DenialSummary(START_US, "dns:loud.example", 100, START_US, START_US, {"sign-checksum PERMISSION_DENIED": 100})]
    )
    journal.close()
    sink = FileSink(folder / "checkpoints")
    sequencer = Sequencer(folder / "audit", load_key(folder / "audit.key"), publish=sink.publish)
    sequencer.merge()
    sequencer.close()
    return folder


def run(*arguments: object) -> tuple[int, str]:
    """Exit code, and the sentence on standard error."""
    try:
        audit.main([str(argument) for argument in arguments], prog_name="audit", standalone_mode=False)
    except click.ClickException as error:
        return getattr(error, "code", 2), error.format_message()
    return 0, ""


def verify(folder: Path, *more: object) -> tuple[int, str]:
    return run("verify", folder / "audit", "--public-key", folder / "audit.vkey", *more)


def test_verify_says_that_all_holds(folder, capsys):
    assert verify(folder) == (0, "")
    out = capsys.readouterr().out
    assert f"{NAME}, 34 records" in out
    assert "nothing was changed" in out
    assert "--checkpoint" in out
    assert verify(folder, "--checkpoint", folder / "checkpoints") == (0, "")
    assert "--checkpoint" not in capsys.readouterr().out


def test_verify_for_a_program(folder, capsys):
    assert verify(folder, "--json", "--checkpoint", folder / "checkpoints")[0] == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], told["log"], told["size"], told["records"], told["checkpoints"]) == (True, NAME, 34, 34, 3)


def test_verify_names_the_first_bad_place(folder, tmp_path, capsys):
    subprocess.run(["cp", "-a", folder / "audit", tmp_path / "audit"], check=True)
    path = tmp_path / "audit/log/tile/entries/000.p/34"
    path.write_bytes(path.read_bytes().replace(b"req-7", b"req-8"))
    code, sentence = run("verify", tmp_path / "audit", "--public-key", folder / "audit.vkey")
    assert code == 1
    assert sentence.startswith(
        "the audit trail fails verification: record 8 (log/tile/entries/000.p/34, entry 8): was changed"
    )
    assert "WRONG    record 8" in capsys.readouterr().out
    assert run("verify", tmp_path / "audit", "--public-key", folder / "audit.vkey", "--json")[0] == 1
    assert json.loads(capsys.readouterr().out)["findings"][0]["place"].startswith("record 8")


def test_a_key_is_given_as_itself_or_as_a_file(folder, capsys):
    vkey = (folder / "audit.vkey").read_text().strip()
    assert run("verify", folder / "audit", "--public-key", vkey)[0] == 0
    other = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
    code, sentence = run("verify", folder / "audit", "--public-key", other)
    assert code == 1
    assert "no public key is known" in sentence


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["verify", "nowhere", "--public-key", "nofile"], "nofile: no such file"),
        (["verify", ".", "--public-key", "a+b+c"], "not an Ed25519 vkey"),
        (["export", "nowhere"], "nowhere is not the folder of an audit trail"),
        (["report", "nowhere"], "nowhere is not the folder of an audit trail"),
        (["verify", "."], "Missing option '--public-key'"),
        (["export", ".", "--since", "yesterday"], "'yesterday' is not a time such as 2026-05-28"),
        (["export", ".", "--until", "2026-02-30"], "'2026-02-30' is not a time"),
        (["report", ".", "--since", "2026-05-28T25"], "'2026-05-28T25' is not a time"),
        (["report", ".", "--since", "2026-05-28T09:30+02:00"], "is not a time"),
    ],
)
def test_usage(tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    code, sentence = run(*arguments)
    assert code == 2
    assert says in sentence


def exported(capsysbinary, folder: Path, *filters: object) -> list[dict]:
    assert run("export", folder / "audit", *filters) == (0, "")
    return [json.loads(line) for line in capsysbinary.readouterr().out.splitlines()]


def test_export_gives_the_records_as_they_are(folder, capsysbinary):
    records = exported(capsysbinary, folder)
    assert len(records) == 34
    assert [record["kind"] for record in records].count("decision") == 31


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        (["--caller", "dns:build-1.example"], 10),
        (["--key", "app"], 15),
        (["--key", "ap"], 0),
        (["--outcome", "denied"], 7),
        (["--outcome", "denied", "--key", "app"], 3),
        (["--operation", "sign-checksum"], 31),
        (["--since", "2026-05-29"], 10),
        (["--until", "2026-05-29"], 24),
        (["--until", "2026-05-29T00:00Z"], 24),
        (["--since", "2026-05-28T20:26:40.000005", "--until", "2026-05-28T20:26:40.000009"], 4),
        (["--caller", "dns:loud.example"], 1),
    ],
)
def test_export_filters(folder, capsysbinary, filters, count):
    assert len(exported(capsysbinary, folder, *filters)) == count


def test_export_as_csv(folder, tmp_path):
    output = tmp_path / "records.csv"
    assert run("export", folder / "audit", "--format", "csv", "--output", output) == (0, "")
    assert output.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["records.csv"]
    rows = list(csv.DictReader(io.StringIO(output.read_text())))
    assert len(rows) == 34
    assert tuple(rows[0]) == COLUMNS
    assert (rows[2]["index"], rows[2]["caller"], rows[2]["app_id"]) == ("2", "dns:build-1.example", "com.example.app")
    assert any(row["key"] == "'=HYPERLINK(1)" for row in rows), "a formula reached a spreadsheet"


def test_an_export_that_fails_leaves_nothing(folder, tmp_path):
    subprocess.run(["cp", "-a", folder / "audit", tmp_path / "audit"], check=True)
    (tmp_path / "audit/log/tile/entries/000.p/34").unlink()
    code, sentence = run("export", tmp_path / "audit", "--output", tmp_path / "out")
    assert code == 1
    assert "000.p/34 is missing" in sentence
    assert [path.name for path in tmp_path.iterdir()] == ["audit"]


def test_an_export_that_cannot_be_written_names_its_file(folder, tmp_path):
    code, sentence = run("export", folder / "audit", "--output", tmp_path / "nowhere" / "records")
    assert (code, sentence) == (2, f"{tmp_path}/nowhere/records: no such file or directory")


def test_an_export_to_nothing(folder, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert run("export", folder / "audit") == (2, "standard output is closed; name a file with --output")


def test_report_sums(folder, capsys):
    assert run("report", folder / "audit", "--json") == (0, "")
    told = json.loads(capsys.readouterr().out)
    assert told["by_day"] == [
        {"day": "2026-05-28", "answered": 16, "not_answered": 105},
        {"day": "2026-05-29", "answered": 8, "not_answered": 2},
    ]
    assert {"caller": "dns:loud.example", "answered": 0, "not_answered": 100} in told["by_caller"]
    assert {"caller": "(not proven)", "answered": 0, "not_answered": 1} in told["by_caller"]
    assert {"operation": "sign-checksum", "answered": 24, "not_answered": 107} in told["by_operation"]
    assert sum(row["calls"] for row in told["rows"]) == 131
    assert run("report", folder / "audit", "--since", "2026-05-29") == (0, "")
    out = capsys.readouterr().out
    assert "dns:build-0.example" in out
    assert "loud" not in out


def test_sums_of_nothing():
    assert "day" in Sums().to_text()


def test_a_report_shows_nothing_of_a_callers_as_it_came():
    sums = Sums()
    record = {"kind": "decision", "time": "2026-05-28", "caller": {"name": "dns:a.example"}, "outcome": "denied"}
    sums.add({**record, "key": "app\x1b[2J\nother  9  0\u202e", "operation": "sign-checksum"})
    assert "app\\x1b[2J\\nother  9  0\\u202e " in sums.to_text()
    assert sums.to_text().replace("\n", "").isprintable()


@pytest.mark.parametrize("name", ["caller", "context", "counts", "time", "kind", "key", "outcome"])
@pytest.mark.parametrize("value", [None, 7, [], "x", {"name": []}, {"x": "y"}])
@pytest.mark.parametrize("kind", ["decision", "denials"])
def test_a_record_of_another_form_keeps_no_other_from_anybody(name, value, kind):
    body = {"kind": kind, "caller": {"name": "dns:a.example"}, "counts": {"sign-checksum OK": 1}, name: value}
    sums = Sums()
    sums.add(body)
    assert sums.to_text()
    assert csv_line(csv_row(0, body))
    Selection(caller="dns:a.example", since="2026").wants(body)


def test_keygen(tmp_path, capsys):
    path = tmp_path / "audit.key"
    assert run("keygen", NAME, "--output", path) == (0, "")
    vkey = capsys.readouterr().out.strip()
    assert vkey.startswith(f"{NAME}+")
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.read_bytes()
    assert str(load_key(path).verifier) == vkey
    assert run("keygen", NAME, "--output", path) == (2, f"{path} exists already; nothing is ever replaced")
    assert path.read_bytes() == before
    assert run("keygen", "a name", "--output", tmp_path / "other")[0] == 2
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        (b"PRIVATE+KEY+x", 0o600, "is not an audit key; make one with"),
        (b"\xff", 0o600, "is not an audit key"),
        (None, 0o640, "take that away with chmod 600"),
        (None, 0o604, "take that away with chmod 600"),
    ],
)
def test_key_files_that_are_not_used(tmp_path, content, mode, says):
    path = tmp_path / "audit.key"
    make_key(NAME, path)
    if content is not None:
        path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=says) as caught:
        load_key(path)
    assert "+" not in str(caught.value).replace(str(path), "")


def test_help_needs_nothing_heavy():
    code = (
        "import sys; import privyseal_service.commands.audit;"
        "print([name for name in ('grpc', 'orjson', 'cryptography', 'http') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "[]"
