"""A page in a real Chromium, without a network: what it drew, said, asked for, and looked like."""

import json
import subprocess
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.proofs import program

# What the browser itself would ask for: updates, safe browsing, default applications.
QUIET = (
    "--disable-background-networking", "--disable-component-update", "--disable-default-apps",
    "--disable-extensions", "--disable-sync", "--no-first-run", "--disable-gpu",
    # Root may not have a sandbox; the page is ours.
    "--no-sandbox",
)  # fmt: skip
THEMES = {"dark": 0, "light": 1}
BROWSER_SECONDS_MAX = 120
# How the log of the network names the initiator of what no page asked for.
BROWSER_ITSELF = "not an origin"


@dataclass(frozen=True)
class Seen:
    """What a browser made of a page."""

    dom: str
    console: list[str]
    asked: list[str]
    screenshot: Path

    @property
    def corner(self) -> tuple[int, int, int]:
        """The colour of the screenshot's first pixel."""
        data = self.screenshot.read_bytes()
        body = b""
        place = 8
        while place < len(data):
            length = int.from_bytes(data[place : place + 4], "big")
            if data[place + 4 : place + 8] == b"IDAT":
                body += data[place + 8 : place + 8 + length]
            place += 12 + length
        # A first pixel has no neighbours, so every filter of PNG leaves it as it is.
        red, green, blue = zlib.decompress(body)[1:4]
        return red, green, blue


def look(page: Path, folder: Path, *, theme: str = "light", width: int = 1280) -> Seen:
    """Open a page from disk; no name of the network can be resolved."""
    chromium = program("chromium")
    screenshot, net_log = folder / f"{theme}-{width}.png", folder / f"{theme}-{width}.json"
    common = (
        chromium, "--headless", *QUIET,
        f"--user-data-dir={folder / f'profile-{theme}-{width}'}",
        f"--blink-settings=preferredColorScheme={THEMES[theme]}",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--window-size={width},2400",
        "--hide-scrollbars",
        "--virtual-time-budget=20000",
        "--enable-logging=stderr",
    )  # fmt: skip
    dumped = _run([*common, f"--log-net-log={net_log}", "--dump-dom", page.as_uri()])
    _run([*common, f"--screenshot={screenshot}", page.as_uri()])
    return Seen(
        dom=dumped.stdout,
        console=[line for line in dumped.stderr.splitlines() if "CONSOLE" in line],
        asked=_asked(json.loads(net_log.read_text(encoding="utf-8"))),
        screenshot=screenshot,
    )


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=BROWSER_SECONDS_MAX
    )


def _asked(log: dict[str, Any]) -> list[str]:
    """Give every address of the network that a page asked for; the browser's own have no origin."""
    asked = [event["params"] for event in log["events"] if "url" in event.get("params", {})]
    return sorted(
        {
            request["url"]
            for request in asked
            if request["url"].startswith(("http:", "https:", "ws:", "wss:", "ftp:"))
            and request.get("initiator", BROWSER_ITSELF) != BROWSER_ITSELF
        }
    )
