"""River alone: the naive features and model over events in memory, without Kafka, as a process.

python -m benchmarks.speed.river_alone EVENTS
"""

import json
import sys
import time

import msgspec

from benchmarks.speed.material import Material
from benchmarks.speed.naive import Naive, decision
from pipeline.settings import Settings


def main() -> None:
    """Decode, count, score, learn and encode so many events; print what it took."""
    events = [record.value for record in Material(Settings(), int(sys.argv[1])).records]
    model, counts = Naive(), dict[str, int]()
    started, cpu = time.perf_counter(), time.process_time()
    for value in events:
        event = msgspec.json.decode(value)
        count = counts[event["card_id"]] = counts.get(event["card_id"], 0) + 1
        score = model.score(float(event["amount"]), event["event_time"], count)
        msgspec.json.encode(decision(event, score))
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    found = {
        "events_per_second": len(events) / seconds,
        "events_per_cpu_second": len(events) / cpu,
        "worker_cpu_us": cpu / len(events) * 1e6,
        "events": len(events),
    }
    print(json.dumps(found))  # noqa: T201 - the answer of this process


if __name__ == "__main__":
    main()
