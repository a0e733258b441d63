"""What can be wrong with a definition.

```
TerminalError
└── DefinitionError            the author must correct the document
    └── DefinitionInvalid      every mistake of one document, each with its place
```
"""

from collections.abc import Sequence
from dataclasses import dataclass

from millrace_shared.errors import TerminalError

PROBLEMS_SHOWN_MAX = 20
"""Problems in the text of the exception; all of them are in its `problems`."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a definition.

    Attributes:
        path: Where, as people write it: `steps.load.needs[0]`. Empty for the document as a whole.
        message: What is wrong, without the place and without the suggestion.
        line: Line in the source text, counted from 1, if the definition came as text.
        column: Column in that line, counted from 1.
        suggestion: What would be right, if that can be told: `did you mean "transform"?`.
    """

    path: str
    message: str
    line: int | None = None
    column: int | None = None
    suggestion: str | None = None

    def __str__(self) -> str:
        place = f"{self.path}: " if self.path else ""
        hint = f"; {self.suggestion}" if self.suggestion else ""
        return f"{place}{self.message}{hint}"


class DefinitionError(TerminalError):
    """A workflow definition cannot be used."""


class DefinitionInvalid(DefinitionError):
    """A workflow definition has mistakes.

    Attributes:
        problems: All mistakes, in document order; never empty.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        lines = [str(problem) for problem in problems[:PROBLEMS_SHOWN_MAX]]
        if len(problems) > PROBLEMS_SHOWN_MAX:
            lines.append(f"... and {len(problems) - PROBLEMS_SHOWN_MAX} more")
        super().__init__("\n".join(lines))
        self.problems = tuple(problems)
