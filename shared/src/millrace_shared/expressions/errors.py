"""What can go wrong with an expression.

```
MillraceError
├── TerminalError
│   └── ExpressionFailure
│       ├── ExpressionInvalid  found when a workflow is saved: the author must correct it
│       ├── TemplateInvalid    several of those, with their places in one template
│       └── ExpressionError    found while evaluating: fails the step, retrying cannot help
└── BlobNeeded                 not a mistake: load these blobs, put them into the scope, evaluate again
```
"""

from collections.abc import Sequence
from dataclasses import dataclass

from millrace_shared.errors import MillraceError, TerminalError
from millrace_shared.values import BlobRef

Location = tuple[str | int, ...]
"""Keys and indexes from the root of a value to a place in it."""


class ExpressionFailure(TerminalError):
    """An expression could not be compiled or evaluated."""


class ExpressionInvalid(ExpressionFailure):
    """An expression can never be evaluated, whatever the data.

    Attributes:
        expression: The expression as written.
        reason: What is wrong with it.
        suggestion: What to write instead, if that can be told.
    """

    def __init__(self, expression: str, reason: str, suggestion: str | None = None) -> None:
        hint = f"; {suggestion}" if suggestion else ""
        super().__init__(f"in `{expression}`: {reason}{hint}")
        self.expression = expression
        self.reason = reason
        self.suggestion = suggestion


@dataclass(frozen=True, slots=True)
class Misplaced:
    """One invalid expression and where in its template it stands."""

    location: Location
    error: ExpressionInvalid


class TemplateInvalid(ExpressionFailure):
    """A template holds at least one invalid expression; `mistakes` has all of them, in document order."""

    def __init__(self, mistakes: Sequence[Misplaced]) -> None:
        super().__init__("; ".join(str(mistake.error) for mistake in mistakes))
        self.mistakes = tuple(mistakes)


class ExpressionError(ExpressionFailure):
    """An expression has no value for this data.

    Attributes:
        expression: The expression as written.
        reason: Why it has no value.
    """

    def __init__(self, expression: str, reason: str) -> None:
        super().__init__(f"cannot evaluate `{expression}`: {reason}")
        self.expression = expression
        self.reason = reason


class BlobNeeded(MillraceError):
    """Evaluation reached into values that are claim-checked.

    Attributes:
        refs: Every blob known to be needed; the caller loads them and resolves again.
    """

    def __init__(self, refs: frozenset[BlobRef]) -> None:
        super().__init__(f"{len(refs)} claim-checked value(s) must be loaded before this can be evaluated")
        self.refs = refs
