"""Why each grant allows a call or not, in one sentence, by the rules that decide on real calls. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from privyseal_service.domain.grants import Grant
from privyseal_service.domain.operation_names import Claims, Operation
from privyseal_service.domain.operations import Scheme
from privyseal_service.domain.requests import Context


@dataclass(frozen=True)
class Question:
    """A call to be explained. `scheme` None stands for any; `now_s` is in seconds since 1970."""

    caller: str
    claims: Claims
    key: str
    operation: Operation
    scheme: Scheme | None
    context: Context
    now_s: float


@dataclass(frozen=True)
class Verdict:
    """The verdict of one grant: whether it allows the call, and why."""

    grant: Grant
    allows: bool
    why: str


def explain(grants: Sequence[Grant], question: Question) -> list[Verdict]:
    """Return the verdict of each grant, in the configuration's order. The first one that allows the call is used,
    unless its rate or quota is used up."""
    return [_verdict(grant, question) for grant in grants]


def _verdict(grant: Grant, question: Question) -> Verdict:
    why = _why_not(grant, question)
    return Verdict(grant, not why, why or _what_it_counts(grant))


def _why_not(grant: Grant, question: Question) -> str:
    """Return the first reason against it; empty where there is none."""
    return (
        _why_not_the_caller(grant, question) or _why_not_the_operation(grant, question) or _why_not_now(grant, question)
    )


def _why_not_the_caller(grant: Grant, question: Question) -> str:
    if not any(pattern.matches(question.caller) for pattern in grant.callers):
        return "it does not name the caller"
    claims = dict(question.claims)
    for rule in grant.claims:
        if not rule.holds(claims):
            said = f"is {claims[rule.claim]!r}" if rule.claim in claims else "is not there"
            wanted = " or ".join(pattern.text for pattern in rule.patterns)
            return f"the claim {rule.claim} {said}, and it wants {wanted}"
    return ""


def _why_not_the_operation(grant: Grant, question: Question) -> str:
    if question.operation not in grant.operations:
        return f"it is not for {question.operation.value}"
    if question.operation is Operation.LIST_RECORDS:
        return ""
    if question.key not in grant.keys:
        return "it does not name the key"
    if question.scheme is not None and not grant.allows(question.operation, question.scheme):
        return f"it is not for {question.scheme.value}"
    return ""


def _why_not_now(grant: Grant, question: Question) -> str:
    missing = [name for name in grant.context if not getattr(question.context, name)]
    if missing:
        return f"it wants {' and '.join(missing)} in the request's context"
    if grant.hours is not None and not grant.hours.hold(question.now_s):
        return f"it holds at other times: {grant.hours.text}"
    return ""


def _what_it_counts(grant: Grant) -> str:
    counted = [grant.rate.text] if grant.rate else []
    counted += [f"{grant.daily_quota} a day"] if grant.daily_quota is not None else []
    if not counted:
        return "it allows this"
    return f"it allows this, up to {' and '.join(counted)} for each {grant.counted.value}"
