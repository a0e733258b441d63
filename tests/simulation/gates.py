"""A model of the gatekeeper: the documents of gates under their fence, and what is said because of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from faults import Faults
from world import World

from millrace_orchestrator.domain.gates import Enter, Gate, Leave, advance, leave
from millrace_shared.gates import GateState, Notice, Waiting
from millrace_shared.messages import Admission, CancelRequest

RECHECK_S = 10.0


@dataclass
class GateModel:
    """One gate: its state, what the last change of it has to tell, and the tickets with what became of them."""

    state: GateState = field(default_factory=GateState)
    notices: tuple[Notice, ...] = ()
    tickets: dict[str, Waiting] = field(default_factory=dict)
    verdicts: dict[str, str] = field(default_factory=dict)


@dataclass
class Gatekeeper:
    """Performs `Enter` and `Leave` as the real one does; its timers are lost with the process."""

    world: World
    faults: Faults
    timers: dict[str, tuple[float, Gate]] = field(default_factory=dict)

    def perform(self, command: Enter | Leave) -> None:
        """Do one command."""
        gate = self._gate(command.gate)
        execution_id = command.execution_id
        if isinstance(command, Leave):
            if not gate.verdicts.get(execution_id):
                gate.verdicts[execution_id] = "left"
            gate.state = leave(gate.state, {execution_id})
        elif execution_id not in gate.tickets:
            self.world.sequence += 1
            gate.tickets[execution_id] = Waiting(execution_id, self.world.sequence, self.world.now)
        elif verdict := gate.verdicts.get(execution_id):
            self._say(command.gate, Notice(execution_id, verdict))  # type: ignore[arg-type]
        self.faults.maybe()
        self.look(command.gate)

    def look(self, gate: Gate) -> None:
        """Decide on what waits, and tell it; what the change before had to tell comes first."""
        model = self._gate(gate)
        for notice in model.notices:
            self._say(gate, notice)
        for execution_id in list(model.state.inside):  # those who have ended without a word
            if self.world.has_ended(execution_id):
                model.state = leave(model.state, {execution_id})
        waiting = [
            ticket
            for ticket in sorted(model.tickets.values(), key=lambda one: one.sequence)
            if ticket.sequence > model.state.cursor and not model.verdicts.get(ticket.execution_id)
        ]
        outcome = advance(gate, model.state, waiting, self.world.now)
        model.state, model.notices = outcome.state, outcome.notices
        self.faults.maybe()
        for notice in outcome.notices:
            self._say(gate, notice)
            if notice.kind != "cancel":
                model.verdicts[notice.execution_id] = notice.kind
            self.faults.maybe()
        dues = [due for due in (outcome.next_due, self.world.now + RECHECK_S) if due is not None]
        if outcome.next_due is not None or outcome.is_full:
            self.timers[gate.id] = (min(dues), gate)

    def expire(self) -> bool:
        """Look at a gate whose time has come; tell whether there was one."""
        for gate_id, (due, gate) in list(self.timers.items()):
            if due <= self.world.now:
                del self.timers[gate_id]
                self.look(gate)
                return True
        return False

    def next_moment(self) -> float | None:
        """Return when the next gate must be looked at."""
        return min((due for due, _ in self.timers.values()), default=None)

    def _say(self, gate: Gate, notice: Notice) -> None:
        if notice.kind == "cancel":
            self.world.send(CancelRequest(notice.execution_id, id=f"gate {gate.id}", reason="it makes room"))
        elif notice.kind in {"admitted", "refused"}:
            self.world.send(Admission(notice.execution_id, gate.id, notice.kind == "admitted", "the gate says so"))

    def _gate(self, gate: Gate) -> GateModel:
        return self.world.gates.setdefault(gate.id, GateModel())
