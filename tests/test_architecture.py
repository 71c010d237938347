"""The house as ARCHITECTURE.md draws it: floors, what each room may know, and how large its parts may be."""

from __future__ import annotations

import ast
import dataclasses
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import redteam
from redteam.declared import FACTS
from redteam.registry import ATTACKS, METHODS, PROBES, SCORERS, STAGES, TESTBEDS

HOUSE = Path(redteam.__file__).parent
FLOORS = {
    "errors": 0, "declared": 0, "access": 0, "atomic": 0, "exit_codes": 0, "record": 0,
    "target": 1, "config": 1, "registry": 1, "evidence": 1,
    "options": 2, "engine": 2, "capabilities": 2, "checkpoints": 2, "judging": 2, "architectures": 2,
    "attacks": 3, "probes": 3, "unlearning": 3, "reporting": 3, "setting": 3,
    "testbeds": 4, "trial": 4,
    "execution": 5, "testing": 5,
    "search": 6,
    "suite": 7,
    "bench": 8,
    "interview": 8, "pipeline": 8, "again": 8, "score": 8, "exits": 8, "listing": 8, "release": 8, "pytest_plugin": 8,
    "api": 9, "run": 9, "cli": 10,
}  # fmt: skip
# Rooms that look at a neighbour on their own floor. Every row is a decision; without it a floor has no order.
NEIGHBOURS = {("capabilities", "engine"), ("atomic", "errors")}
ADVERSARIES = ("attacks", "probes", "unlearning")
HEAVY = ("torch", "transformers", "optuna", "sklearn", "scipy", "numpy")
NEVER_JUDGING = {"torch", "transformers", "optuna", "sklearn"}
LONGEST_FILE, LONGEST_FUNCTION = 350, 60

FILES = sorted(HOUSE.rglob("*.py"))
NAMES = [str(file.relative_to(HOUSE)) for file in FILES]
each_file = pytest.mark.parametrize("file", FILES, ids=NAMES)


@functools.cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def room_of(file: Path) -> str:
    """The package or the module directly under redteam/; "" for redteam/__init__.py itself."""
    first = file.relative_to(HOUSE).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def imported(file: Path) -> Iterator[str]:
    """Dotted names of everything a file imports, wherever in it: inside functions and for type checking too."""
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative imports hide which room they enter"
            assert node.module is not None
            yield node.module
            if node.module == "redteam" or (HOUSE.parent / node.module.replace(".", "/")).is_dir():
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_entered(file: Path) -> set[str]:
    """Rooms other than its own that a file imports from."""
    dotted = (name.split(".") for name in imported(file))
    found = {parts[1] for parts in dotted if parts[0] == "redteam" and len(parts) > 1}
    return {room for room in found if room in FLOORS} - {room_of(file)}


def test_every_room_has_a_floor() -> None:
    """A room that is not on the plan would escape the tests below."""
    assert {room_of(file) for file in FILES} - {""} <= FLOORS.keys()


@each_file
def test_imports_come_from_floors_below(file: Path) -> None:
    own = room_of(file)
    if not own:
        return  # redteam/__init__.py names the public API, which lies on every floor, and resolves it lazily
    wrong = {other for other in rooms_entered(file) if FLOORS[other] >= FLOORS[own] and (own, other) not in NEIGHBOURS}
    assert not wrong, f"{own} (floor {FLOORS[own]}) imports {wrong}"


def test_neighbours_stand_on_one_floor_and_the_list_holds_no_more_than_is_used() -> None:
    assert all(FLOORS[own] == FLOORS[other] for own, other in NEIGHBOURS)
    used = {(room_of(file), other) for file in FILES for other in rooms_entered(file)}
    assert used >= NEIGHBOURS


def test_no_cycle_between_rooms() -> None:
    graph: dict[str, set[str]] = {}
    for file in FILES:
        if room_of(file):
            graph.setdefault(room_of(file), set()).update(rooms_entered(file))
    while graph:
        leaves = {room for room, others in graph.items() if not others & graph.keys()}
        assert leaves, f"these rooms import each other in a circle: {sorted(graph)}"
        graph = {room: others for room, others in graph.items() if room not in leaves}


def test_adversaries_know_neither_the_search_nor_the_evidence_nor_each_other() -> None:
    for file in FILES:
        if room_of(file) in ADVERSARIES:
            unknown = {"search", "evidence", "judging", "reporting", "suite", "trial", *ADVERSARIES} - {room_of(file)}
            assert not rooms_entered(file) & unknown, file


@pytest.mark.parametrize("room", ["evidence", "judging", "reporting"])
def test_no_import_in_the_judging_rooms_leads_to_a_model(room: str) -> None:
    """The whole closure, imports inside functions included: evidence is judged where no torch is installed."""
    seen: set[Path] = set()
    waiting = list((HOUSE / room).rglob("*.py"))
    while waiting:
        file = waiting.pop()
        seen.add(file)
        for name in imported(file):
            assert name.split(".")[0] not in NEVER_JUDGING, f"{file} imports {name}"
            path = HOUSE.parent / name.replace(".", "/")
            places = [path.with_suffix(".py"), path / "__init__.py"] if name.startswith("redteam.") else []
            waiting += [place for place in places if place.is_file() and place not in seen]


def modules_of(*rooms: str) -> list[str]:
    """Dotted names of all modules of some rooms."""
    files = [file for file in FILES if room_of(file) in rooms and file.stem != "__init__"]
    return [".".join(("redteam", *file.relative_to(HOUSE).with_suffix("").parts)) for file in files]


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [
        (["redteam", "redteam.cli"], HEAVY),
        (["redteam.errors", "redteam.target", "redteam.config.capability", "redteam.registry"], HEAVY),
        (modules_of("judging", "reporting", "evidence"), sorted(NEVER_JUDGING)),
    ],
    ids=["public", "floor-1", "judging"],
)
def test_importing_is_cheap(modules: list[str], unwanted: tuple[str, ...]) -> None:
    """In a process of its own, so that nothing another test has loaded counts."""
    program = f"import sys, {', '.join(modules)}\nprint([name for name in {unwanted!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


CHEAP_CALLS = {
    *("dict", "frozenset", "range", "set", "slice", "tuple"),
    *(
        "Path",
        "TypeVar",
        "dataclass",
        "field",
        "re.compile",
        "torch.device",
        "typer.Typer",
        "app.add_typer",
        "typer.Option",
        "typer.Argument",
    ),
    *("BeforeValidator", "ConfigDict", "Field", "PlainValidator", "Surface"),
    *("Check", "Policy", "Registry", "Shares", "Spent", "_attribute"),
}


@each_file
def test_only_cheap_things_are_called_at_import(file: Path) -> None:
    """What a module does while it is imported is paid by everyone; a new kind of call here is a decision."""

    def at_import(body: list[ast.stmt]) -> Iterator[ast.Call]:
        for statement in body:
            if isinstance(statement, ast.ClassDef):
                yield from at_import(statement.body)
            elif isinstance(statement, ast.Assign | ast.AnnAssign | ast.Expr) and statement.value is not None:
                yield from (node for node in ast.walk(statement.value) if isinstance(node, ast.Call))

    calls = {ast.unparse(call.func) for call in at_import(parsed(file).body)}
    assert calls <= CHEAP_CALLS


@each_file
def test_sizes(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < LONGEST_FUNCTION, f"{node.name} is too long"


def undocumented(body: list[ast.stmt], inside: str = "") -> Iterator[str]:
    """Public functions, classes and methods without a docstring; what is inside a private class is private."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            if not ast.get_docstring(node):
                yield inside + node.name
            if isinstance(node, ast.ClassDef):
                yield from undocumented(node.body, f"{inside}{node.name}.")


@each_file
def test_what_is_public_is_documented(file: Path) -> None:
    assert ast.get_docstring(parsed(file))
    assert not list(undocumented(parsed(file).body))


def test_no_two_test_files_have_one_name() -> None:
    """Pytest imports them by their names alone: of two it collects one, and only where both are asked for."""
    names = [file.name for file in Path(__file__).parent.rglob("test_*.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []


SHIPPED = [
    pytest.param(
        registry,
        name,
        id=f"{registry.kind}-{name}",
    )
    for registry in (ATTACKS, PROBES, SCORERS, METHODS, TESTBEDS)
    for name in registry.table
]


@pytest.mark.parametrize(("registry", "name"), SHIPPED)
def test_everything_shipped_says_what_it_is(registry, name: str) -> None:
    made = registry.create(name)
    assert made.name == name
    assert isinstance(made.version, int)
    assert made.version >= 1
    for text in (made.goal, made.paper):
        assert text.strip() == text != ""
        assert "\n" not in text
    described = next(row for row in registry.described() if row["name"] == name)
    said = {fact: getattr(made, fact) for fact in FACTS if hasattr(made, fact)}
    options = {option.name: option.default for option in dataclasses.fields(made)} if registry is METHODS else {}
    settings = dict(made.settings) if registry is TESTBEDS else {}
    parts = {part: value for part, value in (("options", options), ("settings", settings)) if value}
    assert described == {"name": name, **said, **parts}


@pytest.mark.parametrize(("registry", "name"), [(METHODS, name) for name in METHODS.table] + [(STAGES, "then")])
def test_every_option_of_a_method_says_what_it_means(registry, name: str) -> None:
    said = registry.declared(name)
    assert said.options.keys() <= said.meanings.keys()
    assert all(text.endswith(".") for text in said.meanings.values())


KINDS = ("language", "classifier")


@pytest.mark.parametrize("name", list(METHODS.table))
def test_every_method_says_when_on_what_where_and_at_what_cost(name: str) -> None:
    made = METHODS.create(name)
    assert made.when in ("training", "post hoc", "control")
    assert made.kinds in (", ".join(KINDS), *KINDS)
    for text in (made.touches, made.cost):
        assert text.strip() == text != ""
        assert "\n" not in text


@pytest.mark.parametrize("name", list(TESTBEDS.table))
def test_every_testbed_says_its_kind_and_names_only_what_there_is(name: str) -> None:
    made = TESTBEDS.create(name)
    assert made.kinds in KINDS
    for method, options in made.settings.items():
        assert made.kinds in METHODS.create(method).kinds
        assert options.keys() <= {option.name for option in dataclasses.fields(METHODS.create(method))}
