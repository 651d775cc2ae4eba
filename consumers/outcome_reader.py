"""The reader of one partition of `outcomes`: what became of an event after its decision.

An outcome is one byte in the index of waiting decisions; maturity asks for it (`went_through`). One
that comes before its decision waits in the index as well, and leaves it with the decisions of its
time. The latest outcome of an event is the one that counts.
"""

from collections import Counter
from collections.abc import Sequence

from consumers.dead_letters import EventError, InputRecord, dead_letter, internal_error, redriven
from consumers.lane import Part, own_code
from consumers.scorer import Parts
from consumers.waiting_store import outcome_change
from pipeline.admission import Admission
from pipeline.commit import Change, Input, OutboxRecord
from pipeline.events import Outcome, OutcomeDecoder, Problem
from pipeline.topics import OUTCOMES


class OutcomeReader(Part):
    """Takes the outcomes of one partition, in order."""

    def __init__(self, parts: Parts, partition: int) -> None:
        self._parts, self._partition = parts, partition
        self._decoder = OutcomeDecoder(parts.schema)
        self._admission = Admission(parts.schema, parts.settings, partition)
        name = f"{OUTCOMES}:{partition}"
        self._input = Input(parts.store, parts.publish, name=name, owner=parts.owner)

    @property
    def position(self) -> int | None:
        """The offset of the next record, as committed."""
        return None if self._input.position is None else int(self._input.position)

    async def recover(self) -> int | None:
        """Take over from the last owner; gives the offset to read from, `None` at first."""
        await self._input.recover()
        return self.position

    async def tick(self) -> None:
        """Look whether the position is still ours."""
        if not await self._input.is_current():
            self._parts.counts.commits_refused += 1

    async def handle(self, records: Sequence[InputRecord]) -> bool:
        """Take these outcomes, unless another owner was before us."""
        counts, p = self._parts.counts, self._partition
        with own_code():
            checked = [(record, self._checked(record)) for record in records]
        outcomes = [item for _, item in checked if isinstance(item, Outcome)]
        letters: list[OutboxRecord] = []
        for record, item in checked:
            if isinstance(item, Problem):
                letters.append(self._letter(record, item))
        kinds = Counter(item.outcome for item in outcomes)
        changes: list[Change] = [
            *(outcome_change(p, item.transaction_id, item.outcome) for item in outcomes),
            *(("HINCRBY", f"ledger:{p}", f"outcome_{kind}", n) for kind, n in kinds.items()),
        ]
        if not await self._input.commit(str(records[-1].offset + 1), letters, changes):
            counts.commits_refused += 1
            return True
        counts.commits += 1
        counts.redriven[OUTCOMES] += redriven(records)
        for kind, number in kinds.items():
            counts.outcomes[kind] += number
        for _, item in checked:
            if isinstance(item, Problem):
                counts.rejected[item.reason] += 1
        return True

    async def failed(self, records: Sequence[InputRecord], error: EventError) -> None:
        """Make a dead letter of a single record that our own code failed on."""
        if len(records) > 1:
            return
        [record] = records
        problem, counts = internal_error(error.cause), self._parts.counts
        letters = [self._letter(record, problem)]
        if await self._input.commit(str(record.offset + 1), letters, []):
            counts.commits += 1
            counts.rejected[problem.reason] += 1
        else:
            counts.commits_refused += 1

    def _letter(self, record: InputRecord, problem: Problem) -> OutboxRecord:
        return dead_letter(record, problem, stage="outcome", schema=self._parts.schema)

    def _checked(self, record: InputRecord) -> Outcome | Problem:
        outcome = self._decoder.decode_one(record.value)
        if isinstance(outcome, Problem):
            return outcome
        return self._admission.refused(outcome.key, record.key) or outcome
