"""What must hold of every history: found by a plain fold of what was sent."""

from collections import Counter, defaultdict

import msgspec

from pipeline.commit import decode_outbox
from tests.simulation.life import PARTITIONS, Life
from tests.simulation.parts import (
    DEAD_LETTERS,
    DECISIONS,
    MODELS,
    NO_HISTORY,
    TRAINING,
    Fold,
    chained,
    is_bad,
)
from tests.simulation.world import Place


def check(life: Life) -> None:
    """Raise an AssertionError that says what does not hold."""
    check_decisions(life)
    check_index(life)
    check_outboxes(life)
    check_labels(life)
    check_training(life)


def distinct(life: Life, place: Place) -> dict[bytes, bytes]:
    """Give the records of a partition by key, in the order of their first appearance."""
    found: dict[bytes, bytes] = {}
    for key, value in life.world.log.records[place]:
        assert found.setdefault(key, value) == value, f"{place}: {key!r} is contradicted"
    return found


def check_decisions(life: Life) -> None:
    """Every input has one distinct decision or dead letter, made of the sequential fold."""
    letters = distinct(life, (DEAD_LETTERS, 0))
    for p in range(PARTITIONS):
        cards: dict[str, tuple[int, str]] = {}
        expected: dict[bytes, str] = {}
        for key, value in life.sent.transactions[p]:
            if is_bad(key):
                assert key in letters, f"{key!r} has no dead letter"
                continue
            count, chain = cards.get(value.decode(), NO_HISTORY)
            expected[key] = f"{count}/{chain}"
            cards[value.decode()] = count + 1, chained(chain, key)
        found = distinct(life, (DECISIONS, p))
        assert list(found) == list(expected), f"decisions of {p}: lost, invented or out of order"
        for key, value in found.items():
            assert value.decode().split("/", 2)[2] == expected[key], f"{key!r}: a wrong state"
        for card, row in cards.items():
            assert life.world.store.state[f"c:{p}:{card}"] == row, f"{card} is not the fold"
    sent = [key for part in life.sent.transactions for key, _ in part]
    assert sum(map(is_bad, sent)) == len(letters), "dead letters were invented"


def check_index(life: Life) -> None:
    """Every decision is found where the index says."""
    for p, sent in enumerate(life.sent.transactions):
        decisions = life.world.log.records[DECISIONS, p]
        for key, _ in sent:
            if not is_bad(key):
                offset = life.world.store.state[f"i:{key.decode()}"]
                assert decisions[offset][0] == key, f"{key!r} is not at {offset}"


def check_outboxes(life: Life) -> None:
    """Commits follow each other, and what each one held is in the log."""
    logs: defaultdict[Place, set[tuple[bytes, bytes]]] = defaultdict(set)
    for place, records in life.world.log.records.items():
        logs[place].update(records)
    for name, history in life.world.store.history.items():
        positions = [stored.position for _, stored in history]
        assert [expected for expected, _ in history] == [None, *positions[:-1]], name
        for _, stored in history:
            for item in decode_outbox(stored.outbox):
                assert (item.key, item.value) in logs[item.topic, item.partition], (
                    f"{name} committed {item.key!r}, which was never published"
                )


def check_labels(life: Life) -> None:
    """Every label is learned once or counted as repeated, numbered without a hole."""
    examples = distinct(life, (TRAINING, 0))
    numbers: defaultdict[int, list[int]] = defaultdict(list)
    for value in examples.values():
        partition, seq, *_ = msgspec.json.decode(value)
        numbers[partition].append(seq)
    for p, labels in enumerate(life.sent.labels):
        expected = Counter(key for key, _ in labels)
        assert numbers[p] == list(range(len(expected))), f"training numbers of {p}"
        assert set(expected) <= set(examples), f"labels of {p} were lost"
        learned = life.world.store.state.get(f"ledger:{p}:learned", 0)
        repeated = life.world.store.state.get(f"ledger:{p}:repeated", 0)
        assert (learned, learned + repeated) == (len(expected), len(labels)), f"ledger of {p}"


def check_training(life: Life) -> None:
    """Models and rows are those of one fold of the log."""
    log = life.world.log.records[TRAINING, 0]
    snapshots = {
        int(key): msgspec.json.decode(value) for key, value in distinct(life, (MODELS, 0)).items()
    }
    fold, rows = Fold(), defaultdict[str, str](str)
    for offset, (_, value) in enumerate(log, start=1):
        for fresh in fold.fresh([value]):
            fold.learn([fresh])
            name = f"l:{msgspec.json.decode(fresh)[3][-1]}"
            rows[name] = chained(rows[name], fresh)
        if offset in snapshots:
            assert snapshots[offset] == [offset, fold.chain, fold.marks], f"snapshot of {offset}"
    for name, row in rows.items():
        assert life.world.store.state[name] == row, f"{name} is not the fold"
