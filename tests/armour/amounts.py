"""Numbers: amounts as whole minor units, exactly, or not at all."""

from pipeline.events import AMOUNT_MINOR_MAX
from tests.armour.cases import AMOUNT, GOOD, SECRET, Case, right, wrong

_WRONG = tuple(
    wrong("amount", value)
    for value in (
        None, True, [], {"value": SECRET}, "", SECRET,
        "-1.00", -1, -0.01, "9.505", 9.505, 0.1 + 0.2, 5e-324, "0.000000001",
        "10000000.01", 10_000_000.01, 10_000_001, 10**30, 10**4000, 1e300,
        "1e3", "+9.50", " 9.50", "9.50\n", "1_000", "1,000.00", "9,50", ".50", "9.",
        "٩.٥٠", "\uff19.\uff15\uff10", "NaN", "Infinity", "-0", "0x10",
    )
)  # fmt: skip
_RIGHT = tuple(
    right("amount", value, amount_minor=[minor])
    for value, minor in (
        ("0", 0), ("0.00", 0), (0, 0), (-0.0, 0),
        ("9.5", 950), ("9.50", 950), ("9.50000000", 950), ("0000000009.50", 950),
        (9.5, 950), (0.1, 10), (1.1, 110), (1e-2, 1), (17, 1700),
        (9_999_999.99, 999_999_999), ("10000000.00", AMOUNT_MINOR_MAX),
        (1e7, AMOUNT_MINOR_MAX), (10_000_000, AMOUNT_MINOR_MAX),
    )
)  # fmt: skip
_RAW = (
    Case("number beyond any float", GOOD.replace(AMOUNT, b"1e400"), "schema", "$.amount"),
    Case("number of ten thousand digits", GOOD.replace(AMOUNT, b"9" * 10_000), "schema",
         "$.amount"),
    Case("number of ten thousand digits in an unknown field",
         GOOD[:-1] + b',"x":' + b"9" * 10_000 + b"}"),
    Case("exponent without bound in an unknown field", GOOD[:-1] + b',"x":1e999999999}'),
    Case("minus zero", GOOD.replace(AMOUNT, b"-0"), got={"amount_minor": [0]}),
    Case("exponent", GOOD.replace(AMOUNT, b"95e-1"), got={"amount_minor": [950]}),
    Case("digits beyond a float's own",
         GOOD.replace(AMOUNT, b"9.5000000000000000000000000000001"),
         got={"amount_minor": [950]}),
)  # fmt: skip
AMOUNTS = (*_WRONG, *_RIGHT, *_RAW)
