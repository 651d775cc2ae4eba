"""The guarantee broken on purpose, one line at a time: `python -m tests.mutants`.

A mutation is a piece of the source that stands there exactly once, and what stands there instead.
Each is applied in a copy of the checkout, where the tests that are named must fail. A mutant that
survives is a guarantee that nothing watches.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import types
from dataclasses import asdict, dataclass
from pathlib import Path

import click

import pipeline.commit
from benchmarks.documents import DOCS, markdown, put_tables

ROOT = Path(__file__).parent.parent
TEST_SECONDS_MAX = 300
DOCUMENT = DOCS / "commit-protocol.md"
HEAD = ["what is broken", "where", "test", "verdict"]
# What pytest ends with when tests have failed, rather than itself.
TESTS_FAILED = 1
COMMIT, LEARNER, VERDICTS = "pipeline/commit.py", "pipeline/learner.py", "pipeline/verdicts.py"
CHUNKS, SCRIPTS, LANE = "consumers/chunks.py", "consumers/redis_scripts.py", "consumers/lane.py"
ON_COMMIT = "tests/test_commit.py::"
ON_RESTORED = "tests/integration/test_restored_redis.py::"
ON_ROWS = (
    "tests/simulation/test_rows.py::test_every_batch_is_decided_on_the_fold_of_what_was_committed"
)
PROFILES, ROWS = "consumers/redis_profiles.py", "consumers/entity_rows.py"
ON_LOG = "tests/integration/test_profile_log.py::"
ON_REDIS = "tests/integration/test_redis_store.py::"


@dataclass(frozen=True, slots=True)
class Mutation:
    """One way to break the guarantee, and the test that must see it.

    Parameters
    ----------
    is_seen_in_simulation
        Whether the simulation, which knows nothing of the line, sees it as well.
    """

    name: str
    path: str
    old: str
    new: str
    test: str
    is_seen_in_simulation: bool = False

    def applied(self, source: str) -> str:
        """Give the source that is broken."""
        found = source.count(self.old)
        assert found == 1, f"{self.name}: {self.path} holds its line {found} times, not once"
        return source.replace(self.old, self.new)


MUTATIONS = (
    Mutation(
        "compare in the script",
        SCRIPTS,
        "if (position or '') ~= ARGV[1] then return 0 end",
        "",
        ON_REDIS + "test_a_stale_commit_is_refused_and_changes_nothing",
    ),
    Mutation(
        "outbox stored by the script",
        SCRIPTS,
        "redis.call('SET', KEYS[2], ARGV[3])",
        "",
        ON_REDIS + "test_a_new_owner_publishes_what_the_last_one_committed",
    ),
    Mutation(
        "commit before publication",
        COMMIT,
        "        # 4\n        if not",
        "        await self._send(outbox.records)\n        # 4\n        if not",
        ON_COMMIT + "test_nothing_is_published_before_it_is_committed",
        is_seen_in_simulation=True,
    ),
    Mutation(
        "rule R after an assignment",
        COMMIT,
        "        await self._send(records)\n        await self.published()\n",
        "        self._state = State.SETTLED\n",
        ON_COMMIT + "test_a_new_owner_publishes_what_the_last_one_committed",
        is_seen_in_simulation=True,
    ),
    Mutation(
        "rule R after a refusal",
        COMMIT,
        "            await self.recover()\n            return False",
        "            self.position = (await self._store.load(self._name)).position\n"
        "            self._state = State.SETTLED\n"
        "            return False",
        "tests/simulation/test_simulation.py::"
        "test_rule_r_saves_what_a_dead_owner_committed_from_a_zombie_that_wakes",
        is_seen_in_simulation=True,
    ),
    Mutation(
        "rule R while overlapping",
        COMMIT,
        "        # 3\n        await self.published()\n",
        "        # 3\n        self._state = State.SETTLED\n",
        ON_COMMIT + "test_the_next_batch_may_be_computed_while_the_last_one_is_published",
        is_seen_in_simulation=True,
    ),
    Mutation(
        "failure leaves an owner lost",
        COMMIT,
        "            self._state = State.LOST\n            offsets",
        "            self._state = State.SETTLED\n            offsets",
        ON_COMMIT + "test_an_owner_that_could_not_publish_takes_over_before_he_moves_on",
    ),
    Mutation(
        "unknown result is read again",
        COMMIT,
        "            if found == stored:\n                return True\n",
        "",
        ON_COMMIT + "test_without_an_answer_the_store_says_whether_it_happened",
    ),
    Mutation(
        "own commit told by its outbox",
        COMMIT,
        "            if found == stored:",
        "            if found.position == stored.position:",
        ON_COMMIT + "test_an_equal_commit_of_another_owner_is_not_taken_for_ones_own",
        is_seen_in_simulation=True,
    ),
    Mutation(
        "no answer is not taken for success",
        COMMIT,
        "                is_refused = False\n",
        "                return True\n",
        ON_COMMIT + "test_without_an_answer_the_store_says_whether_it_happened",
        is_seen_in_simulation=True,
    ),
    Mutation(
        "an idle owner looks",
        COMMIT,
        "        if await self._store.position(self._name) == self.position:",
        "        if self.position is not None or self.position is None:",
        ON_COMMIT + "test_an_idle_owner_publishes_what_another_one_committed_late",
    ),
    Mutation(
        "bounds of the log",
        COMMIT,
        "    if not first <= position <= end:",
        "    if not first <= position:",
        ON_COMMIT + "test_a_position_that_the_log_does_not_hold_is_never_passed_over",
    ),
    Mutation(
        "seek after an assignment",
        CHUNKS,
        "                await self._seek_all(offsets)\n",
        "",
        "tests/integration/test_refusals.py::"
        "test_the_store_and_not_the_group_says_where_reading_begins",
    ),
    Mutation(
        "records from the position on",
        LANE,
        "bisect_left(offsets, self.part.position or 0)",
        "bisect_left(offsets, (self.part.position or 0) + 1)",
        "tests/test_lane.py::test_records_before_the_position_are_not_worked_on_again",
    ),
    Mutation(
        "records lost on the way",
        LANE,
        "            if reached is not None and chunk.asked > reached:",
        "            if reached is None:",
        "tests/test_lane.py::test_records_that_were_lost_on_the_way_are_read_again",
    ),
    Mutation(
        "examples once by partition and number",
        LEARNER,
        "            if example.training_seq <= self.marks.get(example.partition, -1):",
        "            if example.training_seq < 0:",
        "tests/test_learner.py::test_a_duplicate_within_one_batch_is_dropped",
    ),
    Mutation(
        "numbers behind the log of a restored store",
        "consumers/lost_window.py",
        "                if example.partition == partition and example.training_seq >= seq:",
        "                if example.training_seq < 0:",
        ON_RESTORED + "test_no_label_is_learned_twice_and_no_number_given_out_twice",
    ),
    Mutation(
        "rows of a restored store are folded again",
        "consumers/trainer.py",
        "self._learner.go_back(start if start.offset <= committed else stored)",
        "self._learner.go_back(start)",
        ON_RESTORED + "test_learned_rows_are_those_of_the_fold_byte_for_byte",
    ),
    Mutation(
        "a label that comes twice",
        VERDICTS,
        "    if named in known.labels:\n",
        "    if named == 1:\n",
        "tests/test_verdicts.py::test_the_same_label_again_is_repeated_and_changes_nothing",
    ),
    Mutation(
        "additions once to a row that comes late",
        ROWS,
        "np.where(numbers > place[which], slots[which], ABSENT)",
        "np.where(numbers > ABSENT, slots[which], ABSENT)",
        ON_ROWS,
    ),
    Mutation(
        "additions to rows that are not held stand aside",
        ROWS,
        "            self._aside.setdefault(ids[row], []).append((number, added, row))",
        "            pass",
        ON_ROWS,
    ),
    Mutation(
        "rows written before the log is let go",
        PROFILES,
        "changed_since(folded).tolist()",
        "changed_since(target.number).tolist()",
        ON_ROWS,
    ),
    Mutation(
        "the log let go no further than rows were written",
        PROFILES,
        "end_writing(writer, steps=steps, place=target)",
        "end_writing(writer, steps=steps, place=self._additions or target)",
        ON_ROWS,
    ),
    Mutation(
        "an entry of another history",
        PROFILES,
        "if not entries or entries[0].mark != mark:",
        "if not entries:",
        ON_ROWS,
    ),
    Mutation(
        "rows written before it is said that they are",
        PROFILES,
        "        for number, entity in enumerate(self._entities):\n"
        "            for partition, ids in",
        "        await self._store.end_writing(writer, steps=0, place=target)\n"
        "        for number, entity in enumerate(self._entities):\n"
        "            for partition, ids in",
        ON_ROWS,
    ),
    Mutation(
        "rows that are not held fetched before the log is let go",
        PROFILES,
        "entity.aside().items()",
        "dict[int, list[str]]().items()",
        ON_ROWS,
    ),
    Mutation(
        "entries folded once by loads that overtake each other",
        PROFILES,
        "            if entry.mark.number > self._additions.number:\n",
        "            if entry.mark.number > 0:\n",
        ON_ROWS,
    ),
    Mutation(
        "a writer counts his steps",
        PROFILES,
        "                steps += 1\n",
        "",
        ON_ROWS,
    ),
    Mutation(
        "steps of a writer that were lost",
        SCRIPTS,
        " or tonumber(state[5] or '0') < steps",
        "",
        ON_LOG + "test_a_writer_whose_store_was_put_back_meanwhile_is_refused",
    ),
    Mutation(
        "rows of a history that was given up",
        SCRIPTS,
        "if not entry or entry[2][2] ~= by then return 0 end",
        "",
        ON_LOG + "test_a_writer_whose_store_was_put_back_meanwhile_is_refused",
    ),
    Mutation(
        "what was read before all was forgotten",
        PROFILES,
        "        if life != self._life or (additions is None) != (self._additions is None):\n"
        "            return None\n",
        "",
        ON_ROWS,
    ),
)
BY_NAME = {mutation.name: mutation for mutation in MUTATIONS}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a mutant."""

    mutation: str
    path: str
    test: str
    verdict: str
    seconds: float


def mutated(mutation: Mutation) -> types.ModuleType:
    """Give the protocol's module with a mutation; what others hand to it keeps its type."""
    assert mutation.path == COMMIT, mutation.path
    source = mutation.applied((ROOT / COMMIT).read_text(encoding="utf-8"))
    module = types.ModuleType(f"mutated_{len(sys.modules)}")
    # The decoder of a struct looks for its module.
    sys.modules[module.__name__] = module
    exec(compile(source, COMMIT, "exec"), module.__dict__)
    vars(module)["UnknownResultError"] = pipeline.commit.UnknownResultError
    return module


def copy_checkout(folder: Path) -> None:
    """Copy what belongs to the project, committed or about to be."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def judge(mutation: Mutation, folder: Path) -> Verdict:
    """Apply a mutation in a copy, run its test there, and take the mutation back."""
    path = folder / mutation.path
    source = path.read_text(encoding="utf-8")
    path.write_text(mutation.applied(source), encoding="utf-8")
    started = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", mutation.test]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            timeout=TEST_SECONDS_MAX,
            check=False,
        )
        # Anything else than a test that failed proves nothing.
        verdict = {0: "survived", TESTS_FAILED: "killed"}.get(done.returncode, "not judged")
    except subprocess.TimeoutExpired:
        verdict = "killed (never ends)"
    finally:
        path.write_text(source, encoding="utf-8")
    seconds = round(time.monotonic() - started, 1)
    return Verdict(mutation.name, mutation.path, mutation.test, verdict, seconds)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one object a mutant.")
@click.option("--only", multiple=True, type=click.Choice(list(BY_NAME)), help="Judge these alone.")
def main(as_json: bool, only: tuple[str, ...]) -> None:
    """Break the guarantee in every known way; exit with 1 if nobody notices one of them."""
    chosen = [mutation for mutation in MUTATIONS if not only or mutation.name in only]
    lines, has_survivor = [], False
    with tempfile.TemporaryDirectory(prefix="fraudstream-mutants-") as name:
        folder = Path(name)
        copy_checkout(folder)
        for mutation in chosen:
            verdict = judge(mutation, folder)
            has_survivor |= not verdict.verdict.startswith("killed")
            if as_json:
                click.echo(json.dumps(asdict(verdict)))
            else:
                click.echo(f"{verdict.verdict}: {verdict.mutation}, by {verdict.test}")
            test = verdict.test.replace("::", " ")
            lines.append([verdict.mutation, verdict.path, test, verdict.verdict])
    if not only:
        put_tables(DOCUMENT, [("mutants", markdown(HEAD, lines))])
    sys.exit(has_survivor)


if __name__ == "__main__":
    main()
