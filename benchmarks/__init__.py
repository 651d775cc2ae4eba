"""Reproducible measurements; each prints, and writes as JSON, with the machine named."""
