"""How segments are read: what counts as a record, where a crash cut, and what the marker says."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privyseal_service.audit.layout import (
    Synced,
    end_of_records,
    ends_told_by,
    head_of,
    pack_synced,
    read_synced,
    survey,
    timed_lines,
)
from privyseal_service.audit.record import MAX_LINE_BYTES, EndReason, Stop
from tests.support.audit.helpers import SOURCE, START_US, decision, encode

LINES = [encode(decision(i), SOURCE, i) for i in range(1, 5)]
STOP = encode(Stop(START_US), SOURCE, 5)
WHOLE = b"".join(line + b"\n" for line in LINES)


@pytest.mark.parametrize("data", [WHOLE, WHOLE + STOP + b"\n"])
def test_every_cut_is_found(data):
    lines = data.split(b"\n")[:-1]
    ends = [0]
    for line in lines:
        ends.append(ends[-1] + len(line) + 1)
    for cut in range(len(data) + 1):
        end, number = survey(7, data[:cut])
        whole = max(i for i, at in enumerate(ends) if at <= cut)
        assert (end.size_bytes, end.records, number) == (ends[whole], whole, whole)
        assert end_of_records(data[:cut]) == ends[whole]
        assert end.set_aside_bytes == cut - ends[whole]
        assert end.sha256 == sha256(data[: ends[whole]]).hexdigest()
        stopped = cut == len(data) and data.endswith(STOP + b"\n")
        assert end.reason is (EndReason.STOPPED if stopped else EndReason.CRASHED)


@given(st.binary(max_size=200))
def test_whatever_follows_is_set_aside(tail):
    end, number = survey(1, WHOLE + tail)
    assert (end.size_bytes, number) == (len(WHOLE), 4)
    assert end_of_records(WHOLE + tail) == len(WHOLE)


def test_a_damaged_line_in_the_middle_does_not_hide_the_rest():
    damaged = WHOLE.replace(LINES[1], b"\0" * len(LINES[1]))
    end, number = survey(1, damaged)
    assert (end.size_bytes, end.records, number) == (len(WHOLE), 3, 4)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        LINES[0][:-1],
        LINES[0][1:],
        LINES[0].replace(b'"v":1', b'"v":2'),
        LINES[0].replace(b"a", b"\0"),
        b"\xff",
        LINES[0][:-1] + b" " * MAX_LINE_BYTES + b"}",
    ],
    ids=lambda line: f"{len(line)} bytes",
)
def test_what_is_no_record(line):
    assert head_of(line) is None
    expected = [(head_of(LINES[1])["time"], LINES[1]), (head_of(STOP)["time"], STOP)]
    assert timed_lines(b"\n".join([LINES[1], line, STOP, b""])) == expected


@pytest.mark.parametrize("line", [b"", LINES[0], STOP])
def test_only_a_segments_first_record_tells_of_others(line):
    assert ends_told_by(line) is None


@given(st.integers(0, 2**63), st.integers(0, 2**63))
def test_markers_come_back(tmp_path_factory, segment, size):
    folder = tmp_path_factory.mktemp("worker")
    assert read_synced(folder) is None
    data = pack_synced(Synced(segment, size))
    (folder / "synced").write_bytes(data)
    assert read_synced(folder) == Synced(segment, size)
    for changed in (data[:-1], data + b"\0", data[:-1] + bytes([data[-1] ^ 1]), b"x" + data[1:], b""):
        (folder / "synced").write_bytes(changed)
        assert read_synced(folder) is None
