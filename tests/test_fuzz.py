"""The short form of `make fuzz`: each message is accepted or rejected, the same from one seed."""

import itertools

from benchmarks.fuzz import Decoders, Passed, decode_all
from benchmarks.mutations import TOPICS, Message, Mutator
from pipeline.strict_json import shape_problem
from pipeline.transactions import TransactionDecoder
from tests.armour.cases import GOOD
from tests.strategies import CARD

MESSAGES = 20_000
SEED = 1


def test_a_seed_gives_the_same_messages_again() -> None:
    first, second = (list(Mutator(SEED).messages(500)) for _ in range(2))

    assert first == second
    assert first != list(Mutator(SEED + 1).messages(500))


def test_every_mutated_message_is_accepted_or_rejected_and_none_raises() -> None:
    passed, memory = decode_all(Mutator(SEED).messages(MESSAGES), SEED, lambda *_: None)

    assert passed.failures == []
    assert passed.made == MESSAGES == passed.accepted + passed.rejected.total()
    assert min(passed.accepted, passed.rejected["malformed"], passed.rejected["schema"]) > 1_000
    assert memory.result()["peak_mb"] > 0


def test_every_mutation_is_made_of_every_input() -> None:
    messages = list(Mutator(SEED).messages(5_000))
    kinds = {name for message in messages for name in message.mutation.split()}
    whole = {message.mutation for message in messages if message.topic == TOPICS[2]}

    assert {message.topic for message in messages} == set(TOPICS)
    assert len(kinds) >= 16
    assert len(whole) > 50


def test_a_message_that_raises_is_a_failure_that_names_its_seed() -> None:
    class Broken(bytes):
        def count(self, *_: object) -> int:
            raise ZeroDivisionError

    [good] = itertools.islice((m for m in Mutator(3).messages(100) if m.mutation == "none"), 1)
    assert good.value is not None
    broken = Message(TOPICS[0], good.card, None, Broken(GOOD), [], "none")
    passed, _ = decode_all([good, broken], 3, lambda *_: None)

    assert [text.startswith("seed 3, messages 0 to 2: ZeroDivisionError") for text in
            passed.failures] == [True]  # fmt: skip
    assert passed.made != passed.accepted + passed.rejected.total()


def test_a_batch_of_good_messages_is_accepted() -> None:
    passed = Passed()
    good = [message for message in Mutator(5).messages(2_000) if message.mutation == "none"]

    Decoders().take(good, passed)

    # An event is refused that comes more than thirty days before its arrival, or after it.
    assert set(passed.rejected) <= {"out_of_time"}
    assert passed.accepted > 150


def test_the_quick_look_passes_nothing_that_the_slow_one_refuses() -> None:
    """Most records are never parsed twice: their colons are counted instead."""
    decoder = TransactionDecoder(CARD)
    values = [message.value for message in Mutator(7).messages(MESSAGES)]
    # Fields that are given twice, in every form of time, with colons in texts and behind escapes.
    times = ("1609718400000", '"2021-01-04T00:00:00Z"', r'"2021-01-04T00\u003a00\u003a00Z"',
             '"2021-01-04T01:00:00+01:00"', '"2021-01-04T01:00:00+0100"')  # fmt: skip
    added = ("", ',"x":1', ',"x":1,"x":2', ',"currency":"EUR"', ',"card_id":"c1"', ',"y":"a:b"',
             ',"event_time":1609718400000', ',"y":"a:b","x":1,"x":2',
             ',"z":{"a":1,"a":1}')  # fmt: skip
    for time, first, second in itertools.product(times, added, added):
        text = f'{{"transaction_id":"t1","event_time":{time},"card_id":"c1","terminal_id":"m1",'
        values.append(f'{text}"amount":"9.50"{first}{second}}}'.encode())

    _, rows, rejected = decoder.decode(values)

    twice = [values[row] for row in rows if shape_problem(values[row] or b"", ())]
    assert twice == []
    assert len(rows) > 1_000 and len(rejected) > 1_000
