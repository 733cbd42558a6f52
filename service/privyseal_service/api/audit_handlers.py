"""The gRPC methods of AuditService."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.message import Message

from privyseal.v1 import audit_pb2
from privyseal_service.api.audit_queries import AuditCalls, ConsistencyQuery, InclusionQuery, RecordsQuery
from privyseal_service.signing.call_path import Arrival

if TYPE_CHECKING:
    pass
from privyseal_service.api.wire import Method, parse_message


class AuditHandlers:
    """The methods of AuditService."""

    def __init__(self, audit: AuditCalls) -> None:
        self._audit = audit

    def methods(self) -> dict[str, Method]:
        """Each by its name."""
        return {
            "GetCheckpoint": self._get_checkpoint,
            "GetInclusionProof": self._get_inclusion_proof,
            "GetConsistencyProof": self._get_consistency_proof,
            "ListRecords": self._list_records,
        }

    async def _get_checkpoint(self, arrival: Arrival, body: bytes) -> Message:
        note, cosigned = await self._audit.checkpoint(
            arrival, lambda: parse_message(audit_pb2.GetCheckpointRequest, body).log_id
        )
        return audit_pb2.GetCheckpointResponse(
            checkpoint=note.decode(), cosigned_checkpoints=[each.decode() for each in cosigned]
        )

    async def _get_inclusion_proof(self, arrival: Arrival, body: bytes) -> Message:
        def read() -> InclusionQuery:
            request = parse_message(audit_pb2.GetInclusionProofRequest, body)
            chosen = request.WhichOneof("record")
            return InclusionQuery(
                request.log_id,
                request.leaf_hash if chosen == "leaf_hash" else None,
                request.index if chosen == "index" else None,
            )

        found = await self._audit.inclusion(arrival, read)
        return audit_pb2.GetInclusionProofResponse(
            index=found.index, proof=found.proof, checkpoint=found.checkpoint.decode(), line=found.record.decode()
        )

    async def _get_consistency_proof(self, arrival: Arrival, body: bytes) -> Message:
        def read() -> ConsistencyQuery:
            request = parse_message(audit_pb2.GetConsistencyProofRequest, body)
            return ConsistencyQuery(request.log_id, request.old_size, request.size)

        proof, note = await self._audit.consistency(arrival, read)
        return audit_pb2.GetConsistencyProofResponse(proof=proof, checkpoint=note.decode())

    async def _list_records(self, arrival: Arrival, body: bytes) -> Message:
        def read() -> RecordsQuery:
            request = parse_message(audit_pb2.ListRecordsRequest, body)
            return RecordsQuery(
                request.log_id,
                request.start_index,
                request.page_size,
                request.caller,
                request.key,
                request.operation,
                request.outcome,
            )

        page = await self._audit.records(arrival, read)
        return audit_pb2.ListRecordsResponse(
            records=[audit_pb2.AuditRecord(index=index, line=line.decode()) for index, line in page.records],
            next_index=page.next_index,
            size=page.size,
        )
