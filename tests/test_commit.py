"""The batch commit under every fault: nothing is lost, nothing is decided twice differently.

The store and the publisher take a step before and after all that they do. A test drives the
coroutines step by step, so that an owner can die, sleep or be overtaken at each of them.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Coroutine, Generator, Iterator, Sequence
from itertools import count, repeat
from types import coroutine
from typing import Any

import lz4.frame
import msgspec
import numpy as np
import pytest

from pipeline.commit import (
    COMPRESSED_FROM,
    Change,
    Input,
    Outbox,
    OutboxRecord,
    State,
    Store,
    Stored,
    UnknownResultError,
    decode_outbox,
    encode_outbox,
    resume_at,
)
from pipeline.errors import CommitError

NAME = "transactions:0"
ANSWERED, UNANSWERED, LOST, LATE = "answered", "unanswered", "lost", "late"
STEPS_MAX = 20_000


@coroutine
def step() -> Generator[None, None, None]:
    """Let the driver of a coroutine choose what happens next."""
    yield


class MemoryStore:
    """A store whose commits meet a fate each.

    Answered; done but unanswered; lost before they are done; or done late, after the owner was
    told that the result is unknown.
    """

    def __init__(self, fates: Iterator[str] | None = None) -> None:
        self._fates = fates or repeat(ANSWERED)
        self.stored = Stored(None, b"")
        self.commits: list[tuple[str | None, Stored]] = []
        self.changes: Counter[Change] = Counter()
        self.late: list[tuple[str | None, Stored, Sequence[Change]]] = []

    async def load(self, name: str) -> Stored:
        await step()
        found = self.stored
        await step()
        return found

    async def position(self, name: str) -> str | None:
        return (await self.load(name)).position

    async def commit(
        self, name: str, expected: str | None, stored: Stored, changes: Sequence[Change]
    ) -> bool:
        await step()
        fate = next(self._fates)
        if fate == LATE:
            self.late.append((expected, stored, changes))
        done = fate in (ANSWERED, UNANSWERED) and self.apply(expected, stored, changes)
        await step()
        if fate != ANSWERED:
            raise UnknownResultError
        return done

    def apply(self, expected: str | None, stored: Stored, changes: Sequence[Change]) -> bool:
        if self.stored.position != expected:
            return False
        self.stored = stored
        self.commits.append((expected, stored))
        self.changes.update(changes)
        return True


class Acknowledgement:
    """What is awaited of records that were handed over; each step lands one of them."""

    def __init__(self, log: list[OutboxRecord], records: Sequence[OutboxRecord]) -> None:
        self._log, self._records = log, records

    def __await__(self) -> Generator[None, None, list[int]]:
        offsets = []
        for record in self._records:
            yield
            offsets.append(len(self._log))
            self._log.append(record)
        yield
        return offsets


class RecordingPublisher:
    """Keeps what is published, record by record."""

    def __init__(self) -> None:
        self.handed_over: list[OutboxRecord] = []
        self.published: list[OutboxRecord] = []

    async def __call__(self, records: Sequence[OutboxRecord]) -> Acknowledgement:
        self.handed_over += records
        await step()
        return Acknowledgement(self.published, records)


class FailedAcknowledgement:
    """Says that records did not arrive."""

    def __await__(self) -> Generator[None, None, list[int]]:
        yield
        raise ConnectionError


class FailingPublisher:
    """Never gets an acknowledgement."""

    async def __call__(self, records: Sequence[OutboxRecord]) -> FailedAcknowledgement:
        return FailedAcknowledgement()


class FailsOnce:
    """Gets its second acknowledgement no sooner than it is asked again."""

    def __init__(self, publish: RecordingPublisher) -> None:
        self._publish, self._calls = publish, count()

    async def __call__(self, records: Sequence[OutboxRecord]) -> Any:
        return FailedAcknowledgement() if next(self._calls) == 1 else await self._publish(records)


class ForgetfulInput(Input):
    """Breaks Rule R: takes over a position without its outbox."""

    async def recover(self) -> str | None:
        self.position = (await self._store.load(self._name)).position
        self._state = State.SETTLED
        return self.position


def advance(running: Coroutine[Any, Any, Any]) -> bool:
    """Take one step; say whether there are more."""
    try:
        running.send(None)
    except StopIteration:
        return False
    return True


def run(running: Coroutine[Any, Any, Any]) -> Any:
    """Take all steps, and give the result."""
    for _ in range(STEPS_MAX):
        try:
            running.send(None)
        except StopIteration as done:
            return done.value
    raise AssertionError("it never ends")


def record(key: str, value: str = "v") -> OutboxRecord:
    return OutboxRecord("decisions", 0, key.encode(), value.encode(), [("h", b"x")])


def recovered(store: Store, publish: Any, *, owner: str = "first") -> Input:
    taken = owned(store, publish, owner=owner)
    run(taken.recover())
    return taken


def dying(store: Store) -> Input:
    """Give an owner that will never publish."""
    return recovered(store, FailsOnce(RecordingPublisher()), owner="dead")


def owned(store: Store, publish: Any, *, owner: str = "first", kind: type[Input] = Input) -> Input:
    return kind(store, publish, name=NAME, owner=owner)


def test_a_commit_stores_and_then_publishes() -> None:
    store, publish = MemoryStore(), RecordingPublisher()
    taken = owned(store, publish)

    assert run(taken.recover()) is None
    assert run(taken.commit("5", [record("a")], [("SET", "x")])) is True

    assert store.stored.position == taken.position == "5"
    assert publish.published == [record("a")]
    assert store.changes == {("SET", "x"): 1}


def test_nothing_is_published_before_it_is_committed() -> None:
    store, publish = MemoryStore(), RecordingPublisher()
    taken = owned(store, publish)
    run(taken.recover())
    running = taken.commit("5", [record("a")], [])

    while advance(running):
        assert not publish.handed_over or store.commits
    assert publish.published == [record("a")]


def test_a_new_owner_publishes_what_the_last_one_committed() -> None:
    store = MemoryStore()
    with pytest.raises(ConnectionError):
        run(dying(store).commit("5", [record("a"), record("b")], []))
    publish = RecordingPublisher()

    position = run(owned(store, publish, owner="second").recover())

    assert position == "5"
    assert publish.published == [record("a"), record("b")]


def test_an_owner_that_could_not_publish_takes_over_before_he_moves_on() -> None:
    store, publish = MemoryStore(), RecordingPublisher()
    taken = recovered(store, FailsOnce(publish))

    with pytest.raises(ConnectionError):
        run(taken.commit("5", [record("a")], []))
    with pytest.raises(AssertionError, match="takes over"):
        run(taken.commit("6", [record("b")], []))

    assert run(taken.recover()) == "5"
    assert run(taken.commit("6", [record("b")], [])) is True
    assert publish.published == [record("a"), record("b")]


def test_an_owner_that_has_not_taken_over_cannot_commit() -> None:
    store = MemoryStore()

    with pytest.raises(AssertionError, match="takes over"):
        run(owned(store, RecordingPublisher()).commit("5", [record("a")], []))
    assert store.commits == []


def test_the_next_batch_may_be_computed_while_the_last_one_is_published() -> None:
    store, publish = MemoryStore(), RecordingPublisher()
    taken = recovered(store, publish)

    assert run(taken.begin("5", [record("a")], [])) is True
    assert (taken.position, store.stored.position, publish.published) == ("5", "5", [])

    running = taken.begin("6", [record("b")], [])
    while advance(running):
        # Not stored before the outbox before has landed.
        assert publish.published == [record("a")] or store.stored.position == "5"
    assert taken.landed == [(record("a"), 0)]
    assert run(taken.published()) == [(record("b"), 1)]


def test_whoever_takes_over_anew_waits_for_what_he_sent_himself() -> None:
    store, publish = MemoryStore(), RecordingPublisher()
    taken = recovered(store, publish)
    run(taken.begin("5", [record("a"), record("b")], []))

    assert run(taken.recover()) == "5"

    assert publish.published == [record("a"), record("b")] * 2
    assert [offset for _, offset in taken.landed] == [2, 3]


def test_a_stale_commit_is_refused_and_changes_nothing() -> None:
    store, publish = MemoryStore(), RecordingPublisher()
    zombie, owner = recovered(store, publish), recovered(store, publish, owner="second")
    run(owner.commit("5", [record("a")], [("SET", "x")]))
    before = store.stored

    assert run(zombie.commit("3", [record("a", "other")], [("SET", "y")])) is False

    assert store.stored == before
    assert store.changes == {("SET", "x"): 1}
    assert record("a", "other") not in publish.published


def test_whoever_is_refused_publishes_the_outbox_that_stands_before_anything_else() -> None:
    store, publish = MemoryStore(), RecordingPublisher()
    zombie = recovered(store, publish)
    with pytest.raises(ConnectionError):
        run(dying(store).commit("5", [record("a")], []))

    run(zombie.commit("3", [record("z")], []))

    assert publish.published == [record("a")]
    assert (zombie.position, zombie.refused) == ("5", 1)
    run(zombie.commit("6", [record("b")], []))
    assert publish.published == [record("a"), record("b")]


@pytest.mark.parametrize(
    "fates", [[ANSWERED], [UNANSWERED], [LOST, ANSWERED], [LOST, LOST, UNANSWERED]]
)
def test_without_an_answer_the_store_says_whether_it_happened(fates: list[str]) -> None:
    store, publish = MemoryStore(iter(fates)), RecordingPublisher()
    taken = recovered(store, publish)

    assert run(taken.commit("5", [record("a")], [("INCR", "n")])) is True

    assert publish.published == [record("a")]
    assert (taken.position, taken.refused) == ("5", 0)
    assert store.changes == Counter({("INCR", "n"): 1})


def test_an_equal_commit_of_another_owner_is_not_taken_for_ones_own() -> None:
    store, publish = MemoryStore(iter([ANSWERED, LOST, ANSWERED])), RecordingPublisher()
    first, second = recovered(store, publish), recovered(store, publish, owner="second")
    run(first.commit("5", [record("a")], []))

    assert run(second.commit("5", [record("a")], [])) is False


def test_a_commit_that_happens_after_it_was_sent_again_changes_nothing() -> None:
    store, publish = MemoryStore(iter([LATE, ANSWERED])), RecordingPublisher()
    taken = recovered(store, publish)
    assert run(taken.commit("5", [record("a")], [("INCR", "n")])) is True

    [late] = store.late

    assert store.apply(*late) is False
    assert store.changes == Counter({("INCR", "n"): 1})


class TardyStore(MemoryStore):
    """Does a late commit just before the next one comes."""

    async def commit(
        self, name: str, expected: str | None, stored: Stored, changes: Sequence[Change]
    ) -> bool:
        for late in self.late:
            self.apply(*late)
        return await super().commit(name, expected, stored, changes)


def test_a_commit_that_was_sent_again_is_not_refused_by_its_own_first_success() -> None:
    store, publish = TardyStore(iter([LATE, ANSWERED])), RecordingPublisher()
    taken = recovered(store, publish)

    assert run(taken.commit("5", [record("a")], [("INCR", "n")])) is True

    assert publish.published == [record("a")]
    assert store.changes == Counter({("INCR", "n"): 1})


def test_an_idle_owner_publishes_what_another_one_committed_late() -> None:
    store, publish = MemoryStore(iter([LATE])), RecordingPublisher()
    dead = recovered(store, publish, owner="dead")
    running = dead.commit("5", [record("a")], [])
    while not store.late:
        advance(running)
    running.close()
    taken = recovered(store, publish, owner="second")
    assert run(taken.is_current()) is True

    store.apply(*store.late[0])

    assert run(taken.is_current()) is False
    assert (taken.position, publish.published) == ("5", [record("a")])
    assert run(taken.is_current()) is True


def test_a_step_that_moves_nothing_is_a_mistake_of_ours() -> None:
    taken = recovered(MemoryStore(), RecordingPublisher())
    run(taken.commit("5", [], []))

    with pytest.raises(AssertionError, match="fenced"):
        run(taken.commit("5", [], []))


def test_every_commit_has_an_outbox_of_its_own() -> None:
    store, publish = MemoryStore(), RecordingPublisher()
    for owner in ("first", "second"):
        taken = owned(store, publish, owner=owner)
        run(taken.recover())
        for position in ("5", "6"):
            run(taken.commit(f"{position}{owner}", [], []))

    outboxes = [stored.outbox for _, stored in store.commits]
    assert len(outboxes) == len(set(outboxes)) == 4


def test_a_record_comes_back_from_the_outbox_as_it_was() -> None:
    odd = OutboxRecord("t", 7, None, None, [])
    bytes_of_all_kinds = OutboxRecord("t", 0, b"\xff\0", bytes(range(256)), [("n", b"\xff")])
    store, publish = MemoryStore(), RecordingPublisher()
    run(recovered(store, publish).commit("1", [odd, bytes_of_all_kinds], []))

    run(owned(store, publish, owner="second").recover())

    assert publish.published == [odd, bytes_of_all_kinds] * 2


def test_a_large_outbox_is_compressed_and_comes_back_as_it_was() -> None:
    records = [record(f"a{number}", "v" * 500) for number in range(100)]
    store, publish = MemoryStore(), RecordingPublisher()
    run(recovered(store, publish).commit("1", records, []))

    assert len(store.stored.outbox) < 5_000
    assert decode_outbox(store.stored.outbox) == records


@pytest.mark.parametrize("size", [COMPRESSED_FROM - 60, COMPRESSED_FROM, COMPRESSED_FROM + 60])
def test_an_outbox_of_any_size_is_read_back(size: int) -> None:
    values = np.random.default_rng(size).bytes(size), b"v" * size
    outbox = Outbox("first:0", [OutboxRecord("t", 0, None, value) for value in values])

    assert decode_outbox(encode_outbox(outbox)) == outbox.records
    # As an owner of before wrote it.
    assert decode_outbox(msgspec.msgpack.encode(outbox)) == outbox.records


def stored_outbox(records: list[OutboxRecord]) -> bytes:
    store = MemoryStore()
    run(recovered(store, RecordingPublisher()).commit("5", records, []))
    return store.stored.outbox


def damaged() -> dict[str, bytes]:
    whole = stored_outbox([record("a")])
    large = stored_outbox([record(f"a{number}") for number in range(1_000)])
    return {
        "large and cut": large[:-1],
        "large and cut short": large[:5],
        "large and longer": large + b"x",
        "large and spoiled": large[:50] + bytes(9) + large[59:],
        "large, of nothing": lz4.frame.compress(b"outbox"),
        "cut": whole[:-1],
        "longer": whole + b"x",
        "text": b"outbox",
        "null": b"\xc0",
        "no records": msgspec.msgpack.encode(["first:0"]),
        "wrong type": msgspec.msgpack.encode(["first:0", [["t", "0", None, None]]]),
        "no UTF-8": whole.replace(b"decisions", b"decision\xff"),
    }


@pytest.mark.parametrize("outbox", damaged().values(), ids=damaged().keys())
def test_a_damaged_outbox_is_said_and_never_passed_over(outbox: bytes) -> None:
    store, publish = MemoryStore(), RecordingPublisher()
    store.stored = Stored("5", outbox)
    taken = owned(store, publish)

    with pytest.raises(CommitError, match=f"outbox of {NAME} is damaged"):
        run(taken.recover())
    assert taken.position is None
    assert publish.published == []


@pytest.mark.parametrize(("position", "expected"), [(None, 3), (3, 3), (5, 5), (7, 7)], ids=str)
def test_a_log_is_read_on_where_the_store_stands(position: int | None, expected: int) -> None:
    assert resume_at("transactions[2]", position, first=3, end=7) == expected


@pytest.mark.parametrize("position", [-1, 0, 2, 8])
def test_a_position_that_the_log_does_not_hold_is_never_passed_over(position: int) -> None:
    with pytest.raises(CommitError, match=rf"transactions\[2\] .* 3 to 7, .* at {position}: "):
        resume_at("transactions[2]", position, first=3, end=7)


EVENTS = 8


class Simulation:
    """Owners of one input, who write their name into what they decide."""

    def __init__(self, seed: int, *, fates: Iterator[str], kind: type[Input] = Input) -> None:
        self._random = random.Random(seed)
        self._kind = kind
        self._names = count()
        self.store = MemoryStore(fates)
        self.publish = RecordingPublisher()

    async def own(self) -> None:
        """Recover, then take step after step until all events are done."""
        owner = f"owner-{next(self._names)}"
        taken = owned(self.store, self.publish, owner=owner, kind=self._kind)
        await taken.recover()
        while (start := int(taken.position or 0)) < EVENTS:
            events = range(start, min(start + self._random.randint(1, 3), EVENTS))
            records = [record(str(number), owner) for number in events]
            # Half of the owners compute while they publish.
            step_on = taken.begin if int(owner[-1]) % 2 else taken.commit
            await step_on(str(events.stop), records, [(number,) for number in events])
        await taken.published()

    def check(self) -> None:
        """Say what must hold once an owner has come to the end."""
        values: defaultdict[bytes | None, set[bytes | None]] = defaultdict(set)
        for given in self.publish.published:
            values[given.key].add(given.value)
        assert set(values) == {b"%d" % number for number in range(EVENTS)}, "lost"
        assert all(len(different) == 1 for different in values.values()), "contradicted"
        positions = [stored.position for _, stored in self.store.commits]
        assert [expected for expected, _ in self.store.commits] == [None, *positions[:-1]]
        assert positions[-1] == str(EVENTS)
        assert self.store.changes == {(number,): 1 for number in range(EVENTS)}


def steps_of_one_owner() -> int:
    running = Simulation(1, fates=repeat(ANSWERED)).own()
    return next(number for number in count(1) if not advance(running))


def paused(simulation: Simulation, steps: int) -> Coroutine[Any, Any, None]:
    running = simulation.own()
    for _ in range(steps):
        if not advance(running):
            break
    return running


@pytest.mark.parametrize("fate", [ANSWERED, UNANSWERED])
def test_an_owner_may_die_at_any_step(fate: str) -> None:
    for died in range(steps_of_one_owner()):
        simulation = Simulation(1, fates=repeat(fate))
        paused(simulation, died).close()

        run(simulation.own())

        simulation.check()


def test_an_owner_may_sleep_at_any_step_and_wake_when_all_is_done() -> None:
    for slept in range(steps_of_one_owner()):
        simulation = Simulation(1, fates=repeat(ANSWERED))
        zombie = paused(simulation, slept)
        run(simulation.own())

        run(zombie)

        simulation.check()


def test_an_owner_may_wake_after_the_next_one_died_at_any_step() -> None:
    steps = steps_of_one_owner()
    for slept in range(steps):
        for died in range(steps):
            simulation = Simulation(1, fates=repeat(ANSWERED))
            zombie = paused(simulation, slept)
            paused(simulation, died).close()

            run(zombie)

            simulation.check()


def interleave(seed: int, kind: type[Input] = Input) -> Simulation:
    """Run two owners in a random order; they die and are replaced, commits meet any fate."""
    chance = random.Random(seed)
    fates = iter(lambda: chance.choice([ANSWERED, ANSWERED, UNANSWERED, LOST, LATE]), "")
    simulation = Simulation(seed, fates=fates, kind=kind)
    owners, deaths = [simulation.own(), simulation.own()], chance.randint(0, 12)
    for _ in range(STEPS_MAX):
        if not owners:
            return simulation
        if simulation.store.late and chance.random() < 0.1:
            simulation.store.apply(*simulation.store.late.pop(0))
        place = chance.randrange(len(owners))
        if deaths and chance.random() < 0.05:
            owners[place].close()
            owners[place] = simulation.own()
            deaths -= 1
        elif not advance(owners[place]):
            del owners[place]
    raise AssertionError("it never ends")


@pytest.mark.parametrize("seeds", [range(first, first + 1000) for first in range(0, 4000, 1000)])
def test_owners_in_any_order_with_any_fault_lose_and_contradict_nothing(seeds: range) -> None:
    for seed in seeds:
        simulation = interleave(seed)
        try:
            simulation.check()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


def test_the_simulation_finds_who_breaks_rule_r() -> None:
    lost = 0
    for seed in range(100):
        try:
            interleave(seed, ForgetfulInput).check()
        except AssertionError:
            lost += 1

    assert lost > 0
