"""A schema file describes a stream, or the error says what is wrong with it and where."""

from pathlib import Path

import pytest

from pipeline.errors import SchemaError
from pipeline.events import Label, LabelDecoder, Outcome, OutcomeDecoder, Problem
from pipeline.feedback_encoding import encode_label, encode_outcome
from pipeline.schema import Category, Entity, load_schema, parse_schema, shipped_schemas

FULL = """
name = "parcels"
version = 3

[event]
id = "parcel"
time = "sent"
amount = "value"
currency_default = "CHF"
minor_digits = 0

[[entity]]
name = "sender"
field = "from"

[[entity]]
name = "address"
field = "class"

[[category]]
name = "channel"
field = "via"

[label]
field = "lost"
"""


def changed(old: str, new: str) -> str:
    assert old in FULL
    return FULL.replace(old, new, 1)


@pytest.mark.parametrize("name", shipped_schemas())
def test_every_shipped_schema_loads_under_its_own_name(name: str) -> None:
    assert load_schema(name).name == name


def test_a_schema_says_what_its_fields_mean() -> None:
    schema = parse_schema(FULL, place="parcels.toml")

    assert schema.partition_key == "from"
    assert schema.keyed == (
        Entity("sender", "from"), Entity("address", "class"), Category("channel", "via"),
    )  # fmt: skip
    assert schema.event_fields == ("parcel", "sent", "from", "class", "value", "via")
    assert (schema.minor_digits, schema.currency, schema.label) == (0, None, "lost")


def test_the_label_is_never_a_field_of_the_event() -> None:
    assert "is_fraud" not in load_schema("card").event_fields


def test_a_file_is_loaded_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(FULL, encoding="utf-8")

    assert load_schema(str(path)).name == "parcels"


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"mine\.toml does not exist"):
        load_schema(str(tmp_path / "mine.toml"))


def test_an_unknown_name_is_answered_with_those_that_are_shipped() -> None:
    with pytest.raises(
        SchemaError, match="no schema 'crad': shipped are card, ecommerce, handbook, phishing"
    ):
        load_schema("crad")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = ", "Invalid value"),
        (changed("version = 3", ""), "missing required field `version`"),
        (changed("version = 3", 'version = "3"'), r"Expected `int`, got `str` - at `\$.version`"),
        (changed("version = 3", "version = 3\nauthor = 1"), "unknown field `author`"),
        (changed('time = "sent"', ""), r"missing required field `time` - at `\$.event`"),
        (changed('time = "sent"', 'tiem = "sent"'), "`tiem`"),
        (changed('field = "from"', 'feild = "from"'), r"\$.entity\[0\]"),
        (changed('"CHF"', "756"), "Expected `str"),
        (FULL.split("[[entity]]", maxsplit=1)[0] + "entity = []", "at least one"),
        (changed('name = "sender"', 'name = "Sender"'), "name must match .*'Sender'"),
        (changed('name = "sender"', 'name = ""'), "name must match"),
        (changed('name = "parcels"', 'name = "a b"'), "name must match .*'a b'"),
        (changed('name = "sender"', f'name = "{"a" * 33}"'), "name must match"),
        (changed('name = "address"', 'name = "sender"'), "name 'sender' is used twice"),
        (changed('name = "channel"', 'name = "sender"'), "name 'sender' is used twice"),
        (changed('field = "class"', 'field = "from"'), "field 'from' is used twice"),
        (changed('field = "lost"', 'field = "value"'), "field 'value' is used twice"),
        (changed("minor_digits = 0", "minor_digits = 5"), "minor_digits must be 0 to 4"),
        (changed("minor_digits = 0", "minor_digits = -1"), "minor_digits must be 0 to 4"),
        (changed('currency_default = "CHF"', ""), "needs currency or currency_default"),
    ],
)
def test_a_file_that_describes_no_stream_is_refused_with_its_place(text: str, said: str) -> None:
    if text.endswith("entity = []"):
        text = "entity = []\n" + text.removesuffix("entity = []")

    with pytest.raises(SchemaError, match=rf"^schema mine\.toml: .*{said}"):
        parse_schema(text, place="mine.toml")


CASES = (
    FULL
    + """
[feedback]
label_id = "case"
verdict = "result"
source = "team"
time = "closed"
fraud = ["CONFIRMED", "STOLEN"]
genuine = ["FALSE_ALARM"]
sources = {CB = "chargeback"}

[outcomes]
outcome = "state"
words = {OK = "approved"}
"""
)


def test_labels_and_outcomes_are_read_and_written_in_words_of_the_schema() -> None:
    schema = parse_schema(CASES, place="parcels.toml")
    value = (
        b'{"case":"l1","parcel":"t1","from":"s1","result":"STOLEN","team":"CB",'
        b'"closed":"2026-01-01T00:00:00Z"}'
    )

    label = LabelDecoder(schema).decode_one(value)

    assert isinstance(label, Label)
    assert (label.is_fraud, label.source, label.key) == (True, "chargeback", "s1")
    written = encode_label(label, schema)
    assert b'"result":"CONFIRMED","team":"CB"' in written
    assert LabelDecoder(schema).decode_one(written) == label
    refused = LabelDecoder(schema).decode_one(value.replace(b"STOLEN", b"fraud"))
    assert isinstance(refused, Problem)
    assert refused.place == "$.result"
    # Words of ours stay, for those who speak them: an analyst at our own console.
    ours = LabelDecoder(schema).decode_one(value.replace(b'"CB"', b'"analyst"'))
    assert isinstance(ours, Label)
    outcome = Outcome("t1", "s1", "approved", label.label_time_ms)
    assert b'"state":"OK"' in encode_outcome(outcome, schema)
    assert OutcomeDecoder(schema).decode_one(encode_outcome(outcome, schema)) == outcome


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"case"', '"parcel"', r"the fields of \[feedback\] must differ .* \(got 'parcel'\)"),
        ('"state"', '"from"', r"the fields of \[outcomes\] must differ .* \(got 'from'\)"),
        ('["FALSE_ALARM"]', "[]", "need words, each in one of them"),
        ('"STOLEN"', '"FALSE_ALARM"', "need words, each in one of them"),
        ('"chargeback"', '"bank"', "Invalid enum value 'bank'"),
        ('"approved"', '"fine"', "Invalid enum value 'fine'"),
        ("verdict =", "verdicts =", "unknown field `verdicts`"),
    ],
)
def test_words_of_labels_that_contradict_each_other_are_refused(
    old: str, new: str, said: str
) -> None:
    assert old in CASES

    with pytest.raises(SchemaError, match=said):
        parse_schema(CASES.replace(old, new, 1), place="parcels.toml")
