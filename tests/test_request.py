"""What a run is asked for is declared once: each option of a run stands in `RunRequest`, and nowhere else."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path, PurePath
from typing import Annotated, Any

import pytest
import typer
from pydantic import Field
from typer.testing import CliRunner

import redteam
from redteam.access import Access
from redteam.cli import app
from redteam.config.request import RunRequest, Surface, checked, flags_of, read_project, requested, surface
from redteam.errors import InputError
from redteam.options import Given, takes_request
from redteam.suite.attack import BESIDE

HOUSE = Path(redteam.__file__).parent
FIELDS = RunRequest.model_fields
ON_COMMAND_LINE = {name for name, field in FIELDS.items() if surface(field).command_line}
ELSEWHERE = {"policy", "dry_run", "format"}  # how the command answers, not what is run


class Wider(RunRequest):
    """A form with one option more, as somebody would add it."""

    patience: Annotated[int, Field(ge=0, description="Trials without a gain before the search ends.")] = 7


def options_of(name: str) -> dict[str, Any]:
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    return {parameter.name: parameter for parameter in command.params if parameter.name != "help"}


def test_the_command_line_takes_the_fields_and_no_others() -> None:
    assert options_of("attack").keys() == ON_COMMAND_LINE | ELSEWHERE


def test_so_does_python() -> None:
    assert list(inspect.signature(redteam.attack).parameters) == [*FIELDS, *BESIDE]


def test_help_is_the_description_of_the_field() -> None:
    for name, parameter in options_of("attack").items():
        if name in FIELDS:
            assert FIELDS[name].description is not None
            assert FIELDS[name].description in parameter.help
    told = " ".join((redteam.attack.__doc__ or "").split())
    assert all(f"{name}: {' '.join(str(field.description).split())}" in told for name, field in FIELDS.items())


def test_the_flags_are_those_of_the_field() -> None:
    for name, parameter in options_of("attack").items():
        if name in FIELDS and parameter.param_type_name == "option":
            assert {*parameter.opts} == {*flags_of(name, FIELDS[name])}


@pytest.mark.parametrize("name", ["replay", "inspect"])
def test_other_commands_share_what_they_ask_for(name: str) -> None:
    shared = options_of(name).keys() & ON_COMMAND_LINE - ELSEWHERE
    assert shared
    whole = options_of("attack")
    assert all(options_of(name)[one].help == whole[one].help for one in shared)


# Flags that other commands spell alike, for what they make themselves.
OTHERS = {"--seed", "--budget", "--out", "-o"}
# Records of what was given, and of what it comes to: a reader has them without the request.
RECORDS = {
    ("config/manifest.py", "Manifest"),
    ("evidence/directory.py", "RunPlan"),
    ("judging/preview.py", "RunPreview"),
}


def flags_in(path: Path) -> set[str]:
    """Every text that a file hands to `typer.Option`."""
    calls = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
    options = (call for call in calls if ast.unparse(call.func) == "typer.Option")
    return {one.value for call in options for one in call.args if isinstance(one, ast.Constant)}


def records_in(path: Path) -> dict[str, set[str]]:
    """The fields of every class of a file, by its name."""
    classes = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.ClassDef))
    return {
        one.name: {s.target.id for s in one.body if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)}
        for one in classes
    }


def test_every_option_of_a_run_exists_once() -> None:
    flags = {flag for name, field in FIELDS.items() for flag in flags_of(name, field)} - OTHERS
    assert {*flags_in(HOUSE / "options.py"), *flags_in(HOUSE / "cli.py")} & flags == set()
    again = {
        (str(path.relative_to(HOUSE)), name)
        for path in HOUSE.rglob("*.py")
        for name, fields in records_in(path).items()
        if len(fields & FIELDS.keys() - {"target"}) > 2 and "target" in fields
    }
    assert again == {("config/request.py", "RunRequest"), *RECORDS}


def test_a_field_more_is_an_option_a_key_and_an_argument(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adding an option is one line: the form says all that the three surfaces need."""
    told: list[Given] = []
    wider = typer.Typer()

    @wider.command()
    @takes_request(form=Wider)
    def attack(given: Given) -> None:
        told.append(given)

    runner = CliRunner()
    assert "Trials without a gain" in " ".join(runner.invoke(wider, ["--help"]).output.split())
    assert runner.invoke(wider, ["model.pt", "--patience", "3"]).exit_code == 0
    assert told[0]["patience"] == 3
    assert requested(told[0], Wider) == Wider(target=Path("model.pt"), patience=3)
    (tmp_path / "redteam.toml").write_text('target = "model.pt"\npatience = 5\n')
    monkeypatch.chdir(tmp_path)
    assert requested({"budget": 2}, Wider) == Wider(target=Path("model.pt"), patience=5, budget=2)
    with pytest.raises(InputError, match=r"patience is -1.*Correct --patience"):
        requested({"target": "m", "patience": -1}, Wider)


@pytest.mark.parametrize("name", sorted(name for name, field in FIELDS.items() if not surface(field).project))
def test_what_belongs_to_a_machine_or_a_moment_is_refused_in_a_project(name: str, tmp_path: Path) -> None:
    path = tmp_path / "redteam.toml"
    path.write_text(f'target = "m"\n{name} = "x"\n')
    with pytest.raises(InputError, match=name):
        read_project(path)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"budget": 0}, "budget is 0: Input should be greater than or equal to 1. Correct --budget"),
        ({"budget": "many"}, "budget is 'many': Input should be a valid integer"),
        ({"access": "root"}, "access is 'root': Input should be 'weights', 'activations', 'embeddings' or 'text'"),
        ({"attacks": 3}, "attacks is 3: Input should be a valid string. Correct -a/--attack"),
        ({"probes": 3}, "probes is 3: Input should be a valid string. Correct --probe"),
        ({"original": 3}, "original is 3: it is no path. Correct --original"),
        ({"target": ""}, "target is '': it is empty"),
        ({"target": "a\0b"}, "target is 'a\\x00b': no path holds a NUL character"),
        ({"budgett": 3}, "budgett is 3: Extra inputs are not permitted"),
    ],
)
def test_what_cannot_be_used_is_one_line_that_names_the_option(given: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        checked({"target": "m", **given})
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


def test_what_python_gives_is_taken_as_it_is() -> None:
    class Loaded:
        sha256 = "0" * 64

    model, capability = Loaded(), Loaded()
    request = checked({"target": model, "capability": capability, "access": "text", "attacks": "lora"})
    assert request.target is model
    assert request.capability == (capability,)
    assert (request.access, request.attacks) == (Access.TEXT, ("lora",))


@pytest.mark.parametrize("many", [["a", "b"], ("a", "b"), {"a": 1, "b": 2}, iter(["a", "b"])])
def test_several_come_in_whatever_holds_them(many: Any) -> None:
    assert checked({"target": "m", "attacks": many}).attacks == ("a", "b")
    assert checked({"target": PurePath("m"), "capability": "a.toml"}).capability == (Path("a.toml"),)


def test_an_argument_that_nobody_knows_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'budgett'"):
        redteam.attack("model.pt", budgett=3)


def test_an_unknown_surface_is_everywhere() -> None:
    assert surface(Wider.model_fields["patience"]) == Surface()
