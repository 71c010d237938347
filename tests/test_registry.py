"""Names of plug-ins: found, resolved lazily, and refused in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from redteam import registry as registry_module
from redteam.attacks.noop import NoOp
from redteam.errors import InputError
from redteam.registry import ATTACKS, METHODS, PROBES, SCORERS, TESTBEDS, Registry, registry_of

ALL = (ATTACKS, PROBES, SCORERS, METHODS, TESTBEDS)
MINE = "class Mine:\n    name = 'mine'\n"


def refusal(registry: Registry, name: str) -> InputError:
    with pytest.raises(InputError) as caught:
        registry.create(name)
    assert str(caught.value).isprintable()  # one line, nothing that moves a cursor
    assert caught.value.remedy
    return caught.value


@pytest.mark.parametrize("registry", ALL, ids=lambda registry: registry.kind)
def test_every_row_resolves_to_a_class_of_its_name(registry: Registry) -> None:
    for name in registry.table:
        assert registry.create(name).name == name
        assert registry.require(name) == registry.table[name]
    assert registry.rows().items() >= registry.table.items()


def test_each_call_makes_a_new_instance() -> None:
    assert isinstance(ATTACKS.create("noop"), NoOp)
    assert ATTACKS.create("noop") is not ATTACKS.create("noop")


@pytest.mark.parametrize(
    ("registry", "typo", "meant"),
    [
        (ATTACKS, "retrian", "retrain"),
        (ATTACKS, "no-op", "noop"),
        (METHODS, "rmuu", "rmu"),
        (TESTBEDS, "fact", "facts"),
        (SCORERS, "calibrate", "calibrated"),
    ],
)
def test_a_typo_is_answered_with_what_was_meant(registry: Registry, typo: str, meant: str) -> None:
    for ask in (registry.create, registry.require):
        with pytest.raises(InputError) as caught:
            ask(typo)
        assert caught.value.found == f"there is no {registry.kind} named {typo!r}"
        assert caught.value.remedy == f"Did you mean {meant!r}?"


@pytest.mark.parametrize("name", ["", "zzzz", "\x1b[31m", "redteam.attacks.noop:NoOp", "noop "])
def test_what_resembles_nothing_is_answered_with_the_choice(name: str) -> None:
    error = refusal(PROBES, name)
    assert error.remedy == f"Choose from: {', '.join(sorted(PROBES.table))}"


def test_a_name_of_another_kind_is_unknown() -> None:
    assert "no attack named 'rmu'" in refusal(ATTACKS, "rmu").found


def test_registries_by_their_plural() -> None:
    assert [registry_of(f"{registry.kind}s") for registry in ALL] == list(ALL)


def test_described_reads_what_the_classes_say_without_importing_them() -> None:
    program = (
        "import sys, json\n"
        "from redteam.registry import ATTACKS, PROBES, SCORERS, METHODS, TESTBEDS\n"
        "rows = [row for registry in (ATTACKS, PROBES, SCORERS, METHODS, TESTBEDS) for row in registry.described()]\n"
        "heavy = ('torch', 'transformers', 'optuna', 'sklearn', 'scipy', 'numpy')\n"
        "print(json.dumps([rows, [name for name in heavy if name in sys.modules]]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    rows, heavy = json.loads(done.stdout)
    assert heavy == []
    made = [registry.create(name) for registry in ALL for name in registry.table]
    assert [row["name"] for row in rows] == [thing.name for thing in made]
    for row, thing in zip(rows, made, strict=True):
        assert {"version", "goal"} <= row.keys()
        options = row.pop("options", {})
        assert all(getattr(thing, key) == value for key, value in {**row, **options}.items())


def test_an_installed_package_can_add_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def installed(group: str) -> list[EntryPoint]:
        return [EntryPoint("theirs", "redteam.attacks.noop:NoOp", group)] if group == "redteam.attacks" else []

    monkeypatch.setattr(registry_module, "entry_points", installed)
    assert isinstance(ATTACKS.create("theirs"), NoOp)
    assert list(ATTACKS.rows()) == ["theirs", *ATTACKS.table]
    assert "theirs" not in PROBES.rows()
    assert refusal(ATTACKS, "their").remedy == "Did you mean 'theirs'?"


def test_what_was_installed_says_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    place = "redteam.attacks.noop:NoOp"
    monkeypatch.setattr(registry_module, "entry_points", lambda group: [EntryPoint("theirs", place, group)])
    assert ATTACKS.installed() == {"theirs": place}
    assert ATTACKS.said("theirs").facts == {key: str(v) for key, v in ATTACKS.declared("noop").facts.items()}


def test_an_installed_package_cannot_take_a_name_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "entry_points", lambda group: [EntryPoint("retrain", "evil:Attack", group)])
    assert ATTACKS.require("retrain") == "redteam.attacks.retrain:Retrain"


@pytest.mark.parametrize("place", ["not_installed_anywhere:Attack", "redteam.attacks.noop:Missing"])
def test_a_broken_plug_in_is_named(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """The docstring of `create` promises it; at the command line it would be an internal error."""
    monkeypatch.setattr(registry_module, "entry_points", lambda group: [EntryPoint("theirs", place, group)])
    assert "theirs" in refusal(ATTACKS, "theirs").found


# A file of the user's own.


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


def test_a_class_in_a_file(file: Path) -> None:
    made = ATTACKS.create(f"{file}:Mine")
    assert made.name == "mine"
    assert type(made).__name__ == "Mine"


def test_a_relative_path(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert METHODS.create("mine.py:Mine").name == "mine"


def test_a_path_with_colons_and_dots(tmp_path: Path) -> None:
    folder = tmp_path / "a:b.py:c"
    folder.mkdir()
    (folder / "my attack.v2.py").write_text(MINE)
    assert ATTACKS.create(f"{folder}/my attack.v2.py:Mine").name == "mine"


def test_two_files_of_one_name_do_not_shadow_each_other_or_a_package(file: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.py").write_text(MINE.replace("'mine'", "'other'"))
    (tmp_path / "json.py").write_text(MINE)
    assert ATTACKS.create(f"{tmp_path / 'other' / 'mine.py'}:Mine").name == "other"
    assert ATTACKS.create(f"{file}:Mine").name == "mine"
    assert ATTACKS.create(f"{tmp_path / 'json.py'}:Mine").name == "mine"
    assert json.loads("1") == 1


def test_a_changed_file_is_read_again(file: Path) -> None:
    ATTACKS.create(f"{file}:Mine")
    file.write_text(MINE.replace("'mine'", "'another'"))
    assert ATTACKS.create(f"{file}:Mine").name == "another"


def test_a_dataclass_in_a_file(file: Path) -> None:
    """The house style of methods with options; dataclasses look their own module up while they are made."""
    file.write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Mine:\n"
        "    steps: int = 3\n"
        "    name = 'mine'\n"
    )
    assert METHODS.create(f"{file}:Mine").steps == 3


def test_a_missing_file(tmp_path: Path) -> None:
    error = refusal(ATTACKS, f"{tmp_path}/none.py:Mine")
    assert error.found == f"there is no file {tmp_path}/none.py"
    assert "file.py:name" in error.remedy


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder.py").mkdir()
    assert "there is no file" in refusal(ATTACKS, f"{tmp_path}/folder.py:Mine").found


@pytest.mark.parametrize("attribute", ["Yours", "mine", ""])
def test_a_missing_class(file: Path, attribute: str) -> None:
    error = refusal(ATTACKS, f"{file}:{attribute}")
    assert error.found == f"{file} has no class {attribute!r}"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("raise ValueError('first\\nsecond')", "ValueError: first second"),
        ("import not_installed_anywhere", "ModuleNotFoundError: No module named 'not_installed_anywhere'"),
        ("class Mine\n    pass", "SyntaxError"),
        ("def f():\npass", "IndentationError"),
        ("x = '\x00'", "null bytes"),
        ("1 / 0", "ZeroDivisionError"),
        ("assert False", "AssertionError"),
    ],
)
def test_a_file_that_cannot_be_imported(file: Path, source: str, says: str) -> None:
    file.write_text(source)
    error = refusal(ATTACKS, f"{file}:Mine")
    assert error.found.startswith(f"{file} cannot be imported (")
    assert says in error.found


def test_a_file_in_another_encoding(file: Path) -> None:
    file.write_bytes("name = 'Zürich'".encode("latin-1"))
    assert "cannot be imported" in refusal(ATTACKS, f"{file}:Mine").found


@pytest.mark.parametrize("code", [0, 1])
def test_a_file_that_exits(file: Path, code: int) -> None:
    """A script without a __main__ guard; with code 0 the command would look as if it had come to a verdict."""
    file.write_text(f"{MINE}import sys\nsys.exit({code})\n")
    assert "SystemExit" in refusal(ATTACKS, f"{file}:Mine").found


@pytest.mark.parametrize(
    "source",
    [
        "Mine = 3",
        "class Mine:\n    def __init__(self, steps):\n        pass",
        "class Mine:\n    def __init__(self):\n        raise ValueError('no')",
    ],
    ids=["no class", "needs an argument", "raises"],
)
def test_a_class_that_cannot_be_made(file: Path, source: str) -> None:
    file.write_text(source)
    assert str(file) in refusal(ATTACKS, f"{file}:Mine").found


def test_a_class_that_is_no_attack(file: Path) -> None:
    file.write_text("class Mine:\n    name = 'mine'\n    kinds = 'language'\n")
    with pytest.raises(InputError, match=r"Mine is no attack: it lacks version, access, space, recipes, run\."):
        ATTACKS.whole(f"{file}:Mine")
