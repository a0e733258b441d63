"""The state machine of an execution. Pure: no asyncio, no NATS, no clock and no randomness of its own.

| module | rule it holds |
|---|---|
| `plan` | what a definition means to the engine, compiled once |
| `state` | what is known about an execution, as an immutable value |
| `tables` | which status may follow which, as data |
| `evolve` | what an event does to the state |
| `readiness` | when a step runs, is skipped, or waits for its turn |
| `decide` | what a message leads to |
| `ending` | how an execution comes to its end: failure, cancel, timeout, outputs |
| `retry` | whether and when a failed attempt is repeated |
| `commands` | what must be done in the world after events, and after a takeover |
"""
