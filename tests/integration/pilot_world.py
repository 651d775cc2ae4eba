"""The past and the present of a team that the code has never seen: its fields, its words.

All of it is made from the simulator with a present system beside it, under other names.
"""

import csv
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from pipeline.incumbent import Incumbent
from producers.encoding import amount_texts
from producers.present_system import with_present_system
from producers.simulator import SimulatorOptions, simulate

PAST_DAYS, LIVE_DAYS = 60, 7
WORLD = SimulatorOptions(
    customers=70, terminals=110, days=PAST_DAYS + LIVE_DAYS, seed=11, fraud_scale=5.0
)
VERDICTS = {"approve": "ACCEPT", "review": "HOLD", "decline": "REJECT"}
ENTRY_MODES = ("chip", "contactless", "online")

Row = dict[str, str | int]


@dataclass(frozen=True, slots=True)
class World:
    """Rows in the order of time; `past` is in the file, `live` comes later on the topic."""

    past: list[Row]
    live: list[Row]
    frauds: frozenset[str]

    @classmethod
    def made(cls) -> "World":
        """Make it, the same each time."""
        days: list[list[Row]] = []
        frauds: set[str] = set()
        for batch in with_present_system(simulate(WORLD), seed=WORLD.seed):
            amounts = amount_texts(batch.amount_minor.tolist(), 2)
            assert batch.incumbents is not None
            day: list[Row] = []
            for row, said in enumerate(batch.incumbents):
                card, terminal = (ids[row] for ids in batch.keys)
                verdict = int(batch.is_fraud[row])
                day.append(
                    {
                        "payment_ref": f"P{batch.transaction_id[row]}",
                        "authorised_at": _moment(int(batch.event_time_ms[row])),
                        "card_token": f"ct-{int(card[1:]) * 7919 % 100_003:x}",
                        "terminal_no": f"T{terminal[1:]}",
                        "gross_amount": amounts[row],
                        "entry_mode": ENTRY_MODES[int(terminal[1:]) % 3],
                        **_said(said),
                        "confirmed_fraud": "" if verdict < 0 else verdict,
                    }
                )
                if verdict == 1:
                    frauds.add(str(day[-1]["payment_ref"]))
            days.append(day)
        parts = iter(days)
        past = [row for day in islice(parts, PAST_DAYS) for row in day]
        live = [row for day in parts for row in day]
        # Two payments that token, amount and date cannot tell apart.
        live.append({**live[-1], "payment_ref": "Ptwin"})
        return cls(past, live, frozenset(frauds))

    def write_past(self, path: Path) -> None:
        """Write the file that the team exports."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(self.past[0]))
            writer.writeheader()
            writer.writerows(self.past)


def record_of(row: Row) -> tuple[bytes, bytes]:
    """Give a row as the team's producer sends it: key and JSON, without the label."""
    sent = {name: value for name, value in row.items() if name != "confirmed_fraud"}
    return str(row["card_token"]).encode(), json.dumps(sent).encode()


def _said(said: Incumbent | None) -> Row:
    assert said is not None and said.score is not None and said.action is not None
    return {"risk_points": round(999 * said.score), "engine_verdict": VERDICTS[said.action]}


def _moment(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat().replace("+00:00", "Z")


def chargebacks(path: Path, world: World) -> None:
    """Write the acquirer's file: eight rows that fit, and three that a person must look at."""
    known = [row for row in world.past[-200:] + world.live]
    frauds = [row for row in known if row["payment_ref"] in world.frauds]
    genuine = next(row for row in known if row["confirmed_fraud"] == 0)
    twin = world.live[-1]
    rows = [
        *(_case(row, reference=True) for row in frauds[:4]),
        *(_case(row, reference=False) for row in frauds[4:7]),
        _case(genuine, reference=True, reason="13.1"),
        _case(twin, reference=False),
        {**_case(twin, reference=True), "Merchant Reference": "R-0815", "Card Token": " "},
        _case(frauds[7], reference=True, reason="99.9"),
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for number, row in enumerate(rows):
            writer.writerow({**row, "Case": f"C{number}"})


def _case(row: Row, *, reference: bool, reason: str = "10.4") -> dict[str, str]:
    paid = datetime.fromisoformat(str(row["authorised_at"]))
    return {
        "Merchant Reference": f" {row['payment_ref']} " if reference else "",
        "Card Token": str(row["card_token"]),
        "Amount": str(row["gross_amount"]),
        "Currency": "EUR",
        "Purchase Date": f"{paid:%d/%m/%Y}",
        "Reason": reason,
        "Network": "VISA",
        "Status": "New",
        "Case": "",
        "Received": "20/06/2018",
    }
