"""The names of versions: a model, and the training offset that it was learned to.

>>> first, last = split_version("additive@0"), split_version("logistic@1234")
>>> first, last, split_version("additive"), split_version("additive@-1")
(('additive', 0), ('logistic', 1234), None, None)
"""

# An offset of more digits does not fit 63 bits.
OFFSET_DIGITS_MAX = 18


def split_version(version: str) -> tuple[str, int] | None:
    """Give a version's model and training offset; `None` where it is not the name of one."""
    name, _, digits = version.partition("@")
    if not (name and digits.isdecimal() and digits.isascii() and len(digits) <= OFFSET_DIGITS_MAX):
        return None
    return name, int(digits)
