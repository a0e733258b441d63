import pytest

from millrace_shared.codec import encode
from millrace_shared.errors import MessageInvalid
from millrace_shared.gates import (
    GateDocument,
    GateState,
    Notice,
    Terms,
    Ticket,
    Waiting,
    decode_gate,
    decode_ticket,
)
from millrace_shared.ids import gate_id, is_execution_id

STATE = GateState(Terms(3, 2, 60.0, 0.0, "drop"), 17, ("a", "b"), ("a",), (Waiting("c", 18, 5.0),), ((7, 1),))


@pytest.mark.parametrize("document", [GateDocument(1.0), GateDocument(2.0, STATE, (Notice("a", "cancel"),))])
def test_a_document_is_read_back(document: GateDocument):
    assert decode_gate(encode(document)) == document


@pytest.mark.parametrize("ticket", [Ticket(1.5), Ticket(2.5, "refused")])
def test_a_ticket_is_read_back(ticket: Ticket):
    assert decode_ticket(encode(ticket)) == ticket


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b'{"at":"soon"}', b"[" * 10_000])
def test_other_bytes_are_refused(data: bytes):
    with pytest.raises(MessageInvalid):
        decode_gate(data)
    with pytest.raises(MessageInvalid):
        decode_ticket(data)


def test_a_gate_is_one_for_each_workspace_workflow_rule_and_key():
    parts = [("w", "f", "throttle", "k"), ("v", "f", "throttle", "k"), ("w", "g", "throttle", "k")]
    parts += [("w", "f", "debounce", "k"), ("w", "f", "throttle", ""), ("w", "f", "throttle", "k\x00")]
    assert len({gate_id(*one) for one in parts}) == len(parts)
    assert gate_id(*parts[0]) == gate_id(*parts[0])
    assert is_execution_id(gate_id(*parts[0]))  # it is a token of subjects, and has a partition
