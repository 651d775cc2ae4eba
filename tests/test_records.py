"""What is written to the wire is read back, field by field and in the documented order."""

import json
import random
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest

from pipeline.label_words import SOURCES
from pipeline.records import (
    ACTIONS,
    VERDICTS,
    DecisionRecord,
    TrainingExample,
    decode_decisions,
    decode_examples,
    encode_record,
    pack_features,
    unpack_features,
)

WIRE_FORMATS = Path(__file__).parents[1] / "docs" / "wire-formats.md"


def decision(chance: random.Random) -> DecisionRecord:
    return DecisionRecord(
        transaction_id=f"t{chance.randrange(10**9)}",
        event_time=chance.randrange(10**13),
        keys={"card": f"c{chance.randrange(99)}", "terminal": "Ünïcode"},
        amount=chance.randrange(10**9),
        currency="EUR",
        action=chance.choice(ACTIONS),
        score=chance.random(),
        reasons=[("AMOUNT_ABOVE_CARD_USUAL", chance.gauss(0, 3))],
        model_version=f"additive@{chance.randrange(10**6)}",
        policy_version="9f2c",
        propensity=1.0,
        label_offset=-1,
        schema_hash="ab12",
        features=pack_features([chance.gauss(0, 1) for _ in range(chance.randrange(50))]),
        challengers={"logistic@7": chance.random()},
        source=("transactions", chance.randrange(9), chance.randrange(10**9)),
    )


def example(chance: random.Random) -> TrainingExample:
    decided = decision(chance)
    return TrainingExample(
        label_id="l1",
        transaction_id=decided.transaction_id,
        partition=3,
        training_seq=chance.randrange(10**9),
        verdict=chance.choice(VERDICTS),
        source=chance.choice(SOURCES),
        weight=0.5,
        supersedes=chance.choice([None, 0]),
        keys=decided.keys,
        amount=decided.amount,
        event_time=decided.event_time,
        label_time=decided.event_time + 1,
        schema_hash=decided.schema_hash,
        features=decided.features,
        score=decided.score,
        action=decided.action,
        model_version=decided.model_version,
        challengers=decided.challengers,
    )


@pytest.mark.parametrize("seed", range(20))
def test_what_is_encoded_is_decoded_equal(seed: int) -> None:
    chance = random.Random(seed)
    decided, learned = decision(chance), example(chance)

    assert list(decode_decisions([encode_record(decided)])) == [decided]
    assert list(decode_examples([encode_record(learned)])) == [learned]


def test_features_keep_every_bit_of_a_float32() -> None:
    values = np.array([0.1, -0.0, np.inf, 1e-40, 3.4e38], np.float32)

    assert unpack_features(pack_features(values)).tobytes() == values.tobytes()


@pytest.mark.parametrize(
    ("heading", "record"),
    [("decision", DecisionRecord), ("training example", TrainingExample)],
)
def test_the_fields_are_those_of_the_document_in_its_order(
    heading: str, record: type[msgspec.Struct]
) -> None:
    section = re.search(
        rf"^## {heading} .*?(?=^## )", WIRE_FORMATS.read_text(encoding="utf-8"), re.M | re.S
    )
    assert section is not None
    first_cells = re.findall(r"^\| (`.*?) \|", section[0], re.M)

    assert re.findall(r"`(\w+)`", " ".join(first_cells)) == list(record.__struct_fields__)


def test_an_unknown_field_is_left_out() -> None:
    decided = decision(random.Random(1))
    newer = json.dumps({**json.loads(encode_record(decided)), "added_later": 1}).encode()

    assert list(decode_decisions([newer])) == [decided]


@pytest.mark.parametrize(
    "change",
    [{"score": 1.5}, {"action": "allow"}, {"amount": -1}, {"source": ["t", 0]}, {"keys": None}],
)
def test_a_record_of_another_format_is_none_and_harms_no_neighbour(
    change: dict[str, object],
) -> None:
    decided = decision(random.Random(1))
    bad = json.dumps({**json.loads(encode_record(decided)), **change}).encode()

    assert list(decode_decisions([bad, encode_record(decided)])) == [None, decided]


NOT_UTF8 = b'{"transaction_id":"\xff"}'
DEEP = b'{"added_later":' + b"[" * 100_000


@pytest.mark.parametrize(
    "value",
    [None, b"", b"{", b"[]", b"\xff", NOT_UTF8, DEEP],
    ids=["null", "empty", "half", "list", "byte", "not-utf8", "deep"],
)
def test_what_is_no_record_is_none(value: bytes | None) -> None:
    assert list(decode_decisions([value])) == [None]
    assert list(decode_examples([value])) == [None]
