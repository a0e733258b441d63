"""Guards of an agent: what is checked before a model is asked, and of what it answers."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from millrace_shared.definition import limits as bounds
from millrace_shared.definition.fields import JsonSchema, Part, Prompt

GuardName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
CHECKS = ("max_length", "regex", "json_schema", "judge")
"""What a guard can check, one of them each."""


class Judge(Part):
    """A model that is asked whether a text is as it should be."""

    question: Prompt = Field(description="What has to hold for the text, such as `Is it polite?`")
    model: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]+:\S+$", max_length=200)] | None = Field(
        default=None, description="`provider:model` that is asked; the agent's own when absent."
    )
    min_score: float = Field(default=0.5, ge=0, le=1, description="The least score, from 0 to 1, that passes.")


class Guard(Part):
    """One check, and what happens to what does not pass."""

    name: GuardName | None = Field(
        default=None, description="What its score is called; the kind of the check when absent."
    )
    max_length: int | None = Field(default=None, ge=1, description="Most characters.")
    regex: Annotated[str, StringConstraints(min_length=1, max_length=bounds.KEY_CHARS_MAX)] | None = Field(
        default=None, description="A regular expression (RE2)."
    )
    expect: Literal["absent", "present"] = Field(
        default="absent", description="Whether a match of `regex` is forbidden, or demanded."
    )
    json_schema: JsonSchema | None = Field(
        default=None, description="JSON Schema of the value; a text is read as JSON first."
    )
    judge: Judge | None = Field(default=None, description="A model that gives a score.")
    action: Literal["block", "retry", "flag"] = Field(
        default="block",
        description="`block` fails the step, `retry` tells the model what is wrong with its answer, and `flag` only "
        "records the score.",
    )


GuardList = Annotated[tuple[Guard, ...], Field(strict=False, max_length=bounds.GUARDS_MAX)]


class Guards(Part):
    """What is checked of one agent. Scores are recorded with the attempt as `input.<name>` and `output.<name>`."""

    input: GuardList = Field(default=(), description="Checks of the prompt, before any call.")
    output: GuardList = Field(default=(), description="Checks of the answer.")
