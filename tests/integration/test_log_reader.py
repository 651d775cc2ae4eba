"""A log that grows while it is read is read whole, each record once."""

from collections import Counter

import pytest

from consumers.log_reader import LogReader
from pipeline.settings import Settings
from pipeline.topics import TRANSACTIONS
from tests.integration.processes import send

pytestmark = [pytest.mark.integration]

RECORDS = 2_000


def test_what_comes_while_a_log_is_read_is_read_the_next_time(settings: Settings) -> None:
    send(settings, TRANSACTIONS, [(n % 4, b"c1", b"x") for n in range(RECORDS)])
    seen: Counter[tuple[int, int]] = Counter()
    with LogReader(settings.kafka_servers, TRANSACTIONS) as reader:
        ends = reader.ends
        # The log is longer than what is asked for, as it is when records come meanwhile.
        for share in (0.1, 0.5, 0.51, 1.0):
            asked = {partition: int(end * share) for partition, end in ends.items()}
            for chunk in reader.chunks(asked):
                seen.update((record.partition, record.offset) for record in chunk)
            assert len(seen) == sum(asked.values())

    assert set(seen.values()) == {1}
