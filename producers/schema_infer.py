"""A schema proposed for a table never seen before, from its columns' names and contents.

Each choice carries its evidence, and says when it is unsure. What a file's formats do not allow is
in `needs`: the column, and what must be done to it before replay can read it. What would be known
only after the event is left out as a leakage suspect.

>>> frame = pd.DataFrame({
...     "order": ["o1", "o2", "o3", "o4"], "placed": [f"2026-11-0{day}" for day in (1, 2, 3, 4)],
...     "customer_no": ["17", "18", "17", "18"], "total": ["49.90", "150.00", "3.00", "-1.00"],
... })
>>> found = infer(frame, name="orders")
>>> found.event_id.field, found.time.field, found.amount.field, found.needs[0].column
('order', 'placed', 'total', 'total')
>>> [(item.table, item.name, item.field) for item in found.items]
[('entity', 'customer', 'customer_no')]
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

from pipeline.currencies import CURRENCIES
from pipeline.schema import FIELD
from producers import columns
from producers.column_profile import (
    DATES,
    EMAIL,
    IDENTIFIER,
    IP,
    OF_FORM,
    Profile,
    profile_of,
)
from producers.columns import CATEGORY_LENGTH_MAX, Column, ColumnError
from producers.leakage import leaks_of
from producers.present_columns import PresentSystem, present_system

OFFSET = re.compile(r"(?:Z|[+-][0-9]{2}:?[0-9]{2})$")
TIMES_OF_TEXT = ("RFC 3339", *DATES)
# A few rows are in order by chance.
ORDERED_ROWS_MIN = 20

Table = Literal["entity", "category", "number"]

# Whose history matters most, the first that there is becomes the partition key.
PARTITION_WORDS = (
    *("card", "pan", "cc", "token", "iban", "account", "acct", "konto", "customer", "cust"),
    *("client", "user", "member", "payer", "sender", "orig", "subscriber", "policy"),
    *("kunde", "kundennr", "kundennummer", "karte", "kartennr", "kontonr", "kontonummer"),
)
OTHER_WORDS = (
    *("terminal", "merchant", "merch", "device", "ip", "email", "mail", "phone", "shop", "store"),
    *("pos", "seller", "beneficiary", "receiver", "recipient", "dest", "address", "fingerprint"),
    *("payee", "vendor", "counterparty", "session", "cookie", "haendler", "kasse"),
)
EVENT_WORDS = (
    *("transaction", "txn", "tx", "trans", "event", "order", "payment", "auth", "claim"),
    *("operation", "purchase", "invoice", "beleg", "buchung"),
)
ID_WORDS = ("id", "uuid", "guid", "no", "number", "num", "ref", "reference", "key", "nr", "index")
AMOUNT_WORDS = ("amount", "amt", "betrag", "montant", "importe", "total", "price", "value", "sum")
CURRENCY_WORDS = ("currency", "ccy", "curr", "cur", "waehrung")
# The earlier, the more likely the truth itself.
LABEL_WORDS = (
    *("fraud", "fraudulent", "phishing", "betrug", "label", "class", "target", "truth"),
    "chargeback",
)
CODE_WORDS = (
    *("code", "type", "kind", "zip", "postal", "postcode", "mcc", "category", "cat", "country"),
    *("channel", "brand", "state", "region", "city", "domain", "status", "method", "entry", "mode"),
)
TRUTHS = frozenset(
    ("0", "1", "0.0", "1.0", "true", "false", "y", "n", "yes", "no", "t", "f", "j", "ja", "nein")
    + ("fraud", "genuine", "legit", "legitimate", "normal", "ok", "bad", "good", "not fraud")
)
LABELS_READ = frozenset(columns.VERDICTS)

CATEGORIES_DISTINCT_MAX = 2_000
REPEATED_MIN = 1.5
MINOR_DIGITS_MAX = 4
DEFAULT_CURRENCY = "EUR"
MISSING_ID, MISSING_TIME = "event_id", "event_time"


@dataclass(frozen=True, slots=True)
class Choice:
    """A column chosen for something, and why; `is_sure` says whether a person must look."""

    field: str
    why: str
    is_sure: bool = True


@dataclass(frozen=True, slots=True)
class Item:
    """An entity, a category or a number of the schema."""

    table: Table
    name: str
    field: str
    why: str
    is_sure: bool = True


@dataclass(frozen=True, slots=True)
class Need:
    """What must be done to a column before replay can read it."""

    column: str
    what: str


@dataclass(slots=True)
class Proposal:
    """A schema as it is proposed, with the evidence."""

    name: str
    rows: int
    event_id: Choice
    time: Choice
    amount: Choice | None = None
    currency: Choice | None = None
    currency_default: Choice | None = None
    minor_digits: Choice = field(default_factory=lambda: Choice("2", ""))
    items: list[Item] = field(default_factory=list)
    label: Choice | None = None
    present: PresentSystem = field(default_factory=PresentSystem)
    suspects: list[Choice] = field(default_factory=list)
    left_out: list[Choice] = field(default_factory=list)
    needs: list[Need] = field(default_factory=list)


def infer(frame: pd.DataFrame, *, name: str) -> Proposal:
    """Propose a schema for a table, of which these are some rows."""
    profiles = [profile_of(str(column), frame[column]) for column in frame.columns]
    return _Inference(profiles, name).proposal()


def schema_name(text: str) -> str:
    """Make a name that a schema allows.

    >>> schema_name("Card Payments (2026)"), schema_name("Größe"), schema_name("2nd")
    ('card_payments_2026', 'grosse', 'x2nd')
    """
    plain = unicodedata.normalize("NFKD", text.replace("ß", "ss")).encode("ascii", "ignore")
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", plain.decode())
    name = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    return (name if name[:1].isalpha() else f"x{name}")[:32].rstrip("_")


class _Inference:
    """One table: which columns are still free, and what was said of the others."""

    def __init__(self, profiles: Sequence[Profile], name: str) -> None:
        self._all = {profile.name: profile for profile in profiles}
        self._free = dict(self._all)
        self._rows = profiles[0].rows if profiles else 0
        self._names: set[str] = set()
        self._out = Proposal(schema_name(name), self._rows, Choice("", ""), Choice("", ""))

    def proposal(self) -> Proposal:
        self._refuse_columns()
        self._out.label = self._label()
        self._out.present = present_system(list(self._free.values()))
        for column in self._out.present.columns:
            self._take(column.name)
        self._suspect()
        self._out.time = self._time()
        self._out.event_id = self._event_id()
        self._out.currency = self._currency()
        self._amount()
        self._entities()
        self._others()
        return self._out

    def _take(self, name: str) -> Profile:
        return self._free.pop(name)

    def _leave(self, profile: Profile, why: str) -> None:
        self._take(profile.name)
        self._out.left_out.append(Choice(profile.name, why))

    def _need(self, profile: Profile, what: str) -> None:
        self._out.needs.append(Need(profile.name, what))

    def _refuse_columns(self) -> None:
        for profile in list(self._free.values()):
            if not FIELD.fullmatch(profile.name):
                self._leave(profile, "rename it: a field has 1 to 128 printable characters")
            elif not profile.forms:
                self._leave(profile, "empty")
            elif profile.card_numbers >= 0.5:  # noqa: PLR2004 - by chance it is 0.05
                share = f"{profile.card_numbers:.0%} of its values are card numbers"
                self._leave(profile, f"{share}: refused as an id, replace them by tokens")
                self._need(
                    profile, f"{share}: replace them by tokens (a keyed HMAC) and infer anew"
                )

    def _label(self) -> Choice | None:
        """A label has a name that says so: many flags have two values."""
        found = []
        for profile in self._free.values():
            values = {text.lower() for text in profile.uniques[:4]}
            words = [LABEL_WORDS.index(word) for word in profile.words if word in LABEL_WORDS]
            if len(values) == 2 and values <= TRUTHS and words:  # noqa: PLR2004 - a yes and a no
                found.append((min(words), len(profile.words), profile.name))
        if not found:
            return None
        profile = self._take(min(found)[2])
        sure = len(found) == 1
        others = (
            ""
            if sure
            else ", but others look so too: " + ", ".join(name for _, _, name in sorted(found)[1:])
        )
        counts = profile.texts.str.lower().value_counts()
        said = ", ".join(f"{value}: {count:,}" for value, count in counts.items())
        if not {text.lower() for text in profile.uniques} <= LABELS_READ:
            self._need(profile, f"write the label as 0 or 1 (1 is fraud), it has {said}")
        return Choice(profile.name, said + others, sure)

    def _suspect(self) -> None:
        label = self._all[self._out.label.field] if self._out.label else None
        for profile in list(self._free.values()):
            why = leaks_of(profile, label)
            if why:
                self._take(profile.name)
                self._out.suspects.append(Choice(profile.name, why))

    def _time(self) -> Choice:
        found = []
        for place, profile in enumerate(self._free.values()):
            if form := profile.time:
                named = bool({"time", "timestamp", "datetime", "date"}.intersection(profile.words))
                full = profile.nulls == 0
                rank = (full, form.has_clock, form.loads, named, -place)
                found.append((rank, profile, form))
        if not found:
            what = "no column holds times: add one, as RFC 3339 (2026-11-01T12:00:00Z)"
            since = [profile.name for profile in self._free.values() if _never_falls(profile)]
            if since:
                what += f"; {since[0]!r} never falls: is it the time since a beginning?"
            self._out.needs.append(Need(MISSING_TIME, what))
            return Choice(MISSING_TIME, "no column of the file holds times", False)
        _, profile, form = max(found, key=lambda item: item[0])
        self._take(profile.name)
        for _, other, other_form in found:
            if other is not profile:
                self._leave(other, f"another time ({other_form.name}), {other.evidence()}")
        clock = next((other for other in self._free.values() if other.is_clock), None)
        why = f"{form.name}, {profile.evidence()}"
        sure = len(found) == 1 and not form.is_ambiguous and form.has_clock
        if len(found) > 1:
            why += f"; {len(found) - 1} other columns hold times"
        if not form.has_clock and clock is not None:
            self._leave(clock, "the time of day that belongs to the date")
            what = f"join it with {clock.name!r} to one column, as RFC 3339 with an offset"
            self._need(profile, f"holds dates alone: {what}")
        elif not form.loads:
            self._need(profile, _time_need(form.name, form.is_ambiguous))
        elif form.name in TIMES_OF_TEXT and not any(map(OFFSET.search, profile.forms)):
            why += "; without an offset it is UTC"
        if form.loads and not form.has_clock:
            why += "; dates alone, so all events of a day are at midnight"
        return Choice(profile.name, why, sure)

    def _event_id(self) -> Choice:
        found = []
        for place, profile in enumerate(self._free.values()):
            is_id = profile.share(IDENTIFIER) >= OF_FORM and profile.numeric != "decimal"
            words = set(profile.words)
            named = 2 * bool(words.intersection(EVENT_WORDS)) + bool(words.intersection(ID_WORDS))
            named -= 2 * bool(words.intersection((*AMOUNT_WORDS, *PARTITION_WORDS)))
            # A few repeated ids are slips of the file; many say that it is no id of the event.
            nearly = profile.distinct >= OF_FORM * self._rows and named >= 2  # noqa: PLR2004
            if profile.is_unique and (is_id or named > 0) or (nearly and is_id):
                found.append(((is_id, named, profile.is_unique, -place), profile))
        if not found:
            what = "no column has another value in each row: add one, such as a row number"
            self._out.needs.append(Need(MISSING_ID, what))
            return Choice(MISSING_ID, "the file has no column like that", False)
        (is_id, named, _, _), profile = max(found, key=lambda item: item[0])
        self._take(profile.name)
        if not is_id:
            self._need(profile, "ids have 1 to 64 letters, digits, - and _: write them so")
        return Choice(profile.name, profile.evidence(examples=False), named > 0 and len(found) == 1)

    def _currency(self) -> Choice | None:
        for profile in list(self._free.values()):
            known = sum(text in CURRENCIES for text in profile.forms) / len(profile.forms)
            named = bool(set(profile.words).intersection(CURRENCY_WORDS))
            if known >= OF_FORM or (named and known >= 0.5):  # noqa: PLR2004 - and some slips
                self._take(profile.name)
                if profile.nulls:
                    default = str(profile.texts.mode().iloc[0])
                    why = f"the most common; {profile.nulls:,} rows name none"
                    self._out.currency_default = Choice(default, why, False)
                return Choice(profile.name, profile.evidence(), named)
        return None

    def _amount(self) -> None:
        found = []
        for place, profile in enumerate(self._free.values()):
            words = [AMOUNT_WORDS.index(word) for word in profile.words if word in AMOUNT_WORDS]
            # A whole number is an amount only where its name says so.
            money = profile.numeric in ("decimal", "comma", "grouped", "money")
            if words and (money or profile.numeric == "whole"):
                found.append((min(words), not money, place, profile))
            elif profile.numeric == "money":
                found.append((len(AMOUNT_WORDS), False, place, profile))
        if not found:
            self._out.currency = self._out.currency_default = None
            return
        profile = self._take(min(found, key=lambda item: item[:3])[3].name)
        self._out.amount = Choice(profile.name, profile.evidence(), len(found) == 1)
        self._out.minor_digits = _minor_digits(profile)
        self._amount_needs(profile)
        if self._out.currency is None:
            named = [word.upper() for word in profile.words if word.upper() in CURRENCIES]
            why = "from the name" if named else "the file does not say which: correct it"
            self._out.currency_default = Choice((*named, DEFAULT_CURRENCY)[0], why, bool(named))

    def _amount_needs(self, profile: Profile) -> None:
        forms = {
            "comma": "write a decimal point instead of the comma, and no other separators",
            "grouped": "take the commas between thousands away",
            "money": "take the currency out of it, and write plain numbers such as 12.50",
        }
        if profile.numeric in forms:
            self._need(profile, forms[profile.numeric])
        negative = sum(text.startswith("-") for text in profile.texts)
        if negative:
            what = f"{negative:,} amounts are below 0: leave those rows (refunds?) out, or the sign"
            self._need(profile, what)
        if profile.nulls:
            self._need(
                profile, f"{profile.nulls:,} rows have no amount: leave them out, or write 0"
            )
        if profile.decimals > MINOR_DIGITS_MAX and not pd.api.types.is_float_dtype(
            profile.values.dtype
        ):
            what = f"up to {profile.decimals} decimals: round to those of the currency"
            self._need(profile, what)

    def _entities(self) -> None:
        named = [
            (PARTITION_WORDS.index(word), place, profile)
            for place, profile in enumerate(self._free.values())
            for word in profile.words
            if word in PARTITION_WORDS and _may_be_entity(profile)
        ]
        if named:
            _, _, first = min(named, key=lambda item: item[:2])
            self._entity(first, "the partition key", is_sure=len(named) == 1)
        elif repeated := [
            profile
            for profile in self._free.values()
            if _may_be_entity(profile)
            and profile.numeric != "decimal"
            and not set(profile.words).intersection((*CODE_WORDS, *AMOUNT_WORDS))
            and (set(profile.words).intersection((*OTHER_WORDS, *ID_WORDS)))
            and self._rows / profile.distinct >= REPEATED_MIN
        ]:
            first = max(repeated, key=lambda profile: profile.distinct)
            self._entity(first, "the partition key, by its contents alone", is_sure=False)
        else:
            why = "nothing comes twice that looks like a customer, a card or an account"
            self._out.items.append(
                Item("entity", self._name("event"), self._out.event_id.field, why, False)
            )
        for profile in list(self._free.values()):
            words = set(profile.words)
            if words.intersection((*PARTITION_WORDS, *OTHER_WORDS)) and _may_be_entity(profile):
                self._entity(profile, "", is_sure=not words.intersection(CODE_WORDS))

    def _entity(self, profile: Profile, why: str, *, is_sure: bool) -> None:
        self._take(profile.name)
        said = ", ".join(filter(None, (why, profile.evidence(examples=False))))
        name = self._name(_entity_name(profile.name))
        self._out.items.append(Item("entity", name, profile.name, said, is_sure))

    def _others(self) -> None:
        for profile in list(self._free.values()):
            table, why, is_sure = _table_of(profile, self._rows)
            if table is None:
                self._leave(profile, why)
                continue
            self._take(profile.name)
            name = self._name(schema_name(profile.name))
            self._out.items.append(Item(table, name, profile.name, why, is_sure))

    def _name(self, wanted: str) -> str:
        name, number = wanted or "x", 2
        while name in self._names:
            name, number = f"{wanted[:28]}_{number}", number + 1
        self._names.add(name)
        return name


def _time_need(form: str, is_ambiguous: bool) -> str:
    if form.startswith("epoch"):
        return f"{form}: write whole milliseconds since 1970, or RFC 3339"
    unsure = ", and it is not certain which number is the day" if is_ambiguous else ""
    return f"times look like {form}{unsure}: write RFC 3339 with an offset (2026-11-01T12:00:00Z)"


def _minor_digits(profile: Profile) -> Choice:
    if profile.numeric == "whole" and not pd.api.types.is_float_dtype(profile.values.dtype):
        return Choice("2", "whole numbers: 0 if they are minor units already (cents)", False)
    digits = profile.decimals
    if profile.numeric == "comma":
        digits = max(len(text.rpartition(",")[2]) for text in profile.forms if "," in text)
    if digits <= 2:  # noqa: PLR2004 - most currencies' cents
        return Choice("2", f"at most {digits} decimals")
    noted = f"up to {digits} decimals"
    return Choice(str(min(digits, MINOR_DIGITS_MAX)), noted, False)


def _entity_name(name: str) -> str:
    return re.sub(r"_(?:id|no|nr|number|num|hash|token)$", "", schema_name(name)) or "entity"


def _may_be_entity(profile: Profile) -> bool:
    """An entity must be there in every row, and be an id in form."""
    return profile.nulls == 0 and profile.share(IDENTIFIER) == 1.0 and profile.card_numbers == 0.0


def _table_of(profile: Profile, rows: int) -> tuple[Table | None, str, bool]:
    """Say whether a column is a category or a number, and why; or why it is neither."""
    if nothing := _teaches_nothing(profile, rows):
        return None, f"{nothing}, {profile.evidence()}", True
    words = set(profile.words)
    is_id = bool(words.intersection((*PARTITION_WORDS, *OTHER_WORDS)))
    is_id = (
        is_id
        and profile.numeric != "decimal"
        or any(profile.share(form) >= OF_FORM for form in (EMAIL, IP))
    )
    is_code = bool(words.intersection(CODE_WORDS))
    if _decodes(profile, "number") and not is_code and not is_id:
        return "number", profile.evidence(), profile.numeric is not None
    if not _decodes(profile, "category"):
        return None, f"text longer than {CATEGORY_LENGTH_MAX} characters, or of another kind", True
    evidence = profile.evidence(examples=not is_id)
    if is_id:
        # A category has a history like an entity's, and may be empty or of other letters.
        return "category", f"no entity: some ids are empty or not of A-Za-z0-9_-, {evidence}", False
    if is_code or profile.distinct <= min(CATEGORIES_DISTINCT_MAX, max(rows / 2, 2)):
        return "category", evidence, True
    said = profile.evidence(examples=False)
    return None, f"too many different texts for a category, {said}", True


def _teaches_nothing(profile: Profile, rows: int) -> str:
    if profile.distinct == 1 and not profile.nulls and rows > 1:
        return "the same in all rows"
    is_number = profile.numeric == "whole" and profile.is_unique and _never_falls(profile)
    return "a row number, or a time since a beginning" if is_number else ""


def _never_falls(profile: Profile) -> bool:
    if profile.numeric is None or profile.nulls or profile.distinct < ORDERED_ROWS_MIN:
        return False
    return bool((np.diff(profile.numbers) >= 0).all())


def _decodes(profile: Profile, table: Table) -> bool:
    decode = columns.numbers if table == "number" else columns.categories
    try:
        decode(Column("", profile.name, 1, profile.values))
    except (ColumnError, TypeError, ValueError):
        return False
    return True
