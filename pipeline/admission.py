"""Which decoded records are admitted: those of their own partition and key, at a possible time.

The worker asks before it decides, and `verify` asks again when it folds the recorded log, so both
pass over the same events.

>>> from pipeline.schema import load_schema
>>> admission = Admission(load_schema("card"), Settings(partitions=4), partition=0)
>>> str(admission.problem("c1", time_ms=0, appended_ms=None))
'wrong_partition at $.card_id: expected partition 3, got 0'
"""

from collections.abc import Sequence

import numpy as np

from pipeline.durations import DAY_MS
from pipeline.events import Problem, Rejected, Transactions
from pipeline.partitioner import partition_of
from pipeline.schema import Schema
from pipeline.settings import Settings

# So many keys are known to be ours without being hashed again, about 15 MB.
KEYS_REMEMBERED_MAX = 131_072
COLUMNS_MIN = 6


class Admission:
    """Admits the transactions of one partition."""

    def __init__(self, schema: Schema, settings: Settings, partition: int) -> None:
        self._schema, self._settings, self._partition = schema, settings, partition
        self._ours: set[str] = set()

    def admit(
        self,
        batch: Transactions,
        rows: list[int],
        appended_ms: Sequence[int | None],
        record_keys: Sequence[bytes | None],
    ) -> tuple[Transactions, list[int], list[Rejected]]:
        """Give the admitted events, their rows, and why each of the others is rejected.

        `rows` says which record each event of the batch came from, `appended_ms` when each record
        arrived in Kafka, and `record_keys` what key it came with.
        """
        if self._are_ordinary(batch, rows, appended_ms, record_keys):
            return batch, rows, []
        return self.admit_each(batch, rows, appended_ms, record_keys)

    def admit_each(
        self,
        batch: Transactions,
        rows: list[int],
        appended_ms: Sequence[int | None],
        record_keys: Sequence[bytes | None],
    ) -> tuple[Transactions, list[int], list[Rejected]]:
        """Look at one event after the other, which says what `admit` has to give."""
        problems: list[tuple[int, Problem]] = []
        times = batch.event_time_ms.tolist()
        for place, (row, key, time_ms) in enumerate(zip(rows, batch.keys[0], times, strict=True)):
            problem = self.problem(key, time_ms=time_ms, appended_ms=appended_ms[row])
            problem = problem or self.miskeyed(key, record_keys[row])
            if problem is not None:
                problems.append((place, problem))
        if not problems:
            return batch, rows, []
        rejected = [Rejected(rows[place], problem) for place, problem in problems]
        kept = np.delete(np.arange(len(batch)), [place for place, _ in problems])
        return batch.take(kept), [rows[place] for place in kept], rejected

    def _are_ordinary(
        self,
        batch: Transactions,
        rows: list[int],
        appended_ms: Sequence[int | None],
        record_keys: Sequence[bytes | None],
    ) -> bool:
        """Say whether all are seen to be admitted at once; for a few, to look at each is faster."""
        if len(batch) < COLUMNS_MIN:
            return False
        keys = batch.keys[0]
        if len(rows) < len(record_keys):
            appended_ms = [appended_ms[row] for row in rows]
            record_keys = [record_keys[row] for row in rows]
        if list(map(str.encode, keys)) != list(record_keys) or None in appended_ms:
            return False
        if not self._ours.issuperset(keys):
            new = set(keys) - self._ours
            if any(self._place(key) != self._partition for key in new):
                return False
            self._remember(new)
        # Of the events, the first and the last after their arrival say whether all are in time.
        ahead_ms = batch.event_time_ms - np.array(appended_ms, dtype=np.int64)
        return not any(self._untimely(int(end), 0) for end in (ahead_ms.max(), ahead_ms.min()))

    def problem(self, key: str, *, time_ms: int, appended_ms: int | None) -> Problem | None:
        """Say why an event is not admitted; `None` where it is."""
        return self._untimely(time_ms, appended_ms) or self.misplaced(key)

    def misplaced(self, key: str) -> Problem | None:
        """Say why a key is not ours: its history and labels are in its partition alone."""
        if key in self._ours:
            return None
        place = self._place(key)
        if place == self._partition:
            self._remember({key})
            return None
        field = f"$.{self._schema.partition_key}"
        return Problem("wrong_partition", field, f"partition {place}", f"{self._partition}")

    def refused(self, key: str, record_key: bytes | None) -> Problem | None:
        """Say why a record of no time limits is not admitted; `None` where it is."""
        return self.misplaced(key) or self.miskeyed(key, record_key)

    def miskeyed(self, key: str, record_key: bytes | None) -> Problem | None:
        """Say why a record's key is not that of its content; a record may have none."""
        if record_key is None or record_key == key.encode():
            return None
        field = f"$.{self._schema.partition_key}"
        return Problem("wrong_key", field, "the key of the record", "another one")

    def _untimely(self, time_ms: int, appended_ms: int | None) -> Problem | None:
        """One event of the far future would age every profile and label of its partition."""
        if appended_ms is None:
            return None
        settings, field = self._settings, f"$.{self._schema.event_time}"
        ahead_ms = time_ms - appended_ms
        if ahead_ms > settings.event_ahead_seconds_max * 1000:
            limit = f"at most {settings.event_ahead_seconds_max:.0f} s after its arrival in Kafka"
            return Problem("out_of_time", field, limit, f"{ahead_ms / 1000:.0f} s after it")
        days = -ahead_ms / DAY_MS
        if 0 < settings.event_age_days_max < days:
            limit = f"at most {settings.event_age_days_max:g} days before its arrival in Kafka"
            return Problem("out_of_time", field, limit, f"{days:.1f} days before it")
        return None

    def _remember(self, keys: set[str]) -> None:
        if len(self._ours) + len(keys) > KEYS_REMEMBERED_MAX:
            self._ours.clear()
        self._ours |= keys

    def _place(self, key: str) -> int:
        return partition_of(key.encode(), self._settings.partitions)
