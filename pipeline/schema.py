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
from decimal import Decimal
from importlib import resources
from pathlib import Path

import msgspec

from pipeline.currencies import CURRENCIES
from pipeline.errors import SchemaError
from pipeline.incumbent import IncumbentFields
from pipeline.label_words import OutcomeKind, Source

NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
AMOUNT = re.compile(r"[0-9]{1,10}(\.[0-9]{1,8})?")
RESPONSE = re.compile(r"[A-Za-z0-9_-]{1,32}")
FIELD = re.compile(r"[^\x00-\x1f\"'\\]{1,128}")


# Field 39 of ISO 8583 where the attempt was refused, the most usual first. What says that a system
# failed (91, 96) or that a message was wrong (03, 13, 30) says nothing of the card.
DECLINED = (
    *("05", "14", "51", "54", "01", "02", "04", "07", "12", "15", "33", "34", "36", "38", "39"),
    *("41", "43", "46", "52", "53", "55", "56", "57", "59", "61", "62", "63", "65", "75", "78"),
    *("82", "N7"),
)


class Entity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose history is kept: `name` is used in features, `field` in events.

    With `tokenise` the field holds a card number, which producers replace by its token.
    """

    name: str
    field: str
    tokenise: bool = False


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


class _CardTesting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    small_amount: str
    response: str | None = None
    declined: tuple[str, ...] = ()


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
    incumbent: IncumbentFields | None = None
    card_testing: _CardTesting | None = None
    feedback: Feedback = Feedback()
    outcomes: Outcomes = Outcomes()


@dataclass(frozen=True, slots=True)
class Schema:
    """What the fields of a stream mean; `minor_digits` is 2 where 1.00 is 100 minor units.

    Events of a schema without `amount` have the amount 0 and an empty currency. Where
    `small_amount_minor` is given, there are features of card testing, for which amounts up to it
    are small (`docs/card-testing.md`); `response` is the optional field that says how the attempt
    was answered, which comes after the decision, and `declined` are its codes for a refusal.
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
    incumbent: IncumbentFields | None = None
    small_amount_minor: int | None = None
    response: str | None = None
    declined: tuple[str, ...] = ()
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
    def is_tokenised(self) -> bool:
        """Whether a field holds card numbers that producers replace."""
        return any(entity.tokenise for entity in self.entities)

    @property
    def keyed(self) -> tuple[Entity | Category, ...]:
        """Everything whose history is kept: the entities, then the categories."""
        return (*self.entities, *self.categories)

    @property
    def probed(self) -> tuple[Entity, ...]:
        """The entities of which card testing is looked for: all, or none."""
        return () if self.small_amount_minor is None else self.entities

    @property
    def event_fields(self) -> tuple[str, ...]:
        """All fields that an event is made of, each once, in a fixed order."""
        entities = self.entities[1:] if self.is_keyed_by_id else self.entities
        fields = [self.event_id, self.event_time, *(entity.field for entity in entities)]
        fields += [field for field in (self.amount, self.currency) if field]
        fields += [category.field for category in self.categories]
        return (*fields, *(number.field for number in self.numbers))

    @property
    def incumbent_fields(self) -> tuple[str, ...]:
        """Fields beside the event that say what the present system thought of it."""
        return self.incumbent.fields if self.incumbent else ()


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
    schema = _from_file(file, place)
    _check(schema, place)
    return schema


def _from_file(file: _File, place: str) -> Schema:
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
        incumbent=file.incumbent,
        small_amount_minor=_small_amount(file, place),
        response=file.card_testing.response if file.card_testing else None,
        declined=_declined(file, place),
        feedback=file.feedback,
        outcomes=file.outcomes,
    )


def _small_amount(file: _File, place: str) -> int | None:
    """Give the largest small amount in minor units, `None` where nothing asks for card testing."""
    if file.card_testing is None:
        return None
    if file.event.amount is None or len(file.entity) < 2:  # noqa: PLR2004 - one tests the other
        raise SchemaError(
            f"schema {place}: [card_testing] needs an amount in [event] and two [[entity]], such "
            "as card and terminal"
        )
    if file.entity[0].field == file.event.id:
        raise SchemaError(
            f"schema {place}: [card_testing] needs a first [[entity]] that comes more than once "
            f"(got the event's own id, {file.event.id!r})"
        )
    given = file.card_testing.small_amount
    minor = Decimal(given if AMOUNT.fullmatch(given) else "NaN").scaleb(file.event.minor_digits)
    if not minor.is_finite() or minor != int(minor):
        raise SchemaError(
            f"schema {place}: small_amount must be an amount in major units with at most "
            f'{file.event.minor_digits} decimal places, such as "2.00" (got {given!r})'
        )
    return int(minor)


def _declined(file: _File, place: str) -> tuple[str, ...]:
    """Give the codes of a refusal; without a field that would hold them there are none."""
    asked = file.card_testing
    if asked is None or asked.response is None:
        if asked is not None and asked.declined:
            raise SchemaError(f"schema {place}: declined of [card_testing] needs response, a field")
        return ()
    codes = asked.declined or DECLINED
    for code in codes:
        if not RESPONSE.fullmatch(code) or codes.count(code) > 1:
            raise SchemaError(
                f"schema {place}: declined of [card_testing] has codes of 1 to 32 letters, digits, "
                f"- and _, each once (got {code!r})"
            )
    return codes


def _check(schema: Schema, place: str) -> None:
    names = [item.name for item in (*schema.keyed, *schema.numbers)]
    if not schema.entities:
        raise SchemaError(f"schema {place}: at least one [[entity]] is needed, the partition key")
    for name in (schema.name, *names):
        if not NAME.fullmatch(name):
            raise SchemaError(f"schema {place}: name must match {NAME.pattern} (got {name!r})")
    fields = [*schema.event_fields, *schema.incumbent_fields]
    fields += [field for field in (schema.label, schema.response) if field]
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
    _check_event(schema, place)
    if schema.incumbent and (problem := schema.incumbent.problem()):
        raise SchemaError(f"schema {place}: {problem}")


def _check_event(schema: Schema, place: str) -> None:
    """Refuse what [event] and the entities say that cannot be."""
    if any(entity.tokenise and entity.field == schema.event_id for entity in schema.entities):
        raise SchemaError(
            f"schema {place}: the event id {schema.event_id!r} cannot be tokenised: it is no card "
            "number, or every event of a card would be the same"
        )
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
