"""Public test card numbers of the networks, and a schema whose events hold some."""

CARDS = (
    "4111111111111111",
    "4012888888881881",
    "4222222222222",
    "5555555555554444",
    "5105105105105100",
    "2223003122003222",
    "378282246310005",
    "371449635398431",
    "6011111111111117",
    "6011000990139424",
    "30569309025904",
    "38520000023237",
    "3530111333300000",
    "3566002020360505",
    "6200000000000005",
    "6759649826438453",
    "6304000000000000",
    "2200000000000004",
    "5018000000000009",
    "6205500000000000004",
)

SCHEMA_TEXT = """
name = "numbers"
version = 1

[event]
id = "transaction_id"
time = "event_time"
amount = "amount"
currency_default = "EUR"

[[entity]]
name = "card"
field = "card_number"
tokenise = true

[[entity]]
name = "terminal"
field = "terminal_id"

[label]
field = "is_fraud"
"""


def luhn_ended(digits: str) -> str:
    """Give digits with their check digit behind them."""
    doubled = [int(digit) * (2 - place % 2) for place, digit in enumerate(reversed(digits))]
    total = sum(value - 9 * (value > 9) for value in doubled)
    return f"{digits}{-total % 10}"


def grouped(number: str, separator: str) -> str:
    """Give a number in the groups that it is printed in on its card."""
    sizes = {14: (4, 6, 4), 15: (4, 6, 5), 13: (4, 3, 3, 3)}.get(len(number), (4, 4, 4, 4, 3))
    parts, rest = [], number
    for size in sizes:
        parts.append(rest[:size])
        rest = rest[size:]
    return separator.join(part for part in parts if part)
