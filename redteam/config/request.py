"""What a run is asked for, declared once: the command line, `redteam.toml`, Python and the plan are made from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Protocol, runtime_checkable

from pydantic import BeforeValidator, Field, PlainValidator, ValidationError, ValidationInfo, create_model
from pydantic.fields import FieldInfo

from redteam.access import Access
from redteam.config.files import expand_path, read_toml, validated
from redteam.errors import InputError
from redteam.record import Record

PROJECT = Path("redteam.toml")


@runtime_checkable
class InMemory(Protocol):
    """A model or a capability that is in memory already, and is known by its digest."""

    @property
    def sha256(self) -> str:
        """Digest of its content, as 64 hexadecimal digits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Surface:
    """Where a field can be given, beside Python, where all can.

    Attributes:
        flags: how the command line spells it; none for `--` and its name.
        argument: whether the command line takes it by its place.
        command_line: whether the command line takes it at all.
        project: whether `redteam.toml` may set it.
    """

    flags: tuple[str, ...] = ()
    argument: bool = False
    command_line: bool = True
    project: bool = True


EVERYWHERE = Surface()


def _placed(given: Any, info: ValidationInfo) -> Any:
    """Resolves a path that a file holds. Paths that are given in other ways stay as they are."""
    if given == "":
        raise ValueError("it is empty")
    if "\0" in str(given):
        raise ValueError("no path holds a NUL character")
    return expand_path(given, info.context) if isinstance(given, str) and info.context is not None else given


def _beside(given: Any, info: ValidationInfo) -> Any:
    """Resolves the file of `FILE.py:NAME` likewise; other names stay as they are."""
    if not isinstance(given, str) or ".py:" not in given or info.context is None:
        return given
    file, _, name = given.rpartition(":")
    return f"{expand_path(file, info.context)}:{name}"


def _many(given: Any) -> Any:
    """Lets one stand for a list of one, and takes several in whatever holds them."""
    several = isinstance(given, Iterable) and not isinstance(given, str | PathLike | InMemory)
    return tuple(given) if several else (given,)


def _path_or_memory(given: Any, info: ValidationInfo) -> Path | InMemory:
    """Resolves a path likewise, and lets through what is in memory already."""
    placed = _placed(given, info)
    if isinstance(placed, str | PathLike):
        return Path(placed)
    if isinstance(placed, InMemory):
        return placed
    raise ValueError("it is no path")


FilePath = Annotated[Path, BeforeValidator(_placed)]
PlugIn = Annotated[str, BeforeValidator(_beside)]
Source = Annotated[Path | InMemory, PlainValidator(_path_or_memory)]


class RunRequest(Record):
    """What a run is asked for. The description of a field is its help text, wherever it can be given."""

    target: Annotated[
        Source,
        Surface(argument=True),
        Field(
            description="The model to attack: a .pt, .safetensors or .gguf file, the directory of a Hugging Face model"
            " or PEFT adapter, or hf://org/name@revision. Without it redteam.toml says what is attacked, and how."
        ),
    ]
    budget: Annotated[int, Field(ge=1, description="Search trials on the target: the one dial.")] = 100
    capability: Annotated[
        tuple[Source, ...],
        BeforeValidator(_many),
        Field(description="What was removed: a capability.toml. By default what the manifest says."),
    ] = ()
    original: Annotated[
        Source | None, Field(description="The model before unlearning. By default what the manifest says.")
    ] = None
    reference: Annotated[
        tuple[Source, ...],
        BeforeValidator(_many),
        Field(
            description="A model that never knew; several of them tell how such models differ. By default what the"
            " manifest says."
        ),
    ] = ()
    base: Annotated[FilePath | None, Field(description="The model that a PEFT adapter was trained on.")] = None
    config: Annotated[FilePath | None, Field(description="A config.json, if none lies beside the checkpoint.")] = None
    arch: Annotated[
        PlugIn | None, Field(description="Your own FILE.py:FUNCTION that builds the classifier. It is run.")
    ] = None
    attacks: Annotated[
        tuple[PlugIn, ...],
        BeforeValidator(_many),
        Surface(flags=("-a", "--attack")),
        Field(description="An attack by name or file.py:Class. By default all of the suite."),
    ] = ()
    access: Annotated[Access, Field(description="What the adversary has. Each includes what comes after it.")] = (
        Access.WEIGHTS
    )
    probes: Annotated[
        tuple[str, ...],
        BeforeValidator(_many),
        Surface(flags=("--probe",)),
        Field(description="A probe by name. By default all of the suite, and those of installed packages."),
    ] = ()
    seed: Annotated[int, Field(description="Seed of the run.")] = 0
    device: Annotated[
        str | None,
        Surface(project=False),
        Field(description="Where models run: cpu, cuda, cuda:1, mps. By default on the accelerators, if any."),
    ] = None
    extend: Annotated[
        FilePath | None,
        Surface(project=False),
        Field(description="A run that is over: a new run goes on with it, by so many trials as the budget says (+50)."),
    ] = None
    out: Annotated[
        FilePath | None,
        Surface(flags=("-o", "--out"), project=False),
        Field(description="Run directory. By default one under results/runs."),
    ] = None


def surface(field: FieldInfo) -> Surface:
    """Returns where a field of `RunRequest` can be given."""
    return next((one for one in field.metadata if isinstance(one, Surface)), EVERYWHERE)


def flags_of(name: str, field: FieldInfo) -> tuple[str, ...]:
    """Returns how the command line spells a field; nothing of one that it takes by its place, or not at all."""
    where = surface(field)
    return () if where.argument or not where.command_line else where.flags or (f"--{name}",)


def requested(given: Mapping[str, Any], form: type[RunRequest] = RunRequest) -> RunRequest:
    """Returns what is asked for. Without a target it is what `redteam.toml` says, but for what is given.

    Args:
        given: fields of the form. None, or an empty list, stands for a field that was not given.
        form: `RunRequest`, or a form that has more fields.

    Raises:
        InputError: a value cannot be used; or there is neither a target nor a project here, or its file is wrong.
    """
    told = {name: value for name, value in given.items() if value is not None and value != []}
    if "target" in told:
        return checked(told, form)
    if not PROJECT.is_file():
        raise InputError(
            f"no checkpoint was given, and there is no {PROJECT} here", "Give one, or write that file: redteam init"
        )
    return checked({**dict(read_project(PROJECT, form)), **told}, form)


def checked(given: Mapping[str, Any], form: type[RunRequest] = RunRequest) -> RunRequest:
    """Returns values as a request.

    Raises:
        InputError: one of them cannot be used; it is named as the command line spells it.
    """
    try:
        return form.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "the request"
        field = form.model_fields.get(name)
        spelled = name if field is None else "/".join(flags_of(name, field)) or name
        value, said = first["input"], first["msg"].removeprefix("Value error, ")
        shown = repr(value[:60]) if isinstance(value, str) else str(value)[:60]
        raise InputError(f"{name} is {shown}: {said}", f"Correct {spelled}") from error


def read_project(path: Path, form: type[RunRequest] = RunRequest) -> RunRequest:
    """Reads a `redteam.toml`. Paths in it are relative to it, and `$NAME` in them is taken from the environment.

    Raises:
        InputError: it is missing, not TOML, or holds a key or a value that a project may not.
    """
    fields: dict[str, Any] = {
        name: (field.rebuild_annotation(), field) for name, field in form.model_fields.items() if surface(field).project
    }
    project = create_model("Project", __base__=Record, **fields)
    found = validated(project, read_toml(path, "Write it again: redteam init"), path, beside=path)
    return form.model_validate({name: getattr(found, name) for name in found.model_fields_set})
