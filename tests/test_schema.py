"""A schema file describes a stream, or the error says what is wrong with it and where."""

from pathlib import Path

import pytest

from pipeline.errors import SchemaError
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
