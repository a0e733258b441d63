"""The rules of flow control that stand before a workflow, in the order in which an execution passes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from millrace_orchestrator.domain.gates import Gate, Rule
from millrace_shared.definition.model import WorkflowDefinition
from millrace_shared.expressions.errors import ExpressionError
from millrace_shared.expressions.program import Evaluate
from millrace_shared.expressions.template import Template, compile_template
from millrace_shared.gates import OnLimit
from millrace_shared.ids import gate_id
from millrace_shared.messages import StartRequest

KEY_CHARS_MAX = 256


@dataclass(frozen=True, slots=True)
class GateRule:
    """One rule: a gate for each value of `key`, or one for the workflow."""

    rule: Rule
    key: Template | None
    limit: int = 1
    per_s: float = 0.0
    delay_s: float = 0.0
    on_limit: OnLimit = "queue"

    def key_of(self, scope: dict[str, Any], evaluate: Evaluate) -> str:
        """Return the key of an execution: a text, whatever the expression gives.

        Raises:
            ExpressionError, BlobNeeded: it cannot be evaluated.
        """
        if self.key is None:
            return ""
        key = str(self.key.resolve(scope, evaluate).data)
        if len(key) > KEY_CHARS_MAX:
            raise ExpressionError(f"{self.rule}.key", f"it gives {len(key)} characters; the limit is {KEY_CHARS_MAX}")
        return key

    def gate(self, request: StartRequest, key: str) -> Gate:
        """Return the gate of a key, as the version that a request runs wants it."""
        return Gate(
            id=gate_id(request.workspace, request.workflow_id, self.rule, key),
            rule=self.rule,
            key=key,
            limit=self.limit,
            per_s=self.per_s,
            delay_s=self.delay_s,
            on_limit=self.on_limit,
            version=request.workflow_version,
        )


def gate_rules(definition: WorkflowDefinition) -> tuple[GateRule, ...]:
    """Return the rules of a workflow in the order in which they are passed: first what may end an execution."""
    rules = []
    if definition.debounce is not None:
        rules.append(GateRule("debounce", _key(definition.debounce.key), delay_s=definition.debounce.delay))
    if (throttle := definition.throttle) is not None:
        rules.append(
            GateRule("throttle", _key(throttle.key), throttle.limit, per_s=throttle.per, on_limit=throttle.on_limit)
        )
    if (concurrency := definition.concurrency) is not None:
        rules.append(GateRule("concurrency", _key(concurrency.key), concurrency.limit, on_limit=concurrency.on_limit))
    if definition.singleton is not None:
        rules.append(GateRule("concurrency", _key(definition.singleton.key), 1, on_limit="drop"))
    return tuple(rules)


def _key(text: str | None) -> Template | None:
    return None if text is None else compile_template(text)
