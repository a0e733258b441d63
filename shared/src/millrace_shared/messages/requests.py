"""Acceptance: what an execution is started with, and where it comes from."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from millrace_shared.messages.vocabulary import NOTHING, BudgetScope, OriginKind, Priority
from millrace_shared.values import Payload


class Parent(msgspec.Struct, frozen=True, omit_defaults=True):
    """The step attempt that an execution is performed for.

    `root` is the execution at the top, and `depth` how far below it this one is, from 1. `inline` says that it runs a
    group or a plan of its parent's workflow, and so is no execution of its own to people who count them.
    """

    execution_id: str
    step: str
    attempt: int
    root: str
    depth: int
    item: int | None = None
    inline: bool = False


class Use(msgspec.Struct, frozen=True):
    """The version of a workflow that a `workflow` step of its name runs, as it was when the execution was accepted."""

    workflow_id: str
    version: int
    definition: str


class Origin(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where an execution comes from: another one (`retry`, `fork`, `replay`), or a trigger.

    `execution_id` and `step` say which one, and from which step on; `trigger_id` which trigger.
    """

    kind: OriginKind
    execution_id: str = ""
    step: str = ""
    trigger_id: str = ""


class ReusedStep(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an earlier execution has of a step: its output, or those of some items, or of steps of its child."""

    output: Payload | None = None
    items: dict[int, Payload] = {}
    child: Reuse | None = None


class Reuse(msgspec.Struct, frozen=True, omit_defaults=True):
    """Results that are taken over from the execution `execution_id` in place of running their steps."""

    execution_id: str
    steps: dict[str, ReusedStep] = {}


class StartRequest(msgspec.Struct, frozen=True, omit_defaults=True, tag="start"):
    """Acceptance of an execution: stored once on `in.<p>.<exec>.start`.

    It stays unacknowledged until the execution ends: it is the lease on it (ADR 0004).

    Attributes:
        definition: content hash of the definition that is run.
        part: the groups on the way to the one that this execution runs, by step ids, `outer/inner`; empty: the whole.
        parent: the step attempt that waits for this execution; None at the top.
        uses: the workflows that `workflow` steps run, by the name (or `name@version`) that the definition gives.
        deadline: Unix seconds at which the parent times out; the execution's own limit may come first.
        budget_usd: what is left of the parent's budget; the definition's own may be less.
        budgets: those of the steps and executions above, the innermost first: they hold for every call down here, too.
        reuse: a `Reuse` as JSON, possibly claim-checked as a whole: results that need not be paid again.
        breakpoints: steps that are held before they begin; `*` is every one.
    """

    execution_id: str
    workspace: str
    workflow_id: str
    workflow_name: str
    workflow_version: int
    definition: str
    requested_at: float
    input: Payload = NOTHING
    execution_name: str | None = None
    labels: dict[str, str] = {}
    priority: Priority = "normal"
    requested_by: str = ""
    traceparent: str | None = None
    part: str = ""
    parent: Parent | None = None
    uses: dict[str, Use] = {}
    deadline: float | None = None
    budget_usd: Decimal | None = None
    budgets: tuple[BudgetScope, ...] = ()
    origin: Origin | None = None
    reuse: Payload = NOTHING
    breakpoints: tuple[str, ...] = ()
