"""Bounds on a definition, and the values that hold where it is silent. Sizes in bytes are of UTF-8 text."""

SOURCE_BYTES_MAX = 1024 * 1024
"""The document as written, YAML or JSON."""

NESTING_DEPTH_MAX = 32
"""Nesting of objects and lists in the document."""

STEPS_MAX = 10_000
"""Steps of a definition, those inside of groups included."""

GROUP_DEPTH_MAX = 8
"""Groups inside of one another."""

PLAN_STEPS_MAX = 500
"""Steps of a plan, those inside of groups included."""

USES_MAX = 100
"""Workflows that one runs by its steps, with those that they run."""

NEEDS_MAX = 1_000
"""`needs` of one step."""

NEEDS_TOTAL_MAX = 100_000
"""`needs` of all steps together."""

AGENTS_MAX = 200
INPUTS_MAX = 200
OUTPUTS_MAX = 200
SECRETS_MAX = 100
TOOLS_MAX = 64
"""Tools of one agent."""

FALLBACK_MODELS_MAX = 8
"""Models of one agent beside its first."""

GUARDS_MAX = 20
"""Guards of an agent's input, and of its output."""

ID_CHARS_MAX = 64
"""Ids of steps, agents, inputs, outputs and secrets."""

NAME_CHARS_MAX = 100
"""Names of workflows and display names of steps."""

DESCRIPTION_CHARS_MAX = 4_000
PROMPT_BYTES_MAX = 64 * 1024
"""Prompts and instructions."""

MESSAGE_CHARS_MAX = 16 * 1024
"""What an approval asks."""

KEY_CHARS_MAX = 2_000
"""Keys of flow control and of cached results, before their expressions are resolved."""

URL_CHARS_MAX = 8_192
FOR_EACH_ITEMS_MAX = 10_000
"""Items of one `for_each`; the engine fails a step whose list is longer."""

JSON_SCHEMA_NODES_MAX = 2_000
"""Objects and lists in one JSON Schema."""

PROBLEMS_MAX = 1_000
"""Mistakes reported at once; the last one then says that there are more."""

DURATION_S_MAX = 365 * 24 * 3600.0
STEP_TIMEOUT_DEFAULT_S = 300.0
"""One attempt of a step."""

EXECUTION_TIMEOUT_DEFAULT_S = 3600.0
EXECUTION_TIMEOUT_MAX_S = DURATION_S_MAX

MAX_PARALLEL_DEFAULT = 100
"""Steps and items of one execution that run at the same time."""

MAX_PARALLEL_MAX = 10_000

RETRY_ATTEMPTS_DEFAULT = 3
"""Attempts where `retry` is given without `max_attempts`. Without `retry` there is one attempt."""

RETRY_ATTEMPTS_MAX = 100
RETRY_INITIAL_DEFAULT_S = 1.0
RETRY_MAX_DEFAULT_S = 60.0

AGENT_ITERATIONS_DEFAULT = 15
AGENT_ITERATIONS_MAX = 200

REPEAT_DEFAULT = 10
"""Iterations where `repeat` is given without `max`."""

REPEAT_MAX = 1_000
CONCURRENCY_MAX = 10_000
"""Executions with one key that may run at the same time."""

THROTTLE_MAX = 10_000
"""Executions with one key that may begin within the time of a throttle; each is remembered for that time."""
