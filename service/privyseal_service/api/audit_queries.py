"""Answers AuditService from the log's files, off the event loop, and decides who may see which record."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from privyseal.transparency.errors import AuditError
from privyseal.transparency.merkle import HASH_BYTES
from privyseal_service.audit.errors import NotInLogError
from privyseal_service.audit.export import Selection, parse
from privyseal_service.audit.log_reader import NEWEST_ENTRIES, Inclusion, LogReader, OlderError
from privyseal_service.domain import errors
from privyseal_service.domain.decisions import Outcome
from privyseal_service.domain.operation_names import Operation
from privyseal_service.domain.operations import InputError
from privyseal_service.system.caller_buckets import CallerBuckets

if TYPE_CHECKING:
    from privyseal_service.config.audit import AuditConfig
    from privyseal_service.signing.call_path import CallPath
    from privyseal_service.signing.calls import IncomingCall, LogAccess, Parsed

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")

DEFAULT_PAGE, MOST_RECORDS = 100, 1_000
MOST_PAGE_BYTES = 2 << 20
"""Bytes of records in one answer: gRPC's clients take 4 MiB."""

RETRY_AFTER_S = 1.0
SEARCHES_PER_S, SEARCHES_AT_ONCE = 3.0, 20.0
"""Leaf hashes that a caller may search beyond the newest records: each search takes some 0.1 s."""
_MOST_WAITING = 64
_OUTCOMES = ("", *(outcome.value for outcome in Outcome))


@dataclass(frozen=True, slots=True)
class InclusionQuery:
    """The record whose proof is wanted, by its leaf hash or by its index; the other is None."""

    log: str
    leaf_hash: bytes | None
    index: int | None


@dataclass(frozen=True, slots=True)
class ConsistencyQuery:
    """A proof that the tree of `size` records (0: the newest) begins with that of `old_size`."""

    log: str
    old_size: int
    size: int


@dataclass(frozen=True, slots=True)
class RecordsQuery:
    """Records from `start_index` on, up to `page_size` (0: 100). Filters that are not empty must hold."""

    log: str
    start_index: int
    page_size: int
    caller: str
    key: str
    operation: str
    outcome: str


@dataclass(frozen=True, slots=True)
class Page:
    """Records with their indexes, the index to continue from, and the number of records now."""

    records: tuple[tuple[int, bytes], ...]
    next_index: int
    size: int


class AuditCalls:
    """Answers the calls of AuditService.

    Every call raises ServiceError: NOT_FOUND for what is not in the log (yet), UNAVAILABLE when its files cannot be
    read or contradict each other, or when another log is meant, RESOURCE_EXHAUSTED when too many calls wait, or when
    one caller searches too many old records. One thread reads, so that searches take at most one core.
    """

    def __init__(self, config: AuditConfig, path: CallPath) -> None:
        self._log = config.log
        self._path = path
        self._witnessed = config.root / "witnessed"
        self._reader = LogReader(config.root)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="audit-read")
        self._waiting = 0
        self._searches = CallerBuckets(per_s=SEARCHES_PER_S, at_once=SEARCHES_AT_ONCE)  # of the thread

    def close(self) -> None:
        """Stop reading."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def checkpoint(self, call: IncomingCall, log: Parsed[str]) -> tuple[bytes, list[bytes]]:
        """Return the newest checkpoint, and the newest that each witness cosigned."""
        return await self._path.read_log(call, Operation.GET_CHECKPOINT, log, self._checkpoint)

    async def _checkpoint(self, _: LogAccess, log: str) -> tuple[bytes, list[bytes]]:
        self._require_log(log)
        return await self._run(self._read_checkpoints)

    async def inclusion(self, call: IncomingCall, query: Parsed[InclusionQuery]) -> Inclusion:
        """Return a record's proof. The record itself is empty for a caller that may not see it."""
        return await self._path.read_log(call, Operation.GET_INCLUSION_PROOF, query, self._inclusion)

    async def _inclusion(self, access: LogAccess, query: InclusionQuery) -> Inclusion:
        self._require_log(query.log)
        if query.leaf_hash is None and query.index is None:
            raise InputError("record", "must be set: the leaf hash of a record, or its index")
        if query.leaf_hash is not None and len(query.leaf_hash) != HASH_BYTES:
            raise InputError("leaf_hash", f"must be {HASH_BYTES} bytes, not {len(query.leaf_hash)}")
        if query.index is not None and not access.may_list:
            raise errors.permission_denied()
        found = await self._run(partial(self._read_inclusion, query, access.caller))
        if access.may_list or _is_of(found.record, access.caller):
            return found
        return Inclusion(found.index, b"", found.proof, found.checkpoint)

    async def consistency(self, call: IncomingCall, query: Parsed[ConsistencyQuery]) -> tuple[list[bytes], bytes]:
        """Return the proof that a tree begins with an earlier one, and the newest checkpoint."""
        return await self._path.read_log(call, Operation.GET_CONSISTENCY_PROOF, query, self._consistency)

    async def _consistency(self, _: LogAccess, query: ConsistencyQuery) -> tuple[list[bytes], bytes]:
        self._require_log(query.log)
        if query.size and query.size < query.old_size:
            raise InputError("size", f"must be 0 or at least old_size, {query.old_size}")
        return await self._run(partial(self._read_consistency, query))

    async def records(self, call: IncomingCall, query: Parsed[RecordsQuery]) -> Page:
        """Return a page of records, for callers whose grant allows it."""
        return await self._path.read_log(call, Operation.LIST_RECORDS, query, self._records)

    async def _records(self, access: LogAccess, query: RecordsQuery) -> Page:
        if not access.may_list:
            raise errors.permission_denied()
        self._require_log(query.log)
        if query.page_size > MOST_RECORDS:
            raise InputError("page_size", f"must be at most {MOST_RECORDS}, not {query.page_size}")
        if query.outcome not in _OUTCOMES:
            raise InputError("outcome", f"must be one of {', '.join(_OUTCOMES[1:])}")
        return await self._run(partial(self._read_page, query))

    def _require_log(self, log: str) -> None:
        if log and log != self._log:
            raise errors.another_log(self._log, RETRY_AFTER_S)

    async def _run(self, work: Callable[[], _T]) -> _T:
        """Run work that reads files on the thread for it."""
        if self._waiting >= _MOST_WAITING:
            raise errors.too_many_log_calls(RETRY_AFTER_S)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except NotInLogError as error:
            raise errors.not_in_log(str(error)) from None
        except (AuditError, OSError) as error:
            _LOG.error("the audit trail cannot be read: %s", error)
            raise errors.log_unreadable(RETRY_AFTER_S) from error
        finally:
            self._waiting -= 1

    def _read_inclusion(self, query: InclusionQuery, caller: str) -> Inclusion:
        if query.leaf_hash is None:
            return self._reader.inclusion(index=query.index)
        with suppress(OlderError):
            return self._reader.inclusion(leaf=query.leaf_hash, searched=NEWEST_ENTRIES)
        wait_s = self._searches.wait_s(caller, time.monotonic())
        if wait_s:
            raise errors.too_many_log_calls(wait_s)
        return self._reader.inclusion(leaf=query.leaf_hash)

    def _read_checkpoints(self) -> tuple[bytes, list[bytes]]:
        note, _ = self._reader.checkpoint()
        cosigned = sorted(self._witnessed.glob("[!.]*.checkpoint")) if self._witnessed.is_dir() else []
        return note, [path.read_bytes() for path in cosigned]

    def _read_consistency(self, query: ConsistencyQuery) -> tuple[list[bytes], bytes]:
        note, checkpoint = self._reader.checkpoint()
        size = query.size or checkpoint.size
        return self._reader.consistency(query.old_size, size), note

    def _read_page(self, query: RecordsQuery) -> Page:
        selection = Selection(
            caller=query.caller or None,
            key=query.key or None,
            operation=query.operation or None,
            outcome=query.outcome or None,
        )
        limit = query.page_size or DEFAULT_PAGE
        found, next_index = self._reader.records(query.start_index, limit, selection.wants_line)
        size_bytes = 0
        for place, (index, line) in enumerate(found):
            size_bytes += len(line)
            if place and size_bytes > MOST_PAGE_BYTES:
                found, next_index = found[:place], index
                break
        return Page(tuple(found), next_index, self._reader.checkpoint()[1].size)


def _is_of(line: bytes, caller: str) -> bool:
    """Return whether a record names the caller."""
    body = parse(line)
    said = body.get("caller") if body is not None else None
    return isinstance(said, dict) and said.get("name") == caller
