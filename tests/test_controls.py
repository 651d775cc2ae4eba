"""The controls log: what counts, what it makes, and what it does to a decision."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from models import make_model
from pipeline.breaker import MINUTE_MS
from pipeline.controls import (
    Allow,
    Block,
    Control,
    ControlLog,
    Controls,
    Freeze,
    Rollback,
    SetMode,
    Unfreeze,
    Unlist,
    encode_control,
    fold,
)
from pipeline.engine import Decisions, Engine, Version
from pipeline.events import Transactions
from pipeline.feedback import MemoryWaiting
from pipeline.keys import init_keys, retire, rotate
from pipeline.learner import Learner
from pipeline.profiles import MemoryProfiles
from pipeline.records import DecisionRecord, encode_record
from pipeline.settings import Settings
from pipeline.signing import ControlSigner, ControlVerifier, Headers, ModelSigner
from tests.strategies import CARD, HOUR_MS, MONDAY_MS, traffic, visits

SAID = ("ana", "because", MONDAY_MS)
# Every event is declined: what a list or the breaker did is seen at once.
ALL_DECLINED = Settings(
    mode="act", review_score_min=1e-9, decline_score_min=2e-9, breaker_decline_share_max=0.0
)


def signed(settings: Settings, control: Control) -> tuple[bytes, Headers]:
    value = encode_control(control)
    return value, ControlSigner(settings).headers(None, value)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    init_keys(tmp_path)
    return Settings(keys_dir=str(tmp_path))


@pytest.fixture
def log(settings: Settings) -> ControlLog:
    return ControlLog("observe", ["card", "terminal"], ControlVerifier(settings))


def test_the_last_word_of_each_kind_is_in_force() -> None:
    words = [
        SetMode("k0", *SAID, mode="act"),
        Block("k1", *SAID, entity="card", id="c1", until=5),
        Block("k2", *SAID, entity="card", id="c1"),
        Allow("k3", *SAID, entity="terminal", id="m1"),
        Freeze("k4", *SAID, version="additive@9"),
        Rollback("k5", *SAID, version="additive@3"),
    ]
    state = fold("observe", enumerate(words))

    assert (state.mode, state.mode_is_said, state.offset, state.pinned) == (
        "act", True, 5, "additive@3",
    )  # fmt: skip
    assert state.blocked == {"card": {"c1": words[2]}}
    assert state.allowed == {"terminal": {"m1": words[3]}}

    words += [
        SetMode("k6", *SAID, mode="observe"),
        Unlist("k7", *SAID, entity="card", id="c1"),
        Unlist("k8", *SAID, entity="terminal", id="never listed"),
        Unfreeze("k9", *SAID),
    ]
    state = fold("act", enumerate(words))
    assert (state.mode, state.offset, state.pinned) == ("observe", 9, None)
    assert (state.blocked, list(state.allowed)) == ({}, ["terminal"])


def test_before_any_word_the_settings_hold() -> None:
    assert fold("act", []) == Controls("act")
    assert fold("act", []).offset == -1


def test_any_offset_that_counts_gives_its_state_again(settings: Settings, log: ControlLog) -> None:
    for offset, mode in ((3, "act"), (7, "observe")):
        log.take(offset, None, *signed(settings, SetMode(f"k{offset}", *SAID, mode=mode)))  # type: ignore[arg-type]

    assert [getattr(log.at(offset), "mode", None) for offset in (-1, 3, 5, 7, 8)] == [
        "observe", "act", None, "observe", None,
    ]  # fmt: skip
    assert log.state == log.at(7)


def refusals(settings: Settings, log: ControlLog) -> list[tuple[bytes, Headers, str]]:
    """Give records that must not count, each with the fault that it has."""
    value, headers = signed(settings, SetMode("k1", *SAID, mode="act"))
    other = msgspec.json.encode(msgspec.json.decode(value) | {"mode": "observe"})
    pointer = ModelSigner(settings).headers(None, value)
    strange = Block("k2", *SAID, entity="device", id="d1")
    nowhere = Rollback("k3", *SAID, version="latest")
    unsaid = encode_control(SetMode("k4", "ana", "", MONDAY_MS, mode="act"))
    return [
        (value, (), "signature"),
        (value, [*headers, *headers], "signature"),
        (other, headers, "signature"),
        # A key of the models, under any word, is none of an operator's.
        (value, pointer, "signature"),
        (*signed(settings, strange), "format"),
        (*signed(settings, nowhere), "format"),
        (unsaid, ControlSigner(settings).headers(None, unsaid), "format"),
        (b"[]", ControlSigner(settings).headers(None, b"[]"), "format"),
    ]


def test_what_is_forged_changed_or_not_understood_does_not_count(
    settings: Settings, log: ControlLog
) -> None:
    for offset, (value, headers, fault) in enumerate(refusals(settings, log)):
        found = log.take(offset, None, value, headers)
        assert found is not None, value
        assert found[0] == fault, (value, found)

    assert (log.records, log.state.offset) == ([], -1)


def test_a_word_that_is_sent_again_does_not_count_again(
    settings: Settings, log: ControlLog
) -> None:
    act = signed(settings, SetMode("k1", *SAID, mode="act"))
    assert log.take(0, None, *act) is None
    assert log.take(1, None, *signed(settings, SetMode("k2", *SAID, mode="observe"))) is None

    found = log.take(2, None, *act)

    assert found is not None
    assert found[0] == "replayed"
    assert (log.state.mode, log.state.offset) == ("observe", 1)


def test_a_key_that_was_retired_says_nothing_any_more(settings: Settings, log: ControlLog) -> None:
    word = signed(settings, SetMode("k1", *SAID, mode="act"))
    [old] = [key for key in (settings.keys_path / "private").iterdir() if "operator" in key.name]
    rotate(settings.keys_path, "operator")
    assert log.take(0, None, *word) is None

    retire(settings.keys_path, old.stem)

    later = ControlLog("observe", ["card"], ControlVerifier(settings))
    found = later.take(0, None, *word)
    assert found is not None
    assert found[0] == "signature"


class World:
    """An engine whose controls a test says."""

    def __init__(self, settings: Settings, words: Sequence[Control] = ()) -> None:
        profiles = MemoryProfiles(CARD, Learner(CARD, "", []).profiles)
        self.engine = Engine(CARD, settings, profiles, MemoryWaiting(10_000))
        model = make_model("additive", self.engine.kernel.names)
        self.engine.adopt(Version(model, 0))
        self.engine.adopt_controls(fold(settings.mode, enumerate(words)))  # type: ignore[arg-type]

    def decide(self, batch: Transactions, *, size: int = 10_000) -> list[DecisionRecord]:
        found = []
        for start in range(0, len(batch), size):
            part = batch.slice(start, min(start + size, len(batch)))
            decisions: Decisions = self.engine.decide(part)
            found += decisions.records("transactions", 0, range(start, start + len(part)))
        return found


def test_observing_differs_in_nothing_but_mode_and_what_is_taken() -> None:
    # The breaker opens on the way.
    settings = replace(ALL_DECLINED, breaker_decline_share_max=0.5, breaker_events_min=8)
    batch = traffic(51, 300)
    acting = World(settings).decide(batch)
    observing = World(replace(settings, mode="observe")).decide(batch)

    assert {item.action for item in acting} == {"review", "decline"}
    assert {(item.mode, item.action_taken) for item in observing} == {("observe", "none")}
    assert all((item.mode, item.action_taken) == ("act", item.action) for item in acting)
    as_acting = [
        msgspec.structs.replace(item, mode="act", action_taken=item.action) for item in observing
    ]
    assert list(map(encode_record, as_acting)) == list(map(encode_record, acting))


def test_a_list_decides_the_action_and_nothing_else() -> None:
    batch = visits(
        [MONDAY_MS + row for row in range(4)], cards=["c1", "c2", "c3", "c4"],
        terminals=["m1", "m2", "m1", "m2"], ids=["a", "b", "c", "d"],
    )  # fmt: skip
    words = [
        Allow("k0", *SAID, entity="terminal", id="m1"),
        Allow("k1", *SAID, entity="card", id="c4"),
        Block("k2", *SAID, entity="card", id="c3"),
        Block("k3", *SAID, entity="card", id="c2"),
    ]
    plain = World(ALL_DECLINED).decide(batch)
    listed = World(ALL_DECLINED, words).decide(batch)

    assert [item.action for item in plain] == ["decline"] * 4
    # c3 is blocked at an allowed terminal: the block list wins.
    assert [item.action for item in listed] == ["approve", "decline", "decline", "approve"]
    codes = [item.reasons[0] for item in listed]
    assert codes == [
        ("LIST_ALLOWED", 0.0), ("LIST_BLOCKED", 0.0), ("LIST_BLOCKED", 0.0), ("LIST_ALLOWED", 0.0),
    ]  # fmt: skip
    assert [item.reasons[1:] for item in listed] == [item.reasons for item in plain]
    assert [(item.score, item.features) for item in listed] == [
        (item.score, item.features) for item in plain
    ]
    assert {item.control_offset for item in listed} == {3}


def test_an_entry_expires_by_the_time_of_the_event() -> None:
    batch = visits([MONDAY_MS, MONDAY_MS + HOUR_MS - 1, MONDAY_MS + HOUR_MS, MONDAY_MS + 5])
    until = Allow("k0", *SAID, entity="card", id="c1", until=MONDAY_MS + HOUR_MS)

    found = World(ALL_DECLINED, [until]).decide(batch)

    assert [item.action for item in found] == ["approve", "approve", "decline", "approve"]


def test_the_breaker_turns_declines_into_reviews_in_batches_of_any_size() -> None:
    settings = replace(
        ALL_DECLINED, breaker_decline_share_max=0.5, breaker_events_min=10,
        breaker_window_minutes=60,
    )  # fmt: skip
    times = [MONDAY_MS + row * MINUTE_MS for row in range(30)]
    cards = ["listed" if row % 3 == 0 else f"c{row}" for row in range(30)]
    batch = visits(times, ids=[f"t{row}" for row in range(30)], cards=cards)
    block = Block("k0", *SAID, entity="card", id="listed")

    found = World(settings, [block]).decide(batch)

    reviewed = [row for row, item in enumerate(found) if item.action == "review"]
    assert reviewed == [row for row in range(30) if row % 3 and row >= 14]
    assert {found[row].reasons[0] for row in reviewed} == {("BREAKER", 0.0)}
    for size in (1, 7):
        again = World(settings, [block]).decide(batch, size=size)
        assert list(map(encode_record, again)) == list(map(encode_record, found))


def test_a_decision_of_before_was_acted_on(settings: Settings) -> None:
    old = World(ALL_DECLINED).decide(visits([MONDAY_MS]))[0]
    plain = msgspec.structs.replace(old, mode=None, action_taken=None, control_offset=None)

    assert b"control_offset" not in encode_record(plain)
    assert (plain.taken, old.taken) == ("decline", "decline")
    assert np.frombuffer(plain.features, "<f4").size > 0
