"""The orchestrator's edge: what its core says, done over NATS."""
