"""A TOML file says which field of a stream is what; nothing in the core knows the word "card".

The first entity is the partition key: the traffic of one of its ids is in one partition, in order.
A stream without entities names its event id as one. `docs/schemas.md` shows how to write a schema.

>>> schema = load_schema("card")
>>> schema.partition_key, [entity.name for entity in schema.entities]
('card_id', ['card', 'terminal'])
>>> load_schema("cart")
Traceback (most recent call last):
pipeline.errors.SchemaError: no schema 'cart': shipped are card, ecommerce, ...
"""

import re
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import msgspec

from pipeline.currencies import CURRENCIES
from pipeline.errors import SchemaError
from pipeline.label_words import OutcomeKind, Source

NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
FIELD = re.compile(r"[^\x00-\x1f\"'\\]{1,128}")


class Entity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose history is kept: `name` is used in features, `field` in events."""

    name: str
    field: str


class Category(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A field of few values, such as a channel."""

    name: str
    field: str


class Number(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A field whose number is a feature as it stands; it may be missing."""

    name: str
    field: str


class _Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    time: str
    amount: str | None = None
    currency: str | None = None
    currency_default: str | None = None
    minor_digits: int = 2


class _Label(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    field: str


class Feedback(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fields of labels, and the words in them; the ids are those of the events.

    `sources` gives what a word of theirs is among ours, beside which ours stay.
    """

    label_id: str = "label_id"
    verdict: str = "verdict"
    source: str = "source"
    time: str = "label_time"
    by: str = "by"
    supersedes: str = "supersedes"
    fraud: tuple[str, ...] = ("fraud",)
    genuine: tuple[str, ...] = ("genuine",)
    sources: dict[str, Source] = {}

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the fields."""
        return (self.label_id, self.verdict, self.source, self.time, self.by, self.supersedes)


class Outcomes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fields of outcomes; `words` gives what a word of theirs is among ours, which stay."""

    outcome: str = "outcome"
    time: str = "outcome_time"
    words: dict[str, OutcomeKind] = {}

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the fields."""
        return (self.outcome, self.time)


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    version: int
    event: _Event
    entity: list[Entity]
    category: list[Category] = []
    number: list[Number] = []
    label: _Label | None = None
    feedback: Feedback = Feedback()
    outcomes: Outcomes = Outcomes()


@dataclass(frozen=True, slots=True)
class Schema:
    """What the fields of a stream mean; `minor_digits` is 2 where 1.00 is 100 minor units.

    Events of a schema without `amount` have the amount 0 and an empty currency.
    """

    name: str
    version: int
    event_id: str
    event_time: str
    amount: str | None
    currency: str | None
    currency_default: str
    minor_digits: int
    entities: tuple[Entity, ...]
    categories: tuple[Category, ...]
    numbers: tuple[Number, ...]
    label: str | None
    feedback: Feedback = Feedback()
    outcomes: Outcomes = Outcomes()

    @property
    def partition_key(self) -> str:
        """The field whose value is the key of the stream's records."""
        return self.entities[0].field

    @property
    def is_keyed_by_id(self) -> bool:
        """Whether the event id is the partition key too, so that no key comes twice."""
        return self.partition_key == self.event_id

    @property
    def keyed(self) -> tuple[Entity | Category, ...]:
        """Everything whose history is kept: the entities, then the categories."""
        return (*self.entities, *self.categories)

    @property
    def event_fields(self) -> tuple[str, ...]:
        """All fields that an event may carry, each once, in a fixed order."""
        entities = self.entities[1:] if self.is_keyed_by_id else self.entities
        fields = [self.event_id, self.event_time, *(entity.field for entity in entities)]
        fields += [field for field in (self.amount, self.currency) if field]
        fields += [category.field for category in self.categories]
        return (*fields, *(number.field for number in self.numbers))


def shipped_schemas() -> list[str]:
    """Give the names of the schemas that come with the package."""
    found = resources.files("schemas").iterdir()
    return sorted(item.name.removesuffix(".toml") for item in found if item.name.endswith(".toml"))


def load_schema(name_or_path: str) -> Schema:
    """Read a shipped schema by name, or a TOML file by path."""
    path = Path(name_or_path)
    if path.suffix == ".toml":
        if not path.is_file():
            raise SchemaError(f"schema file {path} does not exist")
        return parse_schema(path.read_text(encoding="utf-8"), place=str(path))
    if name_or_path not in shipped_schemas():
        raise SchemaError(
            f"no schema {name_or_path!r}: shipped are {', '.join(shipped_schemas())}; "
            "or give a path to a .toml file"
        )
    text = resources.files("schemas").joinpath(f"{name_or_path}.toml").read_text(encoding="utf-8")
    return parse_schema(text, place=f"{name_or_path}.toml")


def parse_schema(text: str, *, place: str) -> Schema:
    """Turn TOML text into a schema, or say where it is wrong."""
    try:
        file = msgspec.convert(tomllib.loads(text), _File)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise SchemaError(f"schema {place}: {error}") from error
    schema = _from_file(file)
    _check(schema, place)
    return schema


def _from_file(file: _File) -> Schema:
    return Schema(
        name=file.name,
        version=file.version,
        event_id=file.event.id,
        event_time=file.event.time,
        amount=file.event.amount,
        currency=file.event.currency,
        currency_default=file.event.currency_default or "",
        minor_digits=file.event.minor_digits,
        entities=tuple(file.entity),
        categories=tuple(file.category),
        numbers=tuple(file.number),
        label=file.label.field if file.label else None,
        feedback=file.feedback,
        outcomes=file.outcomes,
    )


def _check(schema: Schema, place: str) -> None:
    names = [item.name for item in (*schema.keyed, *schema.numbers)]
    if not schema.entities:
        raise SchemaError(f"schema {place}: at least one [[entity]] is needed, the partition key")
    for name in (schema.name, *names):
        if not NAME.fullmatch(name):
            raise SchemaError(f"schema {place}: name must match {NAME.pattern} (got {name!r})")
    fields = [*schema.event_fields, *([schema.label] if schema.label else [])]
    for field in fields:
        if not FIELD.fullmatch(field):
            raise SchemaError(
                f"schema {place}: a field has 1 to 128 printable characters without quotes and "
                f"backslashes (got {field!r})"
            )
    for kind, given in (("name", names), ("field", fields)):
        twice = {item for item in given if given.count(item) > 1}
        if twice:
            raise SchemaError(f"schema {place}: {kind} {min(twice)!r} is used twice")
    _check_labels(schema, place)
    if not 0 <= schema.minor_digits <= 4:  # noqa: PLR2004 - ISO 4217 has none with more
        raise SchemaError(
            f"schema {place}: minor_digits must be 0 to 4 (got {schema.minor_digits})"
        )
    if schema.amount is None and (schema.currency or schema.currency_default):
        raise SchemaError(f"schema {place}: [event] has a currency, but no amount")
    if schema.amount and schema.currency is None and not schema.currency_default:
        raise SchemaError(f"schema {place}: [event] needs currency or currency_default")
    if schema.currency_default and schema.currency_default not in CURRENCIES:
        raise SchemaError(
            f"schema {place}: currency_default must be a currency code of ISO 4217 "
            f"(got {schema.currency_default!r})"
        )


def _check_labels(schema: Schema, place: str) -> None:
    ids = {schema.event_id, schema.partition_key}
    for table, given in (("feedback", schema.feedback), ("outcomes", schema.outcomes)):
        fields = [*ids, *given.fields]
        wrong = [name for name in fields if not FIELD.fullmatch(name) or fields.count(name) > 1]
        if wrong:
            raise SchemaError(
                f"schema {place}: the fields of [{table}] must differ from each other and from "
                f"the ids, printable and without quotes (got {wrong[0]!r})"
            )
    words = [*schema.feedback.fraud, *schema.feedback.genuine]
    if not (schema.feedback.fraud and schema.feedback.genuine) or len(set(words)) < len(words):
        raise SchemaError(
            f"schema {place}: fraud and genuine of [feedback] need words, each in one of them"
        )
