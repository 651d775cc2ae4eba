"""Snapshots: the same model comes back, and whatever is not a snapshot is refused in one line."""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models import MODELS, ArrayModel, make_model
from models.snapshot import HASH_BYTES, LENGTH_BYTES, MAGIC, SNAPSHOT_BYTES_MAX, decode, encode
from pipeline.errors import SnapshotError

NAMES = ("amount", "größe")
ROWS = 1500

Header = dict[str, object]


def examples(rows: int) -> tuple[NDArray[np.float32], NDArray[np.int8], NDArray[np.float64]]:
    chance = np.random.default_rng(3)
    features = chance.normal(size=(rows, 2)).astype(np.float32)
    features[chance.random((rows, 2)) < 0.1] = np.nan
    return features, (features[:, 0] > 1.5).astype(np.int8), np.ones(rows)


def learned(name: str, rows: int = ROWS) -> ArrayModel:
    model = make_model(name, NAMES)
    model.learn(*examples(rows))
    return model


TAKEN = {
    name: encode(learned(name), version=f"{name}@9", training_offset=9, schema_hash="5c6e")
    for name in sorted(MODELS)
}


@pytest.fixture(params=sorted(MODELS))
def taken(request: pytest.FixtureRequest) -> bytes:
    return TAKEN[request.param]


def sealed(framed: bytes) -> bytes:
    """Put a right SHA-256 at the end, so that what comes before it is looked at."""
    return framed + hashlib.sha256(framed).digest()


def parts(data: bytes) -> tuple[Header, bytes]:
    start = len(MAGIC) + LENGTH_BYTES
    length = int.from_bytes(data[len(MAGIC) : start], "little")
    return json.loads(data[start : start + length]), data[start + length : -HASH_BYTES]


def joined(header: object, body: bytes) -> bytes:
    head = json.dumps(header).encode()
    return sealed(MAGIC + len(head).to_bytes(LENGTH_BYTES, "little") + head + body)


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("rows", [0, 1, 20, 1024, ROWS])
def test_a_model_comes_back_and_goes_on_bit_for_bit(name: str, rows: int) -> None:
    model = learned(name, rows)
    data = encode(model, version="v@1", training_offset=5, schema_hash="ab")

    snapshot = decode(data)

    assert (snapshot.version, snapshot.training_offset, snapshot.schema_hash) == ("v@1", 5, "ab")
    assert snapshot.model.name == name
    assert snapshot.model.feature_names == NAMES
    assert snapshot.model.learned == rows
    snapshot.model.remember(*(part[snapshot.model.window_start :] for part in examples(rows)))
    features = np.random.default_rng(4).normal(size=(700, 2)).astype(np.float32)
    rest = features, (features[:, 0] > 1.0).astype(np.int8), np.ones(700)
    assert snapshot.model.learn(*rest).tobytes() == model.learn(*rest).tobytes()
    again = [
        encode(each, version="w", training_offset=6, schema_hash="ab")
        for each in (model, snapshot.model)
    ]
    assert again[0] == again[1]


def test_the_same_model_gives_the_same_bytes(taken: bytes) -> None:
    snapshot = decode(taken)

    again = encode(
        snapshot.model,
        version=snapshot.version,
        training_offset=snapshot.training_offset,
        schema_hash=snapshot.schema_hash,
    )

    assert again == taken
    assert again == TAKEN[snapshot.model.name]


def test_a_snapshot_is_small(taken: bytes) -> None:
    assert len(taken) < 100_000


@pytest.mark.parametrize("place", [0, 7, 8, 11, 12, 40, 300, -200, -33, -32, -1])
def test_one_flipped_bit_is_refused(taken: bytes, place: int) -> None:
    damaged = bytearray(taken)
    damaged[place] ^= 1

    with pytest.raises(SnapshotError, match=r"^snapshot: "):
        decode(bytes(damaged))


def test_a_part_is_refused(taken: bytes) -> None:
    for end in (0, 1, 8, 12, 43, 44, 45, 400, len(taken) // 2, len(taken) - 1):
        with pytest.raises(SnapshotError, match=r"^snapshot: "):
            decode(taken[:end])
    with pytest.raises(SnapshotError, match="SHA-256 must be"):
        decode(taken + b"\0")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 1}, r"format must be 2 \(got 1\): let the trainer publish anew"),
        (
            {"model": "forest9"},
            "model must be one of " + ", ".join(sorted(MODELS)) + r" \(got 'forest9'\)",
        ),
        ({"training_offset": "9"}, "header is not understood: Expected `int`, got `str`"),
        ({"surprise": 1}, "header is not understood: Object contains unknown field `surprise`"),
        ({"arrays": []}, r"arrays must take 0 bytes \(got \d+\)"),
        ({"state": {}}, "must be"),
    ],
)
def test_a_header_that_says_something_else_is_refused(
    taken: bytes, change: Header, message: str
) -> None:
    header, body = parts(taken)

    with pytest.raises(SnapshotError, match=message):
        decode(joined(header | change, body))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "|O8"}, r"dtype must be one of .*\(got '\|O8'\)"),
        ({"dtype": ">f8"}, "dtype must be one of"),
        ({"shape": [-1, 2]}, "cannot have the shape"),
        ({"shape": [1, 1, 1]}, "cannot have the shape"),
        ({"shape": [1 << 60, 1 << 60]}, "arrays must take"),
        ({"name": "other"}, "must be"),
    ],
)
def test_an_array_of_another_kind_is_refused(taken: bytes, change: Header, message: str) -> None:
    header, body = parts(taken)
    arrays = header["arrays"]
    assert isinstance(arrays, list)

    with pytest.raises(SnapshotError, match=message):
        decode(joined(header | {"arrays": [arrays[0] | change, *arrays[1:]]}, body))


def test_weights_that_are_no_numbers_are_neither_read_nor_written(taken: bytes) -> None:
    header, body = parts(taken)
    arrays = header["arrays"]
    assert isinstance(arrays, list)
    start = 0
    for item in arrays:
        size = int(np.prod(item["shape"])) * int(item["dtype"][-1])
        if item["dtype"] == "<f8":
            for value in (np.nan, np.inf):
                damaged = body[:start] + np.array(value, "<f8").tobytes() + body[start + 8 :]
                with pytest.raises(SnapshotError, match=f"{item['name']} must be finite numbers"):
                    decode(joined(header, damaged))
        start += size


def test_a_model_that_diverged_is_not_written() -> None:
    model = learned("logistic")
    # What River has learned since the arrays were last taken from it.
    model._regression.intercept = float("nan")  # type: ignore[attr-defined]

    with pytest.raises(SnapshotError, match="intercept must be finite numbers"):
        encode(model, version="v", training_offset=0, schema_hash="")


def test_a_model_of_another_river_is_refused() -> None:
    header, body = parts(TAKEN["logistic"])
    state = header["state"]
    assert isinstance(state, dict)

    with pytest.raises(SnapshotError, match=r"River must be [\d.]+ \(got 0.24.0\)"):
        decode(joined(header | {"state": state | {"river": "0.24.0"}}, body))


def test_too_many_bytes_are_refused() -> None:
    with pytest.raises(SnapshotError, match=f"at most {SNAPSHOT_BYTES_MAX} bytes"):
        decode(bytes(SNAPSHOT_BYTES_MAX + 1))


def test_nothing_is_unpickled() -> None:
    assert b"pickle" not in b"".join(TAKEN.values())
    with pytest.raises(SnapshotError, match="must begin with"):
        decode(b"\x80\x04\x95" + bytes(100))


def refused_or_decoded(data: bytes) -> None:
    try:
        decode(data)
    except SnapshotError as error:
        assert "\n" not in str(error)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(SnapshotError):
        decode(data)


@given(st.binary(max_size=200), st.integers(0, 300))
def test_any_sealed_bytes_are_refused(data: bytes, length: int) -> None:
    with pytest.raises(SnapshotError):
        decode(sealed(MAGIC + length.to_bytes(LENGTH_BYTES, "little") + data))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(MODELS)), st.data())
def test_any_change_of_the_header_is_refused_or_harmless(name: str, data: st.DataObject) -> None:
    header, body = parts(TAKEN[name])
    state = header["state"]
    assert isinstance(state, dict)
    where = data.draw(st.sampled_from([*header, *(f"state.{key}" for key in state)]))
    value = data.draw(JSON)
    if where.startswith("state."):
        changed = header | {"state": state | {where.removeprefix("state."): value}}
    else:
        changed = header | {where: value}

    refused_or_decoded(joined(changed, body))


@given(st.sampled_from(sorted(MODELS)), st.integers(0, 60_000), st.binary(min_size=1, max_size=16))
def test_any_change_of_the_arrays_is_refused_or_gives_a_model(
    name: str, place: int, new: bytes
) -> None:
    header, body = parts(TAKEN[name])
    place %= len(body)
    changed = (body[:place] + new + body[place + len(new) :])[: len(body)]

    refused_or_decoded(joined(header, changed))
