"""The report of a replay: what is kept of a run, what is computed of it, how it looks on a page."""
