"""A worker and a trainer driven in lock step: each part of a step is done before the next is sent.

So what a live system makes of a history is the same whenever it is run, and can be compared with
what a backfill makes of the file, bit for bit. What is waited for stands in Redis: logs are written
only after the commits, so their ends say too little.
"""

import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import redis

from pipeline.durations import DAY_MS
from pipeline.history import HistoryStep
from pipeline.settings import Settings
from pipeline.topics import FEEDBACK, TRAINING, TRANSACTIONS
from pipeline.transactions import TransactionDecoder
from tests.integration.processes import Running, Sent, send
from tests.strategies import CARD
from tests.waiting import wait_until

WAIT_SECONDS_MAX = 60.0


@dataclass
class LockStep:
    """Sends the steps of a history to the topics, and waits for all that comes of each part.

    Parameters
    ----------
    decided
        Event times of what is decided already, by partition, in the order of the log.
    probe
        A transaction that was decided.
    """

    settings: Settings
    redis: redis.Redis
    worker: Running
    trainer: Running
    decided: dict[int, list[int]] = field(default_factory=dict)
    probe: Sent | None = None

    def __post_init__(self) -> None:
        self.trainer.started.process.send_signal(signal.SIGSTOP)

    def end(self) -> None:
        """End both, the trainer able to hear of it."""
        assert self.worker.end().exit_code == 0
        self.trainer.started.process.send_signal(signal.SIGCONT)
        assert self.trainer.end().exit_code == 0

    def step(self, step: HistoryStep) -> None:
        self.learn(step)
        for chunk in step.chunks:
            for p, records in chunk.items():
                sent: list[Sent] = [(p, record.key, record.value) for record in records]
                batch, _, _ = TransactionDecoder(CARD).decode([value for _, _, value in sent])
                self.decided.setdefault(p, []).extend(batch.event_time_ms.tolist())
                self.send(TRANSACTIONS, sent)
                self.probe = sent[-1]
                self.wait(lambda p=p: self.is_indexed(p), f"the decisions of {p} are indexed")
                self.wait(lambda p=p: self.has_matured(p), f"the decisions of {p} have matured")

    def learn(self, step: HistoryStep) -> None:
        """Let the labels of a step be joined and learned, and what was learned be in force.

        Only now the trainer goes on: what matures while a step is decided is learned with the next.
        """
        for p, records in step.labels.items():
            self.send(FEEDBACK, [(p, record.key, record.value) for record in records])
        examples = sum(self.joined(p)[1] for p in range(self.settings.partitions))
        self.trainer.started.process.send_signal(signal.SIGCONT)
        self.wait(lambda: self.position(TRAINING) == examples, f"{examples} are learned")
        if examples:
            self.adopt(examples)
        self.trainer.started.process.send_signal(signal.SIGSTOP)

    def send(self, topic: str, records: list[Sent]) -> None:
        last: Counter[int] = Counter()
        for p, offset in send(self.settings, topic, records):
            last[p] = max(last[p], offset + 1)
        for p, end in last.items():
            place = f"{topic}:{p}"
            self.wait(
                lambda place=place, end=end: self.position(place) == end, f"{place} is at {end}"
            )

    def adopt(self, offset: int) -> None:
        """Send a transaction again, which does nothing, until a batch has found the version."""
        assert self.probe is not None
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while (found := self.worker.samples("fraud_model_training_offset")) != {"": offset}:
            assert time.monotonic() < deadline, f"version {offset} is not adopted but {found}"
            self.send(TRANSACTIONS, [self.probe])

    def is_indexed(self, p: int) -> bool:
        return int(self.redis.hget(f"index:{p}", "offset") or -1) == len(self.decided[p]) - 1

    def has_matured(self, p: int) -> bool:
        """Say whether all are looked at that are old enough; each has one record in the log."""
        oldest_ms = max(self.decided[p]) - self.settings.maturity_days * DAY_MS
        wanted = sum(time_ms <= oldest_ms for time_ms in self.decided[p])
        return self.joined(p)[3] == wanted

    def joined(self, p: int) -> list[int]:
        """Give the position of a labeller: offset, examples, steps, decisions looked at."""
        position = (self.redis.get(f"pos:{FEEDBACK}:{p}") or b"0:0:0:0").decode()
        return [int(part) for part in position.split(":")]

    def position(self, name: str) -> int:
        return int((self.redis.get(f"pos:{name}") or b"0").split(b":")[0])

    def wait(self, holds: Callable[[], bool], what: str) -> None:
        wait_until(holds, what, seconds_max=WAIT_SECONDS_MAX)
