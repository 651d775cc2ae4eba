"""What we decided beside what the present system did, over the same events (`docs/compare.md`)."""
