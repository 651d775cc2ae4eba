"""The command line as a user meets it: help, wrong use, missing servers, one line each."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest

from pipeline.cli import COMMANDS, INTERRUPTED, cli, main
from pipeline.settings import SETTINGS
from producers.loop_options import CLOSED_LOOP_FRAUD_SCALE
from tests.waiting import wait_until

SCRIPT = Path(sys.executable).parent / "fraudstream"
# What a command must be given to be used rightly.
ARGUMENTS = {"publish": ("--simulate",), "label": ("t1", "fraud")}
NEEDS_SERVERS = ("topics", "publish", "loop", "worker", "trainer", "monitor", "alerts", "label")
WORLD = ("--customers", "50", "--terminals", "50", "--days", "4")


@dataclass(frozen=True)
class Done:
    """What a run of the command line left."""

    code: int
    out: str
    err: str


class CommandLine:
    """The console script's function in an empty folder, with no server anywhere."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: str) -> Done:
        self._monkeypatch.setattr(sys, "argv", ["fraudstream", *arguments])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        out, err = self._capsys.readouterr()
        return Done(code, out, err)


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> CommandLine:
    for name in [name for name in os.environ if name.startswith("FRAUD_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FRAUD_STATE_DIR", str(tmp_path / "state"))
    return CommandLine(monkeypatch, capsys)


def lines(text: str) -> list[str]:
    return text.strip().splitlines()


def script(folder: Path, *arguments: str) -> Done:
    """Run the console script itself, as a user does."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("FRAUD_")}
    done = subprocess.run(
        [SCRIPT, *arguments],
        cwd=folder,
        env={**ours, "FRAUD_STATE_DIR": str(folder / "state")},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def test_the_script_lists_every_command(tmp_path: Path) -> None:
    done = script(tmp_path, "--help")

    assert (done.code, done.err) == (0, "")
    shown = [line.split()[0] for line in done.out.split("Commands:\n")[1].splitlines()]
    assert shown == list(COMMANDS)
    assert all(entry.text in done.out for entry in COMMANDS.values())


def test_the_script_says_in_one_line_what_is_missing(tmp_path: Path) -> None:
    done = script(tmp_path, "topics")

    assert (done.code, done.out, len(lines(done.err))) == (1, "", 1)
    assert "Traceback" not in done.err


def test_the_script_says_wrong_use_by_its_exit_code(tmp_path: Path) -> None:
    done = script(tmp_path, "status", "--no-such-flag")

    assert (done.code, done.out) == (2, "")
    assert "--no-such-flag" in lines(done.err)[-1]


def test_the_help_loads_no_command(tmp_path: Path) -> None:
    program = (
        "import sys, pipeline.cli\n"
        "sys.argv[1:] = ['--help']\n"
        "try: pipeline.cli.main()\n"
        "finally: print(sorted({'numba', 'faust', 'pandas', 'kafka', 'redis'} & set(sys.modules)))"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )

    assert lines(done.stdout)[-1] == "[]"


def parts_of(command: str) -> dict[str, click.Command]:
    """Give a command by its words; of one that has commands of its own, those."""
    found = cli.get_command(click.Context(cli), command)
    assert found is not None
    if isinstance(found, click.Group):
        return {f"{command} {name}": part for name, part in found.commands.items()}
    return {command: found}


WORDS = [words for command in COMMANDS for words in parts_of(command)]


@pytest.mark.parametrize("words", WORDS)
def test_every_command_has_help_that_shows_its_settings(words: str, run: CommandLine) -> None:
    done = run(*words.split(), "--help")

    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("Usage: ")
    assert f" {words} " in lines(done.out)[0]
    for name in COMMANDS[words.split(maxsplit=1)[0]].settings:
        assert f"--{name.replace('_', '-')} " in done.out


@pytest.mark.parametrize("words", WORDS)
def test_every_setting_is_a_flag_of_every_command(words: str) -> None:
    names = [option.name for option in parts_of(words.split(maxsplit=1)[0])[words].params]

    assert {setting.name for setting in SETTINGS} <= set(names)
    assert len(names) == len(set(names))


@pytest.mark.parametrize("entry", COMMANDS.values(), ids=COMMANDS.keys())
def test_the_settings_of_a_command_are_settings(entry: Any) -> None:
    assert set(entry.settings) <= {setting.name for setting in SETTINGS}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_flag_is_wrong_use(command: str, run: CommandLine) -> None:
    done = run(command, "--no-such-flag")

    assert (done.code, done.out) == (2, "")
    assert lines(done.err)[-1].startswith("Error: No such option")
    assert "--no-such-flag" in lines(done.err)[-1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--no-such-flag",), "--no-such-flag"),
        (("no-such-command",), "No such command 'no-such-command'"),
        (("worker", "--partitions", "many"), "'many' is not a valid integer"),
        (("label", "t1", "maybe"), "'maybe' is not one of 'fraud', 'genuine'"),
        (("replay", "absent.csv"), "'absent.csv' does not exist"),
        (("replay",), "give either a FILE or --simulate"),
    ],
)
def test_wrong_use_is_two_and_says_what_is_wrong(
    arguments: tuple[str, ...], said: str, run: CommandLine
) -> None:
    done = run(*arguments)

    assert (done.code, done.out) == (2, "")
    assert said in lines(done.err)[-1]


@pytest.mark.parametrize("command", NEEDS_SERVERS)
def test_missing_servers_are_said_in_one_line(command: str, run: CommandLine) -> None:
    done = run(command, *ARGUMENTS.get(command, ()))

    assert (done.code, done.out) == (1, "")
    [line] = lines(done.err)
    assert line.startswith("fraudstream: ")
    assert "fraudstream up" in line


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        ((), {"FRAUD_PARTITION": "3"}, "unknown setting 'partition' (did you mean 'partitions'?)"),
        ((), {"FRAUD_PARTITIONS": "x"}, "partitions must be int (got 'x')"),
        ((), {"FRAUD_REVIEW_SCORE_MIN": "0.9"}, "review_score_min (0.9) must lie above 0"),
        (("--review-score-min", "0.9"), {}, "review_score_min (0.9) must lie above 0"),
        (("--partitions", "0"), {}, "partitions must be at least 1 (got 0)"),
        (
            ("--schema", "crad"),
            {},
            "no schema 'crad': shipped are card, ecommerce, handbook, phishing",
        ),
    ],
)
def test_a_setting_that_cannot_be_is_said_in_one_line(
    arguments: tuple[str, ...],
    environment: dict[str, str],
    said: str,
    run: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    done = run("worker", *arguments)

    assert (done.code, done.out) == (1, "")
    [line] = lines(done.err)
    assert line.startswith(f"fraudstream: {said}")


def test_a_settings_file_that_is_missing_is_said_in_one_line(run: CommandLine) -> None:
    done = run("--config", "absent.toml", "status")

    assert (done.code, done.err) == (
        1, "fraudstream: settings file absent.toml does not exist\n",
    )  # fmt: skip


def test_what_a_command_ends_with_is_the_exit_code(run: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "clean.txt").write_text("nothing\n")
    (tmp_path / "found.txt").write_text("4111111111111111\n")

    assert run("scan", "clean.txt").code == 0
    assert run("scan", "found.txt").code == 1


def test_the_settings_file_of_the_folder_is_read(run: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "fraudstream.toml").write_text("partitoins = 2\n", encoding="utf-8")

    done = run("status")

    assert done.code == 1
    assert "did you mean 'partitions'?" in done.err


def test_a_flag_wins_over_the_environment(
    run: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAUD_CHALLENGERS", "none")
    monkeypatch.setenv("FRAUD_MODEL", "logistic")
    assert run("simulate", "events.parquet", *WORLD).code == 0

    by_environment = run("replay", "events.parquet", "--json")
    by_flag = run("replay", "events.parquet", "--json", "--model", "additive")

    assert json.loads(by_environment.out)["model"] == "logistic"
    assert json.loads(by_flag.out)["model"] == "additive"


def test_status_and_down_work_where_nothing_ever_ran(run: CommandLine) -> None:
    status, down = run("status", "--json"), run("down")

    assert (status.code, down.code) == (0, 0)
    assert not any(json.loads(line)["running"] for line in lines(status.out))
    assert down.out == "nothing runs\n"


def test_simulated_traffic_can_be_replayed(run: CommandLine) -> None:
    written = run("simulate", "events.parquet", *WORLD)
    assert written.code == 0, written.err

    done = run("replay", "events.parquet", "--label-delay", "1d", "--json")

    assert done.code == 0, done.err
    [line] = lines(done.out)
    answer = json.loads(line)
    assert (answer["finished"], answer["duplicates"]) == (True, 0)
    assert answer["events"] == sum(answer["actions"].values()) > 100


def test_a_report_is_written_beside_the_answer(run: CommandLine, tmp_path: Path) -> None:
    assert run("simulate", "events.parquet", *WORLD).code == 0

    done = run("replay", "events.parquet", "--json", "--report", "report.html")

    assert (done.code, len(lines(done.out))) == (0, 1)
    assert json.loads(done.out)["finished"] is True
    assert lines(done.err) == ["report: report.html"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "events.parquet" in page
    assert str(tmp_path) not in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["events.parquet", "report.html"]


@pytest.mark.parametrize(
    ("report", "said"),
    [
        ("report.pdf", "report 'report.pdf': expected a name that ends in .html"),
        ("none/report.html", "report 'none/report.html' cannot be written: no such file or"),
        ("events.parquet/x.html", "cannot be written: not a directory"),
    ],
)
def test_a_report_that_cannot_be_is_refused_before_the_run(
    report: str, said: str, run: CommandLine, tmp_path: Path
) -> None:
    # Not a Parquet file: a run that began would say so.
    (tmp_path / "events.parquet").write_text("nothing", encoding="utf-8")

    done = run("replay", "events.parquet", "--report", report)

    assert (done.code, done.out) == (1, "")
    [line] = lines(done.err)
    assert line.startswith("fraudstream: ")
    assert said in line


@pytest.mark.slow
def test_an_interrupt_leaves_a_report_that_says_so(tmp_path: Path) -> None:
    world = ("--customers", "1200", "--terminals", "500", "--days", "180")
    assert script(tmp_path, "simulate", "events.parquet", *world).code == 0
    decisions = tmp_path / "decisions.parquet"
    process = subprocess.Popen(
        [SCRIPT, "replay", "events.parquet", "--report", "report.html", "--decisions", decisions],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    # The first 50,000 of 430,000 decisions are written: the run is in its middle.
    wait_until(
        lambda: decisions.exists() and decisions.stat().st_size > 10_000,
        "decisions are written",
        seconds_max=240,
    )

    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=240)

    assert process.returncode == INTERRUPTED, err
    assert "average precision" in out
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Partial: the run was interrupted." in page
    assert page.rstrip().endswith("</html>")


def test_a_closed_loop_can_be_replayed_and_says_what_it_was_worth(run: CommandLine) -> None:
    loop = ("--closed-loop", "--mode", "act", "--review-budget", "3", "--json")

    done = run("replay", "--simulate", *WORLD, *loop)
    again = run("replay", "--simulate", *WORLD, *loop)

    assert done.code == 0, done.err
    said, same = json.loads(done.out), json.loads(again.out)
    assert same["closed_loop"] == said["closed_loop"]
    report = said["closed_loop"]
    assert report["decided"] + report["alerts_waiting"] == said["events"]
    assert report["frauds"] == said["frauds"]
    assert report["alerts_reviewed"] <= 3 * 4
    assert report["observed"] == 0


def test_a_file_can_be_replayed_in_a_closed_loop(run: CommandLine) -> None:
    scale = ("--fraud-scale", str(CLOSED_LOOP_FRAUD_SCALE))
    assert run("simulate", "events.csv", *WORLD, *scale).code == 0

    of_file = run("replay", "events.csv", "--closed-loop")
    simulated = run("replay", "--simulate", *WORLD, "--closed-loop")

    assert (of_file.code, simulated.code) == (0, 0), of_file.err
    # These two lines hold what the run took, which is never twice the same.
    timed = ("events  ", "models  ")
    shown = [line for line in lines(of_file.out) if not line.startswith(timed)]
    assert shown == [line for line in lines(simulated.out) if not line.startswith(timed)]
    assert any(line.startswith("money    value detected") for line in shown)
    # The mode of a new installation: what is decided stops nothing, and the answer says so.
    assert any(line.startswith("observed ") for line in shown)


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (("--review-budget", "3"), 1, "--review-budget: only with --closed-loop"),
        (("--closed-loop", "--called-share", "2"), 1, "called_share must be 0 to 1 (got 2.0)"),
        (("--closed-loop", "--review-budget", "-1"), 2, "-1 is not in the range x>=0"),
        (("--fraud-scale", "-1"), 1, "fraud_scale (-1.0)"),
    ],
)
def test_a_loop_that_cannot_be_is_refused(
    flags: tuple[str, ...], code: int, said: str, run: CommandLine
) -> None:
    done = run("replay", "--simulate", *WORLD, *flags)

    assert (done.code, done.out) == (code, "")
    assert said in lines(done.err)[-1]
