"""Every subject Millrace uses, in one table, and the functions that build and read them.

| subject | who publishes | who reads | meaning |
|---|---|---|---|
| `req.<p>.<exec>` | api | api | the request that an execution name stands for, for ever |
| `in.<p>.<exec>.start` | api | orchestrator | acceptance: one request per execution, the lease on it |
| `in.<p>.<exec>` | agent-runner, api | orchestrator | step results, cancel, timers |
| `timer.set.<p>.<exec>.<id>` | orchestrator | the server's scheduler | a long timer, set |
| `timer.fire.<p>.<exec>.<id>` | the server's scheduler | INBOX (sourced) | a long timer, fired |
| `ev.<p>.<exec>` | orchestrator | telemetry, api | the log: one transition per message |
| `live.<p>.<exec>` | the server (republished) | api | the log as it grows, not stored |
| `work.<kind>.<lane>.<p>.<exec>.<attempt key>` | orchestrator | agent-runner | one step attempt to perform |
| `snap.<p>.<exec>` | orchestrator | orchestrator | the state of a long execution, to fold the rest of its log from |
| `tel.<p>.<exec>.<fact>` | agent-runner | telemetry, api | facts that move no state |
| `def.<hash>` | api | orchestrator | an immutable workflow definition |
| `dead.<stream>` | any consumer | people, api | what could not be processed, with the reason |
| `dead.redriven.<sequence>` | api | api | the dead letter of that sequence was sent again |
| `dead.buried.<stream>.<sequence>` | telemetry | telemetry | a log message is in DEAD: a rebuild must not repeat it |
| `gate.<p>.<gate>.state` | orchestrator | orchestrator, api | a gate of flow control: who is inside, and who is next |
| `gate.<p>.<gate>.ticket.<exec>` | orchestrator | orchestrator, api | an execution that has come to a gate |
| `ctl.cancel.<exec>` | orchestrator | agent-runner | abort running attempts (not stored) |
| `ctl.taken.<exec>` | agent-runner | agent-runner | a silent runner's attempt was taken over (not stored) |
| `ctl.crowded.<kind>.<lane>` | orchestrator | agent-runner | work was queued in a crowded lane (not stored) |
| `cache.<workspace>.<key>` | agent-runner | agent-runner | the result kept under a key, until its time is up |
| `jrn.<p>.<exec>.<step>.<iteration>` | agent-runner | agent-runner | the journal of a conversation with a model |
| `ctl.workflow.<workspace>` | api | api | a workflow was saved: forget what you know of it (not stored) |
| `trigger.<workspace>.<name>` | other services | api | events that start executions |
| `timer.cron.<workspace>.<trigger>` | api | the server's scheduler | the schedule of a cron trigger |
| `timer.tick.<workspace>.<trigger>` | the server's scheduler | api | a cron trigger is due |

`p` is the partition of the execution, or of the gate (`ids.partition_of`).
"""

from __future__ import annotations

from millrace_shared.ids import partition_of


def named_request(execution_id: str) -> str:
    """The subject whose emptiness says that an execution name is free."""
    return f"req.{partition_of(execution_id)}.{execution_id}"


def start(execution_id: str) -> str:
    """Where an execution is accepted: once stored here, it will run."""
    return f"in.{partition_of(execution_id)}.{execution_id}.start"


def inbox(execution_id: str) -> str:
    """Where anything that may move an execution is sent."""
    return f"in.{partition_of(execution_id)}.{execution_id}"


def log(execution_id: str) -> str:
    """The one exact subject that holds an execution's log."""
    return f"ev.{partition_of(execution_id)}.{execution_id}"


def snapshot(execution_id: str) -> str:
    """Where the last snapshot of a long execution is kept."""
    return f"snap.{partition_of(execution_id)}.{execution_id}"


def live(execution_id: str) -> str:
    """Where the server repeats an execution's log for whoever is watching now."""
    return f"live.{partition_of(execution_id)}.{execution_id}"


def work(kind: str, lane: str, execution_id: str, key: str) -> str:
    """Where one attempt waits for a runner, in its lane (`lanes.lane_of`).

    Unique per attempt, so that re-emission cannot queue it twice: the lane is part of the attempt's event.
    """
    return f"work.{kind}.{lane}.{partition_of(execution_id)}.{execution_id}.{key}"


def work_of_execution(execution_id: str) -> str:
    """Everything an execution has queued, for purging on cancel."""
    return f"work.*.*.{partition_of(execution_id)}.{execution_id}.*"


def fact(execution_id: str, name: str) -> str:
    """A fact about an execution that moves no state."""
    return f"tel.{partition_of(execution_id)}.{execution_id}.{name}"


def timer_set(execution_id: str, timer_id: str) -> str:
    """Where a long timer is scheduled."""
    return f"timer.set.{partition_of(execution_id)}.{execution_id}.{timer_id}"


def timer_fire(execution_id: str, timer_id: str) -> str:
    """Where the server publishes a long timer when it is due."""
    return f"timer.fire.{partition_of(execution_id)}.{execution_id}.{timer_id}"


def definition(content_hash: str) -> str:
    """Where an immutable definition is kept, by content hash."""
    return f"def.{content_hash}"


def gate_state(gate_id: str) -> str:
    """The one subject that holds a gate's document."""
    return f"gate.{partition_of(gate_id)}.{gate_id}.state"


def gate_ticket(gate_id: str, execution_id: str) -> str:
    """Where an execution waits at a gate; `*` is every one."""
    return f"gate.{partition_of(gate_id)}.{gate_id}.ticket.{execution_id}"


def gate_id_of(subject: str) -> str:
    """Return the gate's id in a `gate.` subject."""
    return subject.split(".", 3)[2]


def cancel_control(execution_id: str) -> str:
    """Tells runners to abort an execution's attempts now. Best effort: the log decides, this only saves money."""
    return f"ctl.cancel.{execution_id}"


def taken_control(execution_id: str) -> str:
    """Tells runners that an attempt is performed by another now, since the one that had it was silent. Best effort."""
    return f"ctl.taken.{execution_id}"


def crowded_control(kind: str, lane: str) -> str:
    """Tells runners that a crowded lane holds work: nobody keeps a request open for one. Best effort."""
    return f"ctl.crowded.{kind}.{lane}"


def cache(workspace: str, key: str) -> str:
    """Where the result of a cached step is kept; `key` is a SHA-256 in hex."""
    return f"cache.{workspace}.{key}"


def journal(execution_id: str, step: str, item: int | None, iteration: int) -> str:
    """Where the conversation of an agent step is kept, for all attempts of one iteration: `jrn.3.<exec>.ask~2.0`."""
    unit = step if item is None else f"{step}~{item}"
    return f"jrn.{partition_of(execution_id)}.{execution_id}.{unit}.{iteration}"


def workflow_control(workspace: str) -> str:
    """Tells api processes that a workflow of a workspace was saved. `*` hears of all workspaces."""
    return f"ctl.workflow.{workspace}"


def cron(workspace: str, trigger_id: str) -> str:
    """Where the schedule of a cron trigger is kept: one message, the last one."""
    return f"timer.cron.{workspace}.{trigger_id}"


def tick(workspace: str, trigger_id: str) -> str:
    """Where the server publishes that a cron trigger is due."""
    return f"timer.tick.{workspace}.{trigger_id}"


def trigger_event(workspace: str, name: str) -> str:
    """Where other services publish the events of a name."""
    return f"trigger.{workspace}.{name}"


def redriven(sequence: int) -> str:
    """Where it is noted that the dead letter of a sequence was sent again."""
    return f"dead.redriven.{sequence}"


def dead(stream: str) -> str:
    """Where a stream's unprocessable messages go."""
    return f"dead.{stream.lower()}"


def buried(stream: str, sequence: int) -> str:
    """Where it is noted that a message of a stream that keeps its own is in DEAD."""
    return f"dead.buried.{stream.lower()}.{sequence}"


def partition_in(subject: str) -> int:
    """Return the partition in a `req.`, `in.`, `ev.`, `live.` or `tel.` subject: the one that it was sent to."""
    return int(subject.split(".", 2)[1])


def execution_id_of(subject: str) -> str:
    """Return the execution id in a `req.`, `in.`, `ev.`, `live.` or `tel.` subject."""
    return subject.split(".", 3)[2]
