"""The orchestrator service: the state machine that moves executions forward."""
