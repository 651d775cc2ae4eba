"""Schema and types: which fields there are, and what may stand in them."""

from tests.armour.cases import CARD_NUMBER, SECRET, Case, right, wrong
from tests.strategies import event_bytes

_MISSING = tuple(
    wrong(name, ..., said="expected a value, got nothing")
    for name in ("transaction_id", "event_time", "card_id", "terminal_id", "amount")
)
_IDS = (
    wrong("transaction_id", None),
    wrong("transaction_id", 17),
    wrong("transaction_id", ""),
    wrong("transaction_id", SECRET * 11),
    wrong("transaction_id", f"{SECRET} "),
    wrong("transaction_id", [SECRET]),
    wrong("transaction_id", {SECRET: SECRET}),
    wrong("transaction_id", True),
    wrong("card_id", f"{SECRET}\n"),
    wrong("card_id", f"\n{SECRET}"),
    wrong("card_id", f"{SECRET}\0"),
    wrong("card_id", f"{SECRET}/1"),
    wrong("card_id", f"{SECRET}:{{x}}"),
    wrong("card_id", f"{SECRET}é"),
    wrong("card_id", "١٢٣"),
    wrong("card_id", "ｃ１"),
    wrong("card_id", "c1\u200b"),
    wrong("card_id", "с1"),  # a Cyrillic letter
    wrong("terminal_id", f"{SECRET}.1"),
    wrong("terminal_id", 1.5),
    *(
        right("transaction_id", name, transaction_id=[name])
        for name in ("a", "A" * 64, "_", "-", "0", "4111111111111112", "c-1_Z")
    ),
)
_CARD_NUMBERS = tuple(
    wrong(field, number, reason="card_number", said="expected a token, got a card number")
    for field, number in (
        ("card_id", CARD_NUMBER),
        ("transaction_id", CARD_NUMBER),
        ("terminal_id", CARD_NUMBER),
        ("card_id", "378282246310005"),
        ("card_id", "5500000000000004"),
        ("card_id", "6011000000000000001"),
    )
)
_CURRENCIES = (
    wrong("currency", "eur"),
    wrong("currency", "EURO"),
    wrong("currency", "EU"),
    wrong("currency", "EUR\n"),
    wrong("currency", "€UR"),
    wrong("currency", 978),
    wrong("currency", None),
    wrong("currency", "EUX", said="a currency code of ISO 4217"),
    wrong("currency", "XTS", said="a currency code of ISO 4217"),
    right("currency", ..., currency=["EUR"]),
    right("currency", "CHF", currency=["CHF"]),
    right("currency", "HRK", currency=["HRK"]),
)
_UNKNOWN = (
    Case("unknown fields are left out",
         event_bytes(note=CARD_NUMBER, device={"os": ["a"]}, amount_2=None)),
    Case("fields in another order",
         event_bytes()[:-1].replace(b'{"transaction_id": "t1", ', b"{")
         + b',"transaction_id":"t1"}'),
)  # fmt: skip
FIELDS = (*_MISSING, *_IDS, *_CARD_NUMBERS, *_CURRENCIES, *_UNKNOWN)
