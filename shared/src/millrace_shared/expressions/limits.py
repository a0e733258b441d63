"""Bounds on expressions and templates. Sizes in bytes are of the UTF-8 text."""

EXPRESSION_BYTES_MAX = 1024
"""One expression, without its `${{` and `}}`."""

TEMPLATE_EXPRESSIONS_MAX = 5_000
"""Expressions in one template."""

TEMPLATE_DEPTH_MAX = 32
"""Nesting of objects and lists in a template."""

MACRO_LIST_ITEMS_MAX = 1_000
"""Longest list that a value under a macro may hold: `map` and `filter` take quadratic time."""

LOCAL_WEIGHT_MAX = 65_536
"""Characters and nodes of variables up to which an expression without macros is evaluated in this process."""

VARIABLES_BYTES_MAX = 8 * 1024 * 1024
"""Variables sent to the evaluating child process."""

RESULT_BYTES_MAX = 1024 * 1024
"""JSON text of the value of an expression; a plain path is not bounded, since it copies nothing."""

EVALUATION_TIMEOUT_S = 1.0
"""Wall time that one evaluation may take in the child process."""

EVALUATION_MEMORY_BYTES_MAX = 512 * 1024 * 1024
"""Address space of the child process beyond what it starts with."""

TEXT_BYTES_MAX = 1024 * 1024
"""Text that string interpolation may produce."""
