"""The agent-runner service: performs one step attempt at a time."""
