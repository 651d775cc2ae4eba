"""`make bench`: how fast everything is, beside what one would write instead, in the same run."""
