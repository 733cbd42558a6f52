"""What a refused call tells its caller."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2 as details_pb
from grpc_status import rpc_status


class Refusal:
    """A call that was not answered: code, message, details by type, request id."""

    def __init__(self, error: grpc.RpcError) -> None:
        assert isinstance(error, grpc.Call)
        self.code = error.code()
        self.message = error.details()
        metadata = {str(key): value for key, value in error.trailing_metadata() or ()}
        self.request_id = metadata["privyseal-request-id"]
        status = rpc_status.from_call(error)
        assert status is not None
        assert (status.code, status.message) == (self.code.value[0], self.message)
        self.details: dict[str, Any] = {}
        for packed in status.details:
            for kind in (details_pb.BadRequest, details_pb.ErrorInfo, details_pb.RetryInfo):
                if packed.Is(kind.DESCRIPTOR):
                    self.details[kind.__name__] = kind.FromString(packed.value)
        assert self.details["ErrorInfo"].domain == "privyseal"

    @property
    def fields(self) -> list[str]:
        return [violation.field for violation in self.details["BadRequest"].field_violations]

    @property
    def reason(self) -> str:
        return str(self.details["ErrorInfo"].reason)

    @property
    def retry_after_s(self) -> float:
        return float(self.details["RetryInfo"].retry_delay.ToNanoseconds() / 1e9)

    @property
    def words(self) -> tuple[object, ...]:
        """All that a caller can tell two refusals apart by, but the request id."""
        return self.code, self.message, {name: value.SerializeToString() for name, value in self.details.items()}


def refused(call: Callable[[], object]) -> Refusal:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return Refusal(caught.value)
