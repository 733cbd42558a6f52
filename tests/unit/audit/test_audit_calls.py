"""Questions to the audit trail: no caller takes the time of the one thread that reads it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from privyseal.transparency.checkpoint import Signer
from privyseal_service.api.audit_queries import SEARCHES_AT_ONCE, AuditCalls, InclusionQuery
from privyseal_service.audit.journal import Journal
from privyseal_service.audit.sequencer import Sequencer
from privyseal_service.config.audit import AuditConfig
from privyseal_service.domain.errors import Code, ServiceError
from privyseal_service.domain.replica import Source
from privyseal_service.signing.call_path import CallPath
from privyseal_service.signing.calls import IncomingCall, LogAccess
from tests.support.audit.helpers import decision

LOG = "audit.example.com/replica-1"


class Known:
    """Knows each caller by the word that stands for its call."""

    async def read_log(
        self, call: Any, _operation: object, query: Any, answer: Callable[[LogAccess, Any], Awaitable[Any]]
    ) -> Any:
        return await answer(LogAccess(str(call), may_list=False), query)


def test_old_records_are_looked_for_at_a_rate_by_each_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search among all records takes a tenth of a second, and its hash need not be one of any record."""
    monkeypatch.setattr("privyseal_service.api.audit_queries.NEWEST_ENTRIES", 256)
    monkeypatch.setattr("privyseal_service.api.audit_queries.SEARCHES_PER_S", 1e-6)
    journal, sequencer = Journal(tmp_path, Source("replica-1", "w0")), Sequencer(tmp_path, Signer.generate(LOG))
    written = journal.append([decision(i) for i in range(600)])
    sequencer.merge()
    journal.close()
    sequencer.close()
    config = AuditConfig(folder=tmp_path, log=LOG, key=tmp_path / "key")
    calls = AuditCalls(config, cast("CallPath", Known()))

    async def ask(caller: str, leaf: bytes) -> Code:
        query = InclusionQuery(LOG, leaf, None)
        try:
            found = await calls.inclusion(cast("IncomingCall", caller), query)
        except ServiceError as error:
            return error.code
        assert found.proof
        return Code.OK

    async def main() -> None:
        for number in range(int(SEARCHES_AT_ONCE) // 2):
            assert await ask("scanner", written[number].leaf_hash) is Code.OK
            assert await ask("scanner", bytes([number]) * 32) is Code.NOT_FOUND
        assert await ask("scanner", bytes(32)) is Code.RESOURCE_EXHAUSTED
        assert await ask("scanner", written[0].leaf_hash) is Code.RESOURCE_EXHAUSTED
        for _ in range(50):
            assert await ask("scanner", written[-1].leaf_hash) is Code.OK
        assert await ask("another", written[0].leaf_hash) is Code.OK

    asyncio.run(main())
    calls.close()
