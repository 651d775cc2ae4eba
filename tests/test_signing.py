"""Signatures: whatever is not exactly what was signed is refused, and it is said why."""

import timeit
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipeline.errors import KeyFileError
from pipeline.events import Label, LabelDecoder, Problem
from pipeline.keys import init_keys, label_keys, retire, rotate
from pipeline.settings import Settings
from pipeline.signing import (
    LABEL_DOMAIN,
    POINTER_DOMAIN,
    SIGNATURE_HEADER,
    LabelSigner,
    LabelVerifier,
    ModelSigner,
    ModelVerifier,
    framed,
    signature_parts,
)
from tests.strategies import CARD, label_bytes

KEY, VALUE = b"c1", label_bytes()
PARTS = st.lists(st.none() | st.binary(max_size=12), min_size=1, max_size=4)


@pytest.fixture
def ours(tmp_path: Path) -> Settings:
    init_keys(tmp_path)
    return replace(Settings(), keys_dir=str(tmp_path))


def said(
    ours: Settings, headers: object, key: bytes | None = KEY, value: bytes | None = VALUE
) -> str:
    problem = LabelVerifier.of(ours).problem(headers, key, value)  # type: ignore[arg-type]
    return "" if problem is None else str(problem)


@given(PARTS, PARTS)
def test_what_differs_is_never_framed_alike(
    first: list[bytes | None], second: list[bytes | None]
) -> None:
    same = framed(LABEL_DOMAIN, b"k", *first) == framed(LABEL_DOMAIN, b"k", *second)

    assert same == (first == second)


@given(PARTS)
def test_a_signature_for_one_thing_is_none_for_another(parts: list[bytes | None]) -> None:
    assert framed(LABEL_DOMAIN, b"k", *parts) != framed(POINTER_DOMAIN, b"k", *parts)


@pytest.mark.parametrize(("key", "value"), [(KEY, VALUE), (None, VALUE), (b"", VALUE), (KEY, None)])
def test_what_was_signed_is_accepted(
    ours: Settings, key: bytes | None, value: bytes | None
) -> None:
    headers = LabelSigner.of(ours).headers("analyst", key, value)

    assert said(ours, headers, key, value) == ""
    # Other headers may stand beside it.
    assert said(ours, [("trace", b"1"), *headers], key, value) == ""


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bit=st.integers(0, 8 * len(VALUE) - 1))
def test_a_flipped_bit_is_seen(ours: Settings, bit: int) -> None:
    headers = LabelSigner.of(ours).headers("analyst", KEY, VALUE)
    flipped = bytearray(VALUE)
    flipped[bit // 8] ^= 1 << bit % 8

    assert said(ours, headers, KEY, bytes(flipped)).startswith(
        f"bad_signature at headers.{SIGNATURE_HEADER}: expected the signature of these bytes by "
    )


def test_moving_a_byte_from_key_to_value_is_seen(ours: Settings) -> None:
    headers = LabelSigner.of(ours).headers("analyst", b"c1", b"2{}")

    assert said(ours, headers, b"c1", b"2{}") == ""
    assert "another signature" in said(ours, headers, b"c12", b"{}")
    assert "another signature" in said(ours, headers, None, b"c12{}")


def test_a_label_without_one_signature_is_refused(ours: Settings) -> None:
    [header] = LabelSigner.of(ours).headers("analyst", KEY, VALUE)

    assert said(ours, []).endswith("expected one signature, got 0 of them")
    assert said(ours, [header, header]).endswith("expected one signature, got 2 of them")


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b":",
        b"analyst-1-0000",
        b"analyst-1-0000:00",
        b"x" * 10_000,
        b"\xff:00",
        b"analyst-1-0000:zz",
    ],
)
def test_what_names_no_key_of_ours_is_refused(ours: Settings, header: bytes) -> None:
    problem = said(ours, [(SIGNATURE_HEADER, header)])

    assert problem.endswith("expected KEYID:hex of a known key, got another key or form")


def test_half_a_signature_is_refused(ours: Settings) -> None:
    [(_, header)] = LabelSigner.of(ours).headers("analyst", KEY, VALUE)

    for cut in (header[:-2], header + b"00", header[:-64]):
        assert "another signature" in said(ours, [(SIGNATURE_HEADER, cut)])


def test_a_key_speaks_for_its_own_source_alone(ours: Settings) -> None:
    label = LabelDecoder(CARD).decode_one(VALUE)
    assert isinstance(label, Label)
    verifier, signer = LabelVerifier.of(ours), LabelSigner.of(ours)

    right = signer.headers("analyst", KEY, VALUE)
    wrong = signer.headers("simulated", KEY, VALUE)

    assert verifier.problem(wrong, KEY, VALUE) is None
    assert verifier.source_problem(right, label) is None
    assert verifier.source_problem(wrong, label) == Problem(
        "bad_signature", "$.source", "simulated, whose key signed", "analyst"
    )


def test_another_key_of_the_same_name_is_refused(ours: Settings, tmp_path: Path) -> None:
    [(_, header)] = LabelSigner.of(ours).headers("analyst", KEY, VALUE)
    key_id, _ = signature_parts(header)
    (tmp_path / "labels" / f"{key_id}.key").write_text("ab" * 32)

    assert "another signature" in said(ours, [(SIGNATURE_HEADER, header)])


def test_rotation_keeps_the_old_key_valid_until_it_is_retired(ours: Settings) -> None:
    verifier = LabelVerifier.of(ours)
    old = LabelSigner.of(ours).headers("analyst", KEY, VALUE)
    rotate(ours.keys_path, "analyst")
    new = LabelSigner.of(ours).headers("analyst", KEY, VALUE)
    assert old != new

    # A worker that runs sees the new key with its next batch.
    assert verifier.problem(new, KEY, VALUE) is not None
    verifier.refresh()
    assert [verifier.problem(each, KEY, VALUE) for each in (old, new)] == [None, None]

    retire(ours.keys_path, signature_parts(old[0][1])[0])
    verifier.refresh()
    assert verifier.problem(new, KEY, VALUE) is None
    assert verifier.problem(old, KEY, VALUE) is not None


def test_off_means_that_nothing_is_signed_and_nothing_checked(tmp_path: Path) -> None:
    off = replace(Settings(), keys_dir=str(tmp_path), label_signatures="off")

    LabelSigner.of(off).check("analyst")
    assert LabelSigner.of(off).headers("analyst", KEY, VALUE) == []
    assert LabelVerifier.of(off).problem([], KEY, VALUE) is None


def test_who_has_no_keys_is_told_before_anything_begins(tmp_path: Path) -> None:
    bare = replace(Settings(), keys_dir=str(tmp_path))

    with pytest.raises(KeyFileError, match="no keys to check labels with in .*labels"):
        LabelVerifier.of(bare)
    with pytest.raises(KeyFileError, match="no key to sign labels of source 'analyst' with"):
        LabelSigner.of(bare).check("analyst")
    with pytest.raises(KeyFileError, match="no key to sign models with in .*private"):
        ModelSigner(bare)
    with pytest.raises(KeyFileError, match="no key to check models with in .*public"):
        ModelVerifier(bare)


def test_a_pointer_is_what_was_signed(ours: Settings) -> None:
    verifier = ModelVerifier(ours)
    headers = ModelSigner(ours).headers(b"champion", b"{}")

    assert verifier.pointer_problem(headers, b"champion", b"{}") is None
    assert "forged or damaged" in str(verifier.pointer_problem(headers, b"champion", b"{ }"))
    assert "forged or damaged" in str(verifier.pointer_problem(headers, b"other", b"{}"))
    assert "one header" in str(verifier.pointer_problem([], b"champion", b"{}"))
    label = LabelSigner.of(ours).headers("analyst", b"champion", b"{}")
    assert "known key" in str(verifier.pointer_problem(label, b"champion", b"{}"))


def test_a_models_key_is_retired_for_those_who_run(ours: Settings) -> None:
    verifier, signer = ModelVerifier(ours), ModelSigner(ours)
    old = signer.headers(b"champion", b"{}")
    rotate(ours.keys_path, "models")
    new = signer.headers(b"champion", b"{}")

    assert [verifier.pointer_problem(each, b"champion", b"{}") for each in (old, new)] == [None] * 2

    retire(ours.keys_path, signature_parts(old[0][1])[0])
    assert verifier.pointer_problem(new, b"champion", b"{}") is None
    assert "known key" in str(verifier.pointer_problem(old, b"champion", b"{}"))


def test_checking_a_label_costs_microseconds(ours: Settings) -> None:
    verifier = LabelVerifier(label_keys(ours.keys_path))
    headers = LabelSigner.of(ours).headers("analyst", KEY, VALUE)

    took = min(timeit.repeat(lambda: verifier.problem(headers, KEY, VALUE), number=500, repeat=5))

    # Measured: some 4 microseconds; far more would be a mistake.
    assert took / 500 < 100e-6
