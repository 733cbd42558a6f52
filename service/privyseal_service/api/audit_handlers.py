"""The gRPC methods of AuditService."""

from __future__ import annotations

from google.protobuf.message import Message

from privyseal.v1 import audit_pb2
from privyseal_service.api.audit_queries import AuditCalls, ConsistencyQuery, InclusionQuery, RecordsQuery
from privyseal_service.api.wire import Method, parse, parse_message
from privyseal_service.signing.calls import IncomingCall


class AuditHandlers:
    """The methods of AuditService."""

    def __init__(self, audit: AuditCalls) -> None:
        self._audit = audit

    def methods(self) -> dict[str, Method]:
        """Return each method by its name."""
        return {
            "GetCheckpoint": self._get_checkpoint,
            "GetInclusionProof": self._get_inclusion_proof,
            "GetConsistencyProof": self._get_consistency_proof,
            "ListRecords": self._list_records,
        }

    async def _get_checkpoint(self, call: IncomingCall, body: bytes) -> Message:
        note, cosigned = await self._audit.checkpoint(call, parse(_read_get_checkpoint, body))
        return audit_pb2.GetCheckpointResponse(
            checkpoint=note.decode(), cosigned_checkpoints=[each.decode() for each in cosigned]
        )

    async def _get_inclusion_proof(self, call: IncomingCall, body: bytes) -> Message:
        found = await self._audit.inclusion(call, parse(_read_get_inclusion_proof, body))
        return audit_pb2.GetInclusionProofResponse(
            index=found.index, proof=found.proof, checkpoint=found.checkpoint.decode(), line=found.record.decode()
        )

    async def _get_consistency_proof(self, call: IncomingCall, body: bytes) -> Message:
        proof, note = await self._audit.consistency(call, parse(_read_get_consistency_proof, body))
        return audit_pb2.GetConsistencyProofResponse(proof=proof, checkpoint=note.decode())

    async def _list_records(self, call: IncomingCall, body: bytes) -> Message:
        page = await self._audit.records(call, parse(_read_list_records, body))
        return audit_pb2.ListRecordsResponse(
            records=[audit_pb2.AuditRecord(index=index, line=line.decode()) for index, line in page.records],
            next_index=page.next_index,
            size=page.size,
        )


def _read_get_checkpoint(body: bytes) -> str:
    return parse_message(audit_pb2.GetCheckpointRequest, body).log_id


def _read_get_inclusion_proof(body: bytes) -> InclusionQuery:
    request = parse_message(audit_pb2.GetInclusionProofRequest, body)
    chosen = request.WhichOneof("record")
    return InclusionQuery(
        request.log_id,
        request.leaf_hash if chosen == "leaf_hash" else None,
        request.index if chosen == "index" else None,
    )


def _read_get_consistency_proof(body: bytes) -> ConsistencyQuery:
    request = parse_message(audit_pb2.GetConsistencyProofRequest, body)
    return ConsistencyQuery(request.log_id, request.old_size, request.size)


def _read_list_records(body: bytes) -> RecordsQuery:
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
