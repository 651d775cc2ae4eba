"""When something is done again that costs more, the more there is: at each doubling, then evenly.

>>> [next_doubling(learned, first=32, distance_max=65_536) for learned in (0, 31, 32, 140_000)]
[32, 32, 64, 196608]
"""


def next_doubling(learned: int, *, first: int, distance_max: int) -> int:
    """Say after how many examples it is next: `first`, its doublings, then each `distance_max`."""
    doubled = max(first, 1 << learned.bit_length())
    return min(doubled, (learned // distance_max + 1) * distance_max)
