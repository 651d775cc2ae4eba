"""Produces events at a rate, as a process: an open loop that waits for nobody.

    python -m benchmarks.speed.generator STATE_DIR SERVERS RATE SECONDS

An event's moment depends on the clock alone. One that leaves late, because this process was kept
from running, still counts from its moment. Labels follow for one event in ten, two seconds behind.
It prints when it began, and how late events left.
"""

import gc
import json
import sys
import time
from dataclasses import replace

from confluent_kafka import Producer

from benchmarks.speed.material import EVENTS_A_LABEL, LABEL_DELAY_MS, Material, client
from benchmarks.speed.place import OURS
from pipeline.signing import LabelSigner
from pipeline.topics import FEEDBACK, TRANSACTIONS

# What librdkafka and Kafka's own producer take, if nobody says otherwise.
LINGER_MS = 5
TICK_SECONDS = 0.001
LABEL_SECONDS = 2.0
BEFORE_SECONDS = 0.5


def main() -> None:
    """Send so many seconds of events."""
    state_dir, servers, rate, seconds = sys.argv[1], sys.argv[2], *map(float, sys.argv[3:])
    material = Material(OURS, round(rate * seconds))
    signer = LabelSigner.of(replace(OURS, state_dir=state_dir))
    labels = list(material.labels(signer, step=EVENTS_A_LABEL, delay_ms=LABEL_DELAY_MS))
    producer = Producer(client(servers) | {"linger.ms": LINGER_MS})
    producer.list_topics(TRANSACTIONS)
    gc.disable()
    began = time.time() + BEFORE_SECONDS
    late, labelled = 0.0, 0
    for number, record in enumerate(material.records):
        due = began + number / rate
        while (now := time.time()) < due:
            producer.poll(0)
            time.sleep(max(due - now, TICK_SECONDS))
        late = max(late, now - due)
        producer.produce(TRANSACTIONS, record.value, record.key, record.partition)
        if labelled * EVENTS_A_LABEL < number - rate * LABEL_SECONDS:
            label = labels[labelled]
            headers = list(label.headers)
            producer.produce(FEEDBACK, label.value, label.key, label.partition, headers=headers)
            labelled += 1
    producer.flush()
    said = {"began": began, "late_ms": late * 1_000}
    print(json.dumps(said))  # noqa: T201 - the answer of this process


if __name__ == "__main__":
    main()
