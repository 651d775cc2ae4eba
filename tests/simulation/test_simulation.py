"""The protocol under simulated faults: every seed is another order of everything."""

import hashlib
import types
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import pytest

from pipeline.commit import Input, OutboxRecord
from tests.mutants import BY_NAME, mutated
from tests.simulation.__main__ import simulate
from tests.simulation.checks import check
from tests.simulation.life import Life
from tests.simulation.world import Process, World

SEEDS, EVENTS = 200, 400
A_QUARTER = [range(first, first + SEEDS // 4) for first in range(0, SEEDS, SEEDS // 4)]
OWNERS_EACH = 2


@pytest.mark.parametrize("seeds", A_QUARTER, ids=lambda seeds: f"{seeds.start}-{seeds.stop - 1}")
def test_nothing_is_lost_doubled_or_contradicted(seeds: range) -> None:
    faults: Counter[str] = Counter()
    for seed in seeds:
        faults.update(simulate(seed, events=EVENTS).faults)

    assert min(faults[name] for name in ("crash", "sleep", "move", "late commit")) >= len(seeds)


def test_a_seed_is_the_same_life_again() -> None:
    def digest(seed: int) -> str:
        world = simulate(seed, events=EVENTS).world
        text = repr([[len(r), r[-1:]] for r in world.log.records.values()]) + repr(world.clock)
        return hashlib.sha256(text.encode()).hexdigest()

    # The numbers that never come again are drawn by the process, so only their count may differ.
    first, second = simulate(7, events=EVENTS).world, simulate(7, events=EVENTS).world

    assert (first.clock, first.refused) == (second.clock, second.refused)
    assert [stored.position for _, stored in first.store.history["transactions:0"]] == [
        stored.position for _, stored in second.store.history["transactions:0"]
    ]
    assert digest(7) != digest(8)


def test_a_seed_that_fails_says_how_to_see_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Life, "run", lambda life: life.sent.labels[0].append((b"label", b"t")))

    with pytest.raises(AssertionError, match="make simulate FIRST=3 SEEDS=1 EVENTS=400"):
        simulate(3, events=EVENTS)


@pytest.mark.parametrize(
    "name", [name for name, mutation in BY_NAME.items() if mutation.is_seen_in_simulation]
)
def test_the_simulation_sees_a_protocol_that_is_broken(name: str) -> None:
    broken = mutated(BY_NAME[name]).Input

    for seed in range(SEEDS):
        try:
            life = Life(seed, events=EVENTS, kind=broken)
            life.run()
            check(life)
        except AssertionError:
            return
    raise AssertionError(f"{SEEDS} seeds hold without it")


def after_the_race(kind: type[Input]) -> list[bytes]:
    """Let the owner die between its commit and its publication while a zombie wakes; step by step.

    Gives the keys that were published.
    """
    world = World(0)
    zombie = owner_of(world, "zombie", kind)
    finish(world, zombie.recover())
    owner = owner_of(world, "owner", kind)
    finish(world, owner.recover())
    # The zombie has computed from the beginning, and sleeps just before its commit.
    process = Process("owner")
    running = world.start(owner.begin("5", [record("a"), record("b")], []), process)
    while "transactions:0" not in world.store.stored:
        running.running.send(None)
    world.kill(process)

    assert finish(world, zombie.commit("3", [record("z")], [])) is False
    assert zombie.position == "5"
    assert finish(world, zombie.commit("6", [record("c")], [])) is True
    return [key for key, _ in world.log.records["decisions", 0]]


def owner_of(world: World, name: str, kind: type[Input]) -> Input:
    publish = world.publisher(Process(name))
    return kind(world.store, publish, name="transactions:0", owner=name)


def record(key: str) -> OutboxRecord:
    return OutboxRecord("decisions", 0, key.encode(), b"v")


def finish(world: World, running: Coroutine[Any, Any, Any]) -> Any:
    """Let one coroutine come to its end, and all that it has set going."""
    given: list[Any] = []

    async def keep() -> None:
        given.append(await running)

    world.start(keep(), Process("test"))
    while world.actors:
        world.advance()
    return given[0]


def test_rule_r_saves_what_a_dead_owner_committed_from_a_zombie_that_wakes() -> None:
    assert after_the_race(Input) == [b"a", b"b", b"c"]


def test_without_rule_r_that_race_loses_decisions() -> None:
    module: types.ModuleType = mutated(BY_NAME["rule R after a refusal"])

    assert after_the_race(module.Input) == [b"c"]
