"""The rules that the code gives itself, each with `file:line` of what breaks it."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("models", "pipeline", "producers", "consumers", "stack")
SHELLS = {"producers", "consumers", "stack"}
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
# The command line is a shell that lives beside the core, so that the entry point has a short name.
CORE = [
    path
    for path in MODULES
    if path.relative_to(ROOT).parts[0] in ("pipeline", "models") and path.name != "cli.py"
]
TRANSPORT = {"kafka", "aiokafka", "faust", "redis", "requests", "aiohttp", "http", "urllib"}
TRANSPORT |= {"socket", "socketserver", "httpx", "urllib3"}
FUNCTION_LINES_MAX = 70
# The table of features is the longest.
MODULE_LINES_MAX = 500
# In pieces, or this file would find itself.
MACHINE_PATH = re.compile(
    r"(?<![\w.$}])/(?:" + "|".join(("root", "home", "work", "Users")) + r")/\w"
)
REGISTRIES = (
    "pypi" + ".org",
    "python" + "hosted",
    "maven" + ".org",
    "repo1" + ".",
    "maven" + ".apache",
)
REGISTRIES += ("npmjs" + ".", "docker" + ".io", "gh" + "cr.io", "quay" + ".io", "debian" + ".org")


def place(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module


def texts() -> Iterator[tuple[Path, str]]:
    """Read every text file that belongs to the project, committed or about to be."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.is_file():
            yield path, path.read_bytes().decode("utf-8", errors="ignore")


def found_in_texts(pattern: re.Pattern[str], *, besides: tuple[str, ...] = ()) -> list[str]:
    return [
        f"{place(path, number)}: {line.strip()[:80]}"
        for path, text in texts()
        if path.name not in besides
        for number, line in enumerate(text.splitlines(), start=1)
        if pattern.search(line)
    ]


def test_the_core_never_imports_a_transport() -> None:
    found = [
        f"{place(path, line)}: imports {name}"
        for path in CORE
        for line, name in imports(path)
        if name.split(".")[0] in TRANSPORT
    ]

    assert not found, "\n".join(found)


def test_no_module_of_the_core_leads_back_to_itself() -> None:
    """Not even by an import for types alone; the error names the circle."""
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in CORE}
    TopologicalSorter(
        {name: {found for _, found in imports(path)} & names.keys() for name, path in names.items()}
    ).prepare()


def test_models_know_nothing_of_the_pipeline_but_its_errors() -> None:
    found = [
        f"{place(path, line)}: imports {name}"
        for path in (ROOT / "models").rglob("*.py")
        for line, name in imports(path)
        if name.split(".")[0] in SHELLS | {"pipeline"} and name != "pipeline.errors"
    ]

    assert not found, "\n".join(found)


def test_the_pipeline_knows_no_shell() -> None:
    found = [
        f"{place(path, line)}: imports {name}"
        for path in CORE
        for line, name in imports(path)
        if name.split(".")[0] in SHELLS
    ]

    assert not found, "\n".join(found)


def test_no_function_is_longer_than_a_screen() -> None:
    found = [
        f"{place(path, node.lineno)}: {node.name} has {lines} lines"
        for path in [*MODULES, *(ROOT / "tests").rglob("*.py")]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]

    assert not found, "\n".join(found)


def test_no_module_holds_two_ideas() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {lines} lines"
        for path in MODULES
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MODULE_LINES_MAX
    ]

    assert not found, "\n".join(found)


def test_every_module_says_what_it_is_for() -> None:
    found = [
        str(path.relative_to(ROOT))
        for path in MODULES
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]

    assert not found, "\n".join(found)


def test_no_module_is_named_after_a_dependency() -> None:
    ours = {*PACKAGES, "schemas"}
    dependencies = {name.lower() for name in packages_distributions()} - ours

    found = [
        str(path.relative_to(ROOT)) for path in MODULES if path.stem in dependencies - {"__init__"}
    ]

    assert not found, "\n".join(found)


def test_the_packages_come_from_this_checkout() -> None:
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in MODULES]
    names = [name.removesuffix(".__init__") for name in names]
    program = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]: print(importlib.import_module(name).__file__)"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, *names],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )

    assert done.returncode == 0, done.stderr
    assert [Path(line) for line in done.stdout.splitlines()] == MODULES


def test_no_test_replaces_a_part_by_a_mock() -> None:
    found = [
        f"{place(path, line)}: imports {name}"
        for path in (ROOT / "tests").rglob("*.py")
        for line, name in imports(path)
        if name in {"unittest", "mock", "pytest_mock"} or name.startswith("unittest.mock")
    ]

    assert not found, "\n".join(found)


def test_no_file_names_a_machine_or_a_registry() -> None:
    hosts = re.compile("|".join(re.escape(host) for host in REGISTRIES))

    found = found_in_texts(MACHINE_PATH) + found_in_texts(hosts, besides=("uv.lock",))

    assert not found, "\n".join(found)


def test_nothing_is_left_for_later() -> None:
    found = found_in_texts(re.compile("TO" + "DO|FIX" + "ME|XX" + "X|NotImplemented" + "Error"))

    assert not found, "\n".join(found)


def test_checks_are_strict() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]

    assert tools["mypy"]["strict"] is True
    assert set(tools["mypy"]["packages"]) == {*PACKAGES, "benchmarks", "dashboards"}
    first, *exceptions = tools["pytest"]["ini_options"]["filterwarnings"]
    assert first == "error"
    # An exception names a message: a whole category would hide what comes later.
    assert all(re.match(r"ignore:[^:]{10,}:", exception) for exception in exceptions), exceptions


def test_make_explains_every_target() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    [phony] = re.findall(r"^\.PHONY: (.*)$", text, flags=re.MULTILINE)

    shown = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout

    for target in phony.split():
        assert f"make {target} " in shown
