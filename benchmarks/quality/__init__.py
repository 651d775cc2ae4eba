"""How good our models are beside others: one protocol, many rows, each resumable by itself.

A row is one model on one stream at one label delay. It runs in a process of its own, so that its
time and memory are its own, and leaves one JSON file; `docs/benchmarks.md` is made of these files.
"""
