"""`millrace executions pause`, `resume`, `signal`, `approve`, `reject` and `continue`: steer what runs."""

import json
from typing import Annotated, Any

import typer

from millrace.cli.server import AsJson, ExecutionId, Key, Url, open_client, tell, told

StepId = Annotated[str, typer.Argument(help="The step's id.", show_default=False)]
Item = Annotated[int | None, typer.Option(min=0, help="The item, of a for_each step.")]
Note = Annotated[str | None, typer.Option(help="Why, for those who look at it later.")]
Form = Annotated[str | None, typer.Option(metavar="JSON", help="What the step's form asks for.")]


@told
def pause(
    execution_id: ExecutionId,
    reason: Annotated[str | None, typer.Option(help="Why, for those who look at it later.")] = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Let nothing new start until it is resumed. Steps that run may finish."""
    with open_client(url, key) as client:
        answer = client.pause(execution_id, reason)
    tell(answer, f"{execution_id} is {answer['status']}", as_json=as_json)


@told
def resume(execution_id: ExecutionId, url: Url = None, key: Key = None, as_json: AsJson = False) -> None:
    """Let a paused execution go on."""
    with open_client(url, key) as client:
        answer = client.resume(execution_id)
    tell(answer, f"{execution_id} is {answer['status']}", as_json=as_json)


@told
def signal(
    execution_id: ExecutionId,
    name: Annotated[str, typer.Argument(help="The signal's name, as a wait step gives it.", show_default=False)],
    data: Annotated[
        str | None, typer.Option(metavar="JSON", help="The output of the step that takes it; text if it is no JSON.")
    ] = None,
    signal_id: Annotated[str | None, typer.Option("--id", help="The same id twice is one signal.")] = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Tell an execution what one of its steps waits for, or will."""
    with open_client(url, key) as client:
        answer = client.signal(execution_id, name, json_or_text(data), signal_id=signal_id)
    tell(answer, f"{name} {answer['status']}", as_json=as_json)


@told
def approve(
    execution_id: ExecutionId,
    step_id: StepId,
    note: Note = None,
    data: Form = None,
    item: Item = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Approve what a step asks. The first answer counts."""
    with open_client(url, key) as client:
        answer = client.approve(execution_id, step_id, note=note, data=json_or_text(data), item=item)
    tell(answer, f"{step_id} {answer['status']}", as_json=as_json)


@told
def reject(
    execution_id: ExecutionId,
    step_id: StepId,
    note: Note = None,
    data: Form = None,
    item: Item = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Reject what a step asks. The first answer counts."""
    with open_client(url, key) as client:
        answer = client.reject(execution_id, step_id, note=note, data=json_or_text(data), item=item)
    tell(answer, f"{step_id} {answer['status']}", as_json=as_json)


@told
def continue_(
    execution_id: ExecutionId,
    step_id: StepId,
    edited: Annotated[
        str | None, typer.Option("--input", metavar="JSON", help="In place of the step's own resolved input.")
    ] = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Let a step go on that a breakpoint holds: `executions show` has its input."""
    with open_client(url, key) as client:
        answer = client.continue_step(execution_id, step_id, edited=json_or_text(edited))
    tell(answer, f"{step_id} {answer['status']}", as_json=as_json)


def json_or_text(text: str | None) -> Any:
    """Return what a JSON text says, and any other text as it is."""
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
