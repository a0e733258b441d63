"""The agent runner: performs one step attempt at a time, knows nothing of the graph, and never loses a result.

    entrypoint → bootstrap → adapters (bus) + executors (python, http, agent) → domain

`domain` does no I/O. `functions` is what `python` steps may call without any configuration.
"""
