"""Which column of a chargeback file is what: a TOML file, or a guess where the names are obvious.

>>> mapping = guessed(["ARN", "Transaction ID", "Reason Code", "Chargeback Date", "Case Number"])
>>> mapping.columns.reference, mapping.columns.reason, mapping.columns.label_date
('Transaction ID', 'Reason Code', 'Chargeback Date')
>>> print(mapping_text(mapping))
[columns]
reference = "Transaction ID"
reason = "Reason Code"
case = "Case Number"
label_date = "Chargeback Date"
"""

import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from consumers.reason_codes import Meaning
from pipeline.currencies import CURRENCIES
from pipeline.errors import DataError
from pipeline.schema import Schema

Stage = Literal["chargeback", "dispute_won", "ignore"]

# What files call the state of a case, in lower case.
STAGES: dict[str, Stage] = {
    **dict.fromkeys(
        ("chargeback", "first chargeback", "new", "open", "opened", "received", "lost", "accepted")
        + ("pending", "disputed", "represented", "representment", "second chargeback", "expired"),
        "chargeback",
    ),
    **dict.fromkeys(
        ("won", "dispute won", "dispute_won", "representment won", "reversed", "reversal")
        + ("chargeback reversal", "chargeback reversed", "withdrawn", "cancelled", "canceled"),
        "dispute_won",
    ),
    **dict.fromkeys(("inquiry", "retrieval", "retrieval request", "pre-dispute"), "ignore"),
}

# Obvious names, without anything but letters and in lower case; the first found is taken.
NAMES: dict[str, tuple[str, ...]] = {
    "reference": (
        *("transactionid", "merchantreference", "orderid", "merchanttransactionid", "paymentid"),
        *("transactionreference", "merchantorderid", "txnid", "reference"),
    ),
    "token": ("cardtoken", "token", "cardid", "paymenttoken", "accounttoken", "customerid"),
    "amount": ("transactionamount", "originalamount", "amount", "chargebackamount"),
    "currency": ("transactioncurrency", "originalcurrency", "currency", "currencycode"),
    "date": ("transactiondate", "purchasedate", "saledate", "originaltransactiondate"),
    "reason": ("reasoncode", "chargebackreasoncode", "chargebackreason", "disputereasoncode"),
    "scheme": ("scheme", "cardscheme", "network", "cardbrand", "cardnetwork", "brand"),
    "status": ("status", "casestatus", "chargebackstatus", "disputestatus", "stage"),
    "case": ("casenumber", "caseid", "disputeid", "chargebackid", "chargebackreference"),
    "label_date": (
        *("chargebackdate", "disputedate", "receiveddate", "datereceived", "statusdate"),
        *("casedate", "notificationdate", "posteddate"),
    ),
}


class Columns(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Names of columns in the file; what is not there is `None`."""

    reference: str | None = None
    token: str | None = None
    amount: str | None = None
    currency: str | None = None
    date: str | None = None
    reason: str | None = None
    scheme: str | None = None
    status: str | None = None
    case: str | None = None
    label_date: str | None = None

    @property
    def named(self) -> dict[str, str]:
        """The columns that are named, by what they are."""
        return {key: name for key, name in msgspec.structs.asdict(self).items() if name is not None}


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the file writes things.

    Parameters
    ----------
    token_entity
        The schema's entity whose id the token is; the partition key's where it is not said.
    time_zone
        Of times without an offset, such as Europe/Berlin.
    date_format
        As of Python's `strptime`; without it ISO 8601.
    window_days
        How far the file's date may be from the decision's event.
    negative_amounts
        Whether the file writes chargebacks as amounts below 0.
    """

    token_entity: str | None = None
    time_zone: str | None = None
    date_format: str | None = None
    currency_default: str | None = None
    window_days: Annotated[int, msgspec.Meta(ge=0, le=60)] = 2
    decimal_comma: bool = False
    negative_amounts: bool = False
    delimiter: Annotated[str, msgspec.Meta(min_length=1, max_length=1)] = ","


class Mapping(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that is said of a file; `reasons` and `statuses` are the team's own words."""

    columns: Columns
    options: Options = Options()
    reasons: dict[str, Meaning] = {}
    statuses: dict[str, Stage] = {}

    @property
    def zone(self) -> ZoneInfo | None:
        """The time zone of times without an offset."""
        return ZoneInfo(self.options.time_zone) if self.options.time_zone else None

    @property
    def has_token_match(self) -> bool:
        """Whether a row can be matched without a reference."""
        columns = self.columns
        return None not in (columns.token, columns.amount, columns.date)

    def stage(self, text: str) -> Stage | None:
        """Say what a status means; `None` where nobody knows."""
        own = {name.strip().lower(): stage for name, stage in self.statuses.items()}
        return (STAGES | own).get(text.strip().lower())


def load_mapping(path: Path) -> Mapping:
    """Read a mapping, or say where it is wrong."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Mapping)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise DataError(f"mapping {path}: {error}") from error


def guessed(names: Sequence[str]) -> Mapping:
    """Map the columns whose names are obvious."""
    plain: dict[str, str] = {}
    for name in names:
        plain.setdefault(re.sub(r"[^a-z]", "", name.lower()), name)
    found = {
        key: next((plain[name] for name in known if name in plain), None)
        for key, known in NAMES.items()
    }
    return Mapping(Columns(**found))


def mapping_text(mapping: Mapping) -> str:
    """Give the columns of a mapping as TOML."""
    # JSON's escapes are TOML's, but for those of letters beyond the first 65,536.
    lines = [
        f"{key} = {json.dumps(name, ensure_ascii=False)}"
        for key, name in mapping.columns.named.items()
    ]
    return "\n".join(["[columns]", *lines])


def check_mapping(mapping: Mapping, names: Sequence[str], schema: Schema) -> None:
    """Refuse a mapping that could match no row of a file with these columns."""
    columns, options = mapping.columns, mapping.options
    problems = [
        f"[columns] {key}: the file has no column {name!r}"
        for key, name in columns.named.items()
        if name not in names
    ]
    if columns.reason is None:
        problems.append("[columns] reason is needed: the reason code of a chargeback")
    if columns.label_date is None:
        problems.append("[columns] label_date is needed: when the chargeback became known")
    if columns.reference is None and not mapping.has_token_match:
        problems.append("[columns] reference is needed, or token, amount and date together")
    entities = [item.name for item in schema.entities]
    if options.token_entity is not None and options.token_entity not in entities:
        problems.append(f"[options] token_entity must be one of {', '.join(entities)}")
    if options.currency_default not in (None, *CURRENCIES):
        problems.append("[options] currency_default must be a currency code of ISO 4217")
    has_currency = columns.currency or options.currency_default
    if mapping.has_token_match and not has_currency and schema.amount:
        problems.append("[columns] currency is needed, or [options] currency_default")
    try:
        _ = mapping.zone
    except (ZoneInfoNotFoundError, ValueError, OSError):
        problems.append(f"[options] time_zone {options.time_zone!r} is none that is known")
    if problems:
        raise DataError("mapping: " + "; ".join(problems))
