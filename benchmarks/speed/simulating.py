"""The simulator alone, as a process: `python -m benchmarks.speed.simulating EVENTS`."""

import json
import sys
import time

from producers.feed import limited
from producers.simulator import SimulatorOptions, simulate


def main() -> None:
    """Make so many events of the Handbook's world; print what it took."""
    wanted = int(sys.argv[1])
    started, cpu = time.perf_counter(), time.process_time()
    events = sum(map(len, limited(simulate(SimulatorOptions(days=9_999)), wanted)))
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    said = {
        "events": events,
        "events_per_second": events / seconds,
        "events_per_cpu_second": events / cpu,
    }
    print(json.dumps(said))  # noqa: T201 - the answer of this process


if __name__ == "__main__":
    main()
