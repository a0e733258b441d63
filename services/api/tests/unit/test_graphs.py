from typing import Any

from millrace_api.domain.graphs import count_items, graph
from millrace_shared.definition.model import WorkflowDefinition
from millrace_shared.execution.tables import EXECUTIONS, STEPS

DEFINITION = WorkflowDefinition.model_validate(
    {
        "name": "w",
        "steps": {
            "load": {"transform": 1, "name": "Load it"},
            "try": {"python": "m:f", "needs": ["load"], "on_error": "continue"},
            "each": {"python": "m:f", "needs": ["load"], "for_each": [1, 2]},
            "join": {"transform": 2, "needs": ["try", "each"], "when": "true"},
            "clean": {"transform": 3, "needs": ["join"], "run": "always"},
        },
    }
)


def step(name: str, status: str, item: int = -1, **columns: Any) -> dict[str, Any]:
    return {**STEPS.new_row(("e", name, item)), "status": status, **columns}


ROW = {**EXECUTIONS.new_row(("e",)), "workflow_id": "wf", "workflow_version": 3}
ROWS = [
    step("load", "completed", cached=True),
    step("try", "failed"),
    step("each", "running", item_count=4),
    step("each", "completed", 0),
    step("each", "queued", 1),
    step("each", "pending", 2),
]


def test_nodes_are_the_steps_in_the_authors_order_with_how_far_they_are() -> None:
    shown = graph(ROW, ROWS, DEFINITION, count_items(ROWS))
    assert (shown["execution_id"], shown["workflow_version"], shown["part"]) == ("e", 3, None)
    nodes = {node["id"]: node for node in shown["nodes"]}
    assert list(nodes) == ["load", "try", "each", "join", "clean"]
    assert [node["status"] for node in shown["nodes"]] == ["completed", "failed", "running", "pending", "pending"]
    assert (nodes["load"]["name"], nodes["load"]["kind"], nodes["load"]["cached"]) == ("Load it", "transform", True)
    assert (nodes["each"]["item_count"], nodes["each"]["items"]) == (4, {"completed": 1, "pending": 2})
    assert nodes["load"]["items"] is None
    assert (nodes["join"]["when"], nodes["clean"]["run"]) == ("true", "always")


def test_edges_say_whether_what_they_stand_for_is_met() -> None:
    shown = graph(ROW, ROWS, DEFINITION, {})
    assert [(edge["from"], edge["to"], edge["status"]) for edge in shown["edges"]] == [
        ("load", "try", "satisfied"),
        ("load", "each", "satisfied"),
        ("try", "join", "satisfied"),  # on_error: continue
        ("each", "join", "pending"),
        ("join", "clean", "pending"),
    ]
    failed = graph({**ROW, "status": "failed"}, [step("load", "failed")], DEFINITION, {})
    assert {edge["status"] for edge in failed["edges"]} == {"unsatisfied"}


def test_without_the_definition_the_steps_that_were_reached_are_shown() -> None:
    shown = graph(ROW, ROWS, None, {})
    assert [(node["id"], node["kind"]) for node in shown["nodes"]] == [("load", None), ("try", None), ("each", None)]
    assert shown["edges"] == []
