"""Whether a wish can be granted, and whether it was, by hand-made logs."""

from typing import Any

import pytest

from millrace_api.domain.history import History
from millrace_api.domain.steering import SIGNALS_MAX, Pausing, Resuming, Signalling, Wish
from millrace_api.domain.step_steering import Continuing, Deciding
from millrace_api.errors import Refused
from millrace_shared.definition.model import WorkflowDefinition
from millrace_shared.messages import (
    LOG_VERSION,
    NOTHING,
    ContinueRequest,
    ErrorInfo,
    Event,
    ExecutionAdmitted,
    ExecutionEnding,
    ExecutionFinished,
    ExecutionHeld,
    ExecutionPaused,
    ExecutionResumed,
    ExecutionStarted,
    PauseRequest,
    ResumeRequest,
    SignalReceived,
    SignalRequest,
    StartRequest,
    StepCancelled,
    StepCompleted,
    StepExpanded,
    StepFailed,
    StepScheduled,
    StepWaiting,
    Transition,
    VerdictRequest,
)
from millrace_shared.values import Payload

FORM = {"type": "object", "required": ["amount"], "properties": {"amount": {"type": "number", "maximum": 10}}}
DEFINITION = WorkflowDefinition.model_validate(
    {
        "name": "w",
        "steps": {
            "ask": {"approval": {"message": "?", "form": FORM}},
            "plain": {"approval": {"message": "?"}},
            "paid": {"wait": {"signal": "payment"}},
            "work": {"transform": 1},
            "each": {"for_each": [1, 2], "transform": 1},
            "team": {"group": {"steps": {"inner": {"wait": {"signal": "hello"}}}}},
        },
    }
)
STARTED = ExecutionStarted(StartRequest("e", "default", "w", "w", 1, "0" * 64, 0.0), 3_600.0)


def history(*events: Event) -> History:
    return History.of([Transition(LOG_VERSION, "e", 1, 100.0, (STARTED, *events))])


def then(past: History, *events: Event) -> History:
    past.apply(Transition(LOG_VERSION, "e", past.version + 1, 101.0, events))
    return past


def refused(wish: Wish, past: History) -> Refused:
    with pytest.raises(Refused) as found:
        wish.check(past, DEFINITION)
    return found.value


def granted(wish: Wish, past: History) -> None:
    assert wish.outcome(past) is None
    wish.check(past, DEFINITION)


def deciding(step: str = "plain", *, approved: bool = True, item: int | None = None, entered: Any = None) -> Deciding:
    return Deciding("e", "v1", "me", step, item, approved, "fine", NOTHING, entered)


def verdict(step: str, decision_id: str, **fields: Any) -> StepCompleted:
    output = {"approved": True, "by": "you", "at": "", "note": "", "data": None, "decision_id": decision_id} | fields
    return StepCompleted(step, output=Payload(output))


class TestPausing:
    wish = Pausing("e", "p1", "me", "look")

    def test_takes_effect_with_the_event_that_has_its_id(self):
        past = history()
        granted(self.wish, past)
        assert self.wish.message(past) == PauseRequest("e", "p1", "look", "me")
        assert self.wish.outcome(then(past, ExecutionPaused(9.0, "p1"))) == {"execution_id": "e", "status": "paused"}

    def test_took_effect_although_somebody_resumed_at_once(self):
        past = history(ExecutionPaused(9.0, "p1"), ExecutionResumed(9.0, "r1"))
        assert self.wish.outcome(past) is not None

    def test_somebody_else_was_first(self):
        past = history(ExecutionPaused(9.0, "other", requested_by="you"))
        assert self.wish.outcome(past) is None
        error = refused(self.wish, past)
        assert (error.code, error.detail) == ("execution_already_paused", "the execution is paused already by you")

    @pytest.mark.parametrize("event", [ExecutionFinished("completed"), ExecutionEnding("cancelled", 9.0)], ids=type)
    def test_what_ends_is_not_paused(self, event: Event):
        assert refused(self.wish, history(event)).code == "execution_already_finished"

    def test_cleanup_after_a_failure_can_be_held_up(self):
        granted(self.wish, history(ExecutionEnding("failed", 9.0)))

    def test_what_waits_at_a_gate_or_has_no_log_yet_can_be_paused(self):
        granted(self.wish, History())
        held = history(ExecutionHeld("g", "concurrency"))
        granted(self.wish, held)
        assert held.status == "pending"
        assert then(held, ExecutionPaused(9.0, "p1"), ExecutionAdmitted("g")).status == "paused"


class TestResuming:
    wish = Resuming("e", "r1", "me")

    def test_names_the_pause_that_it_ends(self):
        past = history(ExecutionPaused(9.0, "p1"))
        granted(self.wish, past)
        assert self.wish.message(past) == ResumeRequest("e", "r1", of="p1", requested_by="me")
        assert self.wish.outcome(then(past, ExecutionResumed(9.0, "r1"))) == {"execution_id": "e", "status": "running"}

    def test_what_is_not_paused_cannot_be_resumed(self):
        assert refused(self.wish, history()).code == "execution_not_paused"
        assert refused(self.wish, history(ExecutionPaused(9.0, "p"), ExecutionResumed(9.0, "x"))).code == (
            "execution_not_paused"
        )
        assert refused(self.wish, history(ExecutionFinished("failed"))).code == "execution_already_finished"

    def test_a_failure_leaves_a_pause_in_place_and_a_cancel_does_not(self):
        paused = ExecutionPaused(9.0, "p1")
        granted(self.wish, history(paused, ExecutionEnding("failed", 9.0)))
        assert refused(self.wish, history(paused, ExecutionEnding("cancelled", 9.0))).code == "execution_not_paused"


class TestSignalling:
    def wish(self, name: str = "payment") -> Signalling:
        return Signalling("e", "s1", "me", name, Payload({"n": 1}))

    def test_is_kept_before_anybody_waits(self):
        past = history()
        granted(self.wish(), past)
        assert self.wish().message(past) == SignalRequest("e", "s1", "payment", Payload({"n": 1}), "me")
        answer = self.wish().outcome(then(past, SignalReceived("s1", "payment")))
        assert answer == {"execution_id": "e", "signal": "payment", "id": "s1", "status": "received"}

    def test_the_same_id_twice_is_one_signal_even_after_the_end(self):
        past = history(SignalReceived("s1", "payment"), ExecutionFinished("completed"))
        assert self.wish().outcome(past) is not None

    @pytest.mark.parametrize(
        ("name", "hint"),
        [("paymnt", 'did you mean "payment"?'), ("zzz", "its signals are payment"), ("hello", 'group "team" does')],
    )
    def test_one_that_no_step_waits_for_is_unknown(self, name: str, hint: str):
        error = refused(self.wish(name), history())
        assert error.code == "signal_unknown"
        assert hint in error.detail

    def test_a_signal_of_a_group_names_the_execution_to_send_it_to(self):
        past = history(StepScheduled("team", 1, child="the-child"))
        assert "signal the-child" in refused(self.wish("hello"), past).detail

    def test_there_is_a_limit(self):
        past = history(*(SignalReceived(str(number), "payment") for number in range(SIGNALS_MAX)))
        assert refused(self.wish(), past).code == "too_many_signals"

    def test_the_end_is_the_end(self):
        assert refused(self.wish(), history(ExecutionFinished("completed"))).code == "execution_already_finished"


class TestDeciding:
    waiting = (StepWaiting("plain", 9.0, reason="approval"), StepWaiting("ask", 9.0, reason="approval"))

    def test_takes_effect_when_its_own_id_settles_the_step(self):
        past = history(*self.waiting)
        granted(deciding(), past)
        assert deciding().message(past) == VerdictRequest("e", "v1", "plain", True, note="fine", requested_by="me")
        then(past, verdict("plain", "v1"))
        assert deciding().outcome(past) == {
            "execution_id": "e",
            "step_id": "plain",
            "item": None,
            "status": "approved",
        }

    def test_a_rejection_that_fails_the_step_took_effect_too(self):
        error = ErrorInfo("approval_rejected", "rejected", "no", detail={"decision_id": "v1"})
        past = history(*self.waiting, StepFailed("plain", error))
        answer = deciding(approved=False).outcome(past)
        assert answer is not None
        assert answer["status"] == "rejected"

    def test_the_first_answer_counts_and_says_whose_it_was(self):
        past = history(*self.waiting, verdict("plain", "other"))
        assert deciding().outcome(past) is None
        error = refused(deciding(), past)
        assert error.code == "already_decided"
        assert error.detail == 'step "plain" was decided already: approved by you, 1970-01-01T00:01:40Z'

    def test_after_the_end_too_it_says_that_it_was_decided(self):
        past = history(*self.waiting, verdict("plain", "other", approved=False), ExecutionFinished("completed"))
        error = refused(deciding(), past)
        assert error.code == "already_decided"
        assert ": rejected by you" in error.detail

    def test_a_deadline_decides_as_well(self):
        late = StepFailed("plain", ErrorInfo("approval_timeout", "timeout", "late"))
        assert ": too late, " in refused(deciding(), history(*self.waiting, late)).detail

    @pytest.mark.parametrize(
        ("events", "is_so"),
        [
            ((), "it is pending"),
            ((StepWaiting("plain", 9.0, reason="breakpoint"),), "it waits for somebody to continue it"),
            ((StepWaiting("plain", 9.0, reason="approval"), StepCancelled("plain")), "it is cancelled already"),
        ],
    )
    def test_a_step_that_does_not_wait_for_it_says_what_it_does(self, events: tuple[Event, ...], is_so: str):
        error = refused(deciding(), history(*events))
        assert error.code == "step_not_waiting"
        assert is_so in error.detail

    def test_only_approvals_are_approved_and_only_steps_that_exist(self):
        assert refused(deciding("work"), history()).code == "step_not_waiting"
        unknown = refused(deciding("plian"), history())
        assert unknown.code == "step_not_found"
        assert 'did you mean "plain"?' in unknown.detail
        assert refused(deciding(item=3), history(*self.waiting)).code == "step_not_found"

    def test_items_are_decided_one_by_one(self):
        waits = [StepWaiting("plain", 9.0, item=item, reason="approval") for item in (0, 2)]
        past = history(StepExpanded("plain", 3), *waits)
        missing = refused(deciding(), past)
        assert (missing.code, missing.errors[0]["loc"]) == ("request_invalid", ["body", "item"])
        assert "0, 2 wait" in missing.detail
        granted(deciding(item=2), past)
        assert refused(deciding(item=1), past).code == "step_not_found"

    @pytest.mark.parametrize(
        ("entered", "loc"),
        [
            (None, ["body", "data"]),
            ({"amount": 11}, ["body", "data", "amount"]),
            ({"amount": "much"}, ["body", "data", "amount"]),
            ([], ["body", "data"]),
        ],
    )
    def test_an_approval_fits_the_form(self, entered: Any, loc: list[str]):
        error = refused(deciding("ask", entered=entered), history(*self.waiting))
        assert (error.code, error.errors[0]["loc"]) == ("form_invalid", loc)
        granted(deciding("ask", entered={"amount": 3}), history(*self.waiting))

    def test_a_rejection_needs_no_form_but_fits_it_if_it_has_one(self):
        granted(deciding("ask", approved=False), history(*self.waiting))
        assert refused(deciding("ask", approved=False, entered={}), history(*self.waiting)).code == "form_invalid"

    def test_without_a_form_there_is_nothing_to_enter(self):
        assert refused(deciding(entered={"x": 1}), history(*self.waiting)).code == "form_invalid"


class TestContinuing:
    held = StepWaiting("work", 9.0, reason="breakpoint", input=Payload({"n": 1}))

    def wish(self, edited: Any = None) -> Continuing:
        return Continuing("e", "c1", "me", "work", None, edited is not None, Payload(edited))

    def test_takes_effect_when_the_step_goes_on_as_it_was(self):
        past, wish = history(self.held), self.wish()
        granted(wish, past)
        assert wish.message(past) == ContinueRequest("e", "c1", "work", requested_by="me")
        assert wish.outcome(past) is None
        answer = wish.outcome(then(past, StepScheduled("work", 1, input=Payload({"n": 1}))))
        assert answer is not None
        assert answer["status"] == "continued"

    def test_takes_effect_with_the_edited_input(self):
        past, wish = history(self.held), self.wish({"n": 2})
        message = wish.message(past)
        assert isinstance(message, ContinueRequest)
        assert (message.edited, message.input) == (True, Payload({"n": 2}))
        assert wish.outcome(then(past, StepScheduled("work", 1, input=Payload({"n": 2})))) is not None

    @pytest.mark.parametrize(("edited", "went_on_with"), [(None, {"n": 2}), ({"n": 2}, {"n": 1})])
    def test_somebody_else_let_it_go_on_otherwise(self, edited: Any, went_on_with: Any):
        past, wish = history(self.held), self.wish(edited)
        wish.message(past)
        then(past, StepScheduled("work", 1, input=Payload(went_on_with)))
        with pytest.raises(Refused) as found:
            wish.outcome(past)
        assert found.value.code == "already_decided"

    def test_a_step_that_completes_on_the_spot_went_on(self):
        past, wish = history(self.held), self.wish()
        wish.message(past)
        assert wish.outcome(then(past, StepCompleted("work", output=Payload(1)))) is not None

    def test_a_step_that_was_cancelled_did_not(self):
        past, wish = history(self.held), self.wish()
        wish.message(past)
        with pytest.raises(Refused) as found:
            wish.outcome(then(past, StepCancelled("work")))
        assert found.value.code == "step_not_waiting"

    def test_a_paused_execution_is_resumed_first(self):
        assert refused(self.wish(), history(self.held, ExecutionPaused(9.0, "p"))).code == "execution_already_paused"

    def test_a_for_each_is_held_as_a_whole_and_has_no_input_to_edit(self):
        past = history(StepWaiting("each", 9.0, reason="breakpoint"))
        wish = Continuing("e", "c1", "me", "each", None, edited=False, input=NOTHING)
        granted(wish, past)
        wish.message(past)
        assert wish.outcome(then(past, StepExpanded("each", 2))) is not None
        edited = Continuing("e", "c1", "me", "each", None, edited=True, input=Payload([]))
        past = history(StepWaiting("each", 9.0, reason="breakpoint"))
        assert refused(edited, past).errors[0]["loc"] == ["body", "input"]

    def test_only_what_a_breakpoint_holds_can_be_continued(self):
        assert refused(self.wish(), history()).code == "step_not_waiting"
        assert refused(self.wish(), history(ExecutionFinished("failed"))).code == "execution_already_finished"
        approval = StepWaiting("work", 9.0, reason="approval")
        assert "it waits for an approval" in refused(self.wish(), history(approval)).detail


def test_every_wish_says_that_it_is_on_its_way_while_it_is():
    wishes: list[Wish] = [
        TestPausing.wish,
        TestResuming.wish,
        Signalling("e", "s", "", "payment", NOTHING),
        deciding(),
        deciding(approved=False),
        TestContinuing().wish(),
    ]
    words = ["pausing", "resuming", "sent", "approving", "rejecting", "continuing"]
    assert [wish.sent["status"] for wish in wishes] == words
