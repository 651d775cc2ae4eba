"""What can go wrong, and the words for it.

FraudstreamError
    SettingError        a setting is unknown, malformed or contradicts another
    SchemaError         a schema file does not describe a stream
    DataError           a file does not fit its schema
    SnapshotError       a model snapshot is damaged, forged or of another kind
    KeyFileError        a key is missing, malformed, or readable by others
    RulesError          a file of rules does not say what to do
    StackError          an embedded server could not be started or stopped
    CommitError         the store holds something that the protocol does not allow

A bad event is none of these: it is a value, `Rejected`, and becomes a dead letter.
"""

from dataclasses import dataclass
from typing import Literal, get_args


class FraudstreamError(Exception):
    """Anything that a user can mend; its text is one line that says how."""


class SettingError(FraudstreamError):
    """A setting is unknown, malformed or contradicts another."""


class SchemaError(FraudstreamError):
    """A schema file does not describe a stream."""


class DataError(FraudstreamError):
    """A file does not fit its schema."""


SnapshotFault = Literal[
    "signature", "format", "damaged", "too_large", "unknown_model", "not_finite", "canary", "stale"
]
"""Why a record of a model was refused; a closed list."""

SNAPSHOT_FAULTS: tuple[SnapshotFault, ...] = get_args(SnapshotFault)


ControlFault = Literal["signature", "format", "replayed"]
"""Why a record of the controls log does not count; a closed list."""

CONTROL_FAULTS: tuple[ControlFault, ...] = get_args(ControlFault)


class SnapshotError(FraudstreamError):
    """A model snapshot is damaged, forged or of another kind; `fault` says which."""

    def __init__(self, text: str, fault: SnapshotFault = "damaged") -> None:
        super().__init__(text)
        self.fault: SnapshotFault = fault


class KeyFileError(FraudstreamError):
    """A key is missing, malformed, or readable by others."""


class RulesError(FraudstreamError):
    """A file of rules does not say what to do."""


class StackError(FraudstreamError):
    """An embedded server could not be started or stopped."""


class CommitError(FraudstreamError):
    """The store holds something that the protocol does not allow."""


Reason = Literal[
    "malformed",
    "schema",
    "too_large",
    "card_number",
    "wrong_partition",
    "wrong_key",
    "out_of_time",
    "unknown_transaction",
    "duplicate_conflict",
    "internal_error",
    "bad_signature",
]
"""Why an input became a dead letter; a closed list."""

REASONS: tuple[Reason, ...] = get_args(Reason)


@dataclass(frozen=True, slots=True)
class ReasonHelp:
    """What a reason means, how it is mended, and whether the same bytes may succeed after that."""

    meaning: str
    mend: str
    is_mended_by_sending: bool


REASON_HELP: dict[Reason, ReasonHelp] = {
    "malformed": ReasonHelp(
        "no JSON object in UTF-8, or no value at all",
        "mend the producer, and publish the event anew",
        is_mended_by_sending=False,
    ),
    "schema": ReasonHelp(
        "a field is missing, of another type or out of its range",
        "if the producer is right, mend the schema file, then send it again; "
        "else publish the event anew",
        is_mended_by_sending=True,
    ),
    "too_large": ReasonHelp(
        "more bytes than a record may have",
        "mend the producer, and publish the event anew",
        is_mended_by_sending=False,
    ),
    "card_number": ReasonHelp(
        "an id, a category or another text holds a card number in clear",
        "let the producer send tokens (docs/card-numbers.md), and publish the event anew",
        is_mended_by_sending=False,
    ),
    "wrong_partition": ReasonHelp(
        "the record is not in the partition of its key",
        "send it again if its key is the event's own: it goes to the key's partition",
        is_mended_by_sending=True,
    ),
    "wrong_key": ReasonHelp(
        "the key of the record is not the event's own partition key",
        "let the producer key its records by the event's field, and publish the event anew",
        is_mended_by_sending=False,
    ),
    "out_of_time": ReasonHelp(
        "the event's time is too far from its arrival in Kafka",
        "set event_ahead_seconds_max or event_age_days_max, then send it again",
        is_mended_by_sending=True,
    ),
    "unknown_transaction": ReasonHelp(
        "a label whose transaction had no decision for as long as a label waits",
        "send it again once the transaction is decided",
        is_mended_by_sending=True,
    ),
    "bad_signature": ReasonHelp(
        "a label is not signed by a known key of its source: forged, damaged, or a key is missing",
        "find out who sent it; if the key was missing here, add it, then send it again",
        is_mended_by_sending=True,
    ),
    "duplicate_conflict": ReasonHelp(
        "the id stands for another transaction already: other content, or another card",
        "give the event an id of its own, and publish it anew",
        is_mended_by_sending=False,
    ),
    "internal_error": ReasonHelp(
        "our own code failed on this record alone: a defect",
        "report it; after an update that mends it, send it again",
        is_mended_by_sending=True,
    ),
}
