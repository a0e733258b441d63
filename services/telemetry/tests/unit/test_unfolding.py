"""What is projected of a stream that holds compacted logs: every transition once, and the offset that may be kept."""

from collections.abc import Iterator
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from millrace_shared.bus.compacted import Entry, pack
from millrace_shared.codec import decode_transition
from millrace_shared.messages import Transition
from millrace_shared.subjects import execution_id_of, log
from millrace_shared.testing.logs import encoded, interleaved, random_log
from millrace_telemetry.adapters.follower import Message
from millrace_telemetry.adapters.store import Offset
from millrace_telemetry.unfolding import Item, compacted_of, unfold


def stream_of(logs: list[list[Transition]], random: Random) -> tuple[list[Message], list[Message]]:
    """Return a stream before, and after some of its logs were compacted; of those a beginning may be left."""
    merged = interleaved(random, logs)
    before = [
        Message(number, log(one.execution_id), payload)
        for number, (one, payload) in enumerate(zip(merged, encoded(merged), strict=True), 1)
    ]
    after = list(before)
    for number, subject in enumerate({one.subject for one in before}):
        if random.random() < 0.7:
            own = [one for one in before if one.subject == subject]
            left = random.choice((0, 0, len(own)))
            packed = pack([Entry(one.sequence, one.payload) for one in own], 1.0)
            after = [one for one in after if one not in own[left:]]
            after.append(Message(len(before) + 1 + number, subject, packed))
    return before, after


def committed(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    yield batch


@given(seed=st.integers(0, 10_000), size=st.integers(1, 9), crash=st.integers(0, 30))
def test_every_transition_is_projected_once_in_order_wherever_one_is_interrupted(
    seed: int, size: int, crash: int
) -> None:
    random = Random(seed)
    before, after = stream_of([random_log(random, finished=True) for _ in range(3)], random)
    written: list[Message] = []
    offset = Offset()
    while offset.sequence < after[-1].sequence:
        rest = [one for one in after if one.sequence > offset.sequence]
        versions = {execution_id_of(one.subject): decode_transition(one.payload).version for one in written}
        known = {one: versions[one] for one in compacted_of(rest) if one in versions}
        for number, batch in enumerate(committed(unfold(rest, offset, known), size)):
            if number and number == crash:
                break
            written += [item.message for item in batch if item.message is not None]
            offset = batch[-1].offset if batch else offset
    assert len(written) == len(before)
    for subject in {one.subject for one in before}:
        own = [one for one in before if one.subject == subject]
        assert [one for one in written if one.subject == subject] == own


def test_a_compacted_log_that_is_known_to_its_end_moves_the_offset_only() -> None:
    random = Random(3)
    own = random_log(random, finished=True)
    subject = log(own[0].execution_id)
    packed = pack([Entry(n, payload) for n, payload in enumerate(encoded(own), 1)], 1.0)
    items = list(unfold([Message(99, subject, packed)], Offset(98, "x"), {own[0].execution_id: len(own)}))
    assert items == [Item(None, Offset(99, subject))]
    assert not items[0].was_unfolded
