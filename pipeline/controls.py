"""What operators have said, as a fold of the `controls` log: mode, lists, and the version held.

A record counts if an operator's key signed it, it is understood, and its id did not come before:
whoever can write the topic can neither make one nor send an old one again. The offset of the last
record that counts names the state, stands on every decision, and is all that is needed to have the
same state again. Nothing here changes a score or what is learned.

>>> said = [
...     Block("k1", "ana", "stolen", 1_000, entity="card", id="c1", until=5_000),
...     Allow("k2", "ana", "our own test card", 1_000, entity="card", id="c2"),
...     SetMode("k3", "ana", "the wall looks right", 2_000, mode="act"),
... ]
>>> state = fold("observe", enumerate(said))
>>> state.mode, state.offset, state.pinned
('act', 2, None)
>>> state.listed({"card": ["c1", "c2", "c1", "c3"]}, [4_999, 9_000, 5_000, 9_000])
{1: 'LIST_ALLOWED', 0: 'LIST_BLOCKED'}
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import msgspec

from pipeline.errors import ControlFault
from pipeline.events import EVENT_TIME_MS_MAX, Id
from pipeline.records import LIST_ALLOWED, LIST_BLOCKED, Mode
from pipeline.settings import ACT, Settings
from pipeline.signing import ControlVerifier, Headers
from pipeline.version_names import split_version

Moment = Annotated[int, msgspec.Meta(ge=0, le=EVENT_TIME_MS_MAX)]
Words = Annotated[str, msgspec.Meta(min_length=1, max_length=500)]

# Verification asks for a few states again and again.
STATES_MAX = 16


class _Control(msgspec.Struct, frozen=True, tag_field="kind", omit_defaults=True):
    """What every record holds; `time` is of the operator's clock and decides nothing."""

    control_id: Id
    by: Words
    why: Words
    time: Moment


class SetMode(_Control, frozen=True, tag="mode"):
    """Act on decisions from now on, or only observe."""

    mode: Mode


class Block(_Control, frozen=True, tag="block"):
    """Decline an entity's events before `until`, in event time; without it, for ever."""

    entity: str
    id: Id
    until: Moment | None = None


class Allow(_Control, frozen=True, tag="allow"):
    """Approve an entity's events before `until`, in event time; without it, for ever."""

    entity: str
    id: Id
    until: Moment | None = None


class Unlist(_Control, frozen=True, tag="unlist"):
    """Take an entity from both lists."""

    entity: str
    id: Id


class Freeze(_Control, frozen=True, tag="freeze"):
    """Stay with the version in force, which `version` names."""

    version: str


class Rollback(_Control, frozen=True, tag="rollback"):
    """Go back to an older version, and stay with it."""

    version: str


class Unfreeze(_Control, frozen=True, tag="unfreeze"):
    """Follow the trainer again, after a freeze or a rollback."""


Control = SetMode | Block | Allow | Unlist | Freeze | Rollback | Unfreeze
Listing = Block | Allow

_ENCODER = msgspec.json.Encoder()
_DECODER: msgspec.json.Decoder[Control] = msgspec.json.Decoder(Control)


def encode_control(control: Control) -> bytes:
    """Write a record as one JSON object."""
    return _ENCODER.encode(control)


Entries = Mapping[str, Mapping[str, Listing]]
"""What is listed, by entity and id."""


@dataclass(frozen=True, slots=True)
class Controls:
    """What is in force.

    Parameters
    ----------
    mode
        As the log says; as the settings say where it does not (`mode_is_said`).
    offset
        The last record that counts; -1 before any.
    pinned
        The version that workers hold; `None`: they follow the trainer.
    """

    mode: Mode
    mode_is_said: bool = False
    offset: int = -1
    blocked: Entries = field(default_factory=dict)
    allowed: Entries = field(default_factory=dict)
    pinned: str | None = None

    def listed(
        self, columns: Mapping[str, Sequence[str]], times_ms: Sequence[int]
    ) -> dict[int, str]:
        """Give the rows that a list decides, with its reason; the block list wins.

        `columns` are the ids of each entity, row by row, and `times_ms` the times of the events,
        by which an entry expires.
        """
        rows: dict[int, str] = {}
        for reason, lists in ((LIST_ALLOWED, self.allowed), (LIST_BLOCKED, self.blocked)):
            for entity, entries in lists.items():
                column = columns.get(entity, ())
                if entries.keys().isdisjoint(column):
                    continue
                for row, key in enumerate(column):
                    entry = entries.get(key)
                    if entry and (entry.until is None or times_ms[row] < entry.until):
                        rows[row] = reason
        return rows


def mode_of(settings: Settings) -> Mode:
    """Give the mode that holds until an operator says otherwise."""
    return "act" if settings.mode == ACT else "observe"


def fold(mode: Mode, records: Iterable[tuple[int, Control]]) -> Controls:
    """Give the state that records make of the mode of the settings, each with its offset."""
    offset, said, pinned = -1, False, None
    lists: dict[type[Listing], dict[str, dict[str, Listing]]] = {Block: {}, Allow: {}}
    for offset, control in records:  # noqa: B007 - the last one is the state's name
        match control:
            case SetMode():
                mode, said = control.mode, True
            case Block() | Allow():
                lists[type(control)].setdefault(control.entity, {})[control.id] = control
            case Unlist():
                for entries in lists.values():
                    entries.get(control.entity, {}).pop(control.id, None)
            case Freeze() | Rollback():
                pinned = control.version
            case Unfreeze():
                pinned = None
    blocked, allowed = (
        {entity: entries for entity, entries in lists[kind].items() if entries}
        for kind in (Block, Allow)
    )
    return Controls(mode, said, offset, blocked, allowed, pinned)


class ControlLog:
    """The records of the log that count, and the state at any of them.

    Parameters
    ----------
    mode
        The mode of the settings.
    entities
        The names of the schema's entities: a list of others is not understood.
    """

    def __init__(self, mode: Mode, entities: Collection[str], verifier: ControlVerifier) -> None:
        self._mode, self._entities, self._verifier = mode, entities, verifier
        self._ids: set[str] = set()
        self._states: dict[int, Controls] = {}
        self.records: list[tuple[int, Control]] = []

    def take(
        self, offset: int, key: bytes | None, value: bytes | None, headers: Headers
    ) -> tuple[ControlFault, str] | None:
        """Take a record; says what is wrong with it where it does not count."""
        problem = self._verifier.problem(headers, key, value)
        if problem is not None:
            return "signature", problem
        try:
            control = _DECODER.decode(value or b"")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return "format", str(error)
        if (problem := self._misunderstood(control)) is not None:
            return "format", problem
        if control.control_id in self._ids:
            return "replayed", f"{control.control_id} came before"
        self._ids.add(control.control_id)
        self.records.append((offset, control))
        return None

    def _misunderstood(self, control: Control) -> str | None:
        if isinstance(control, Block | Allow | Unlist) and control.entity not in self._entities:
            known = ", ".join(self._entities)
            return f"entity must be one of {known} (got {control.entity!r})"
        if isinstance(control, Freeze | Rollback) and split_version(control.version) is None:
            return f"version must be such as additive@1234 (got {control.version!r})"
        return None

    @property
    def state(self) -> Controls:
        """What is in force after the last record that counts."""
        return fold(self._mode, self.records)

    def at(self, offset: int) -> Controls | None:
        """Give what was in force at a record that counts, or before any (-1)."""
        if offset not in self._states:
            until = [record for record in self.records if record[0] <= offset]
            state = fold(self._mode, until)
            if state.offset != offset:
                return None
            if len(self._states) >= STATES_MAX:
                self._states.pop(next(iter(self._states)))
            self._states[offset] = state
        return self._states[offset]
