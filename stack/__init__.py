"""Embedded Kafka, Redis and Prometheus, as real processes, for demo, tests and benchmarks."""
