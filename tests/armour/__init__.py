"""The counted cases of bad and of odd input, one table a group.

A row says what is given and what must come of it. `tests/test_armour.py` counts the rows of each
group, so that none gets lost unseen; the envelope, compression and damage of the store are told on
real servers (`tests/integration/test_envelope.py`, `tests/integration/test_damage.py`).
"""
