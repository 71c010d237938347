"""Pydantic models of the files a user writes or carries beside a checkpoint. Unknown keys are errors."""

from __future__ import annotations

import json
import os
import re
import tomllib
from difflib import get_close_matches
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from redteam.access import Access
from redteam.errors import InputError

# What parsers raise on hostile text: their decode errors are ValueErrors, as are numbers of thousands of digits.
UNREADABLE = (OSError, ValueError, RecursionError)
LONGEST = 256 * 2**10  # bytes of a file that a person writes; parsers may take thirty times as much
DOTS = 100  # of one key in TOML: its parser keeps every beginning of it, so that it takes their square
QUOTED = re.compile(r""""(?:[^"\\\n]|\\.)*"|'[^'\n]*'""")
TASK = "lm_eval:"  # what a task of lm-evaluation-harness is named with among files
WIDTH = re.compile(r"(?!.*\d{4})[^{}]{0,20}")  # how a field of a prompt may be formatted: not to fill the memory
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Model = TypeVar("Model", bound=BaseModel)


class Strict(BaseModel):
    """A frozen record that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CheckpointRef(Strict):
    """A checkpoint beside the manifest: path relative to it, and the digest its weights must have."""

    path: str
    sha256: Digest


class TestbedRef(Strict):
    """A capability of a built-in testbed, regenerated from its seed; the digest guards against drift."""

    __test__ = False  # not a pytest class

    testbed: Annotated[str, Field(pattern=r"^[a-z0-9_-]+$")]  # a name, never a file that would be imported
    seed: int
    sha256: Digest


class CostRecord(Strict):
    """What a piece of work took, for the record; see `redteam.engine.cost.Cost`."""

    flops: float
    seconds: float
    peak_bytes: int


class Measured(Strict):
    """A number with its 95 % interval."""

    estimate: float
    low: float
    high: float


class Manifest(Strict):
    """`model.redteam.json`: ties an unlearned checkpoint to its original, its reference and its capability.

    Attributes:
        method: the unlearning method that made the target, for the record.
        seed: of the method.
        options: of the method, and with the prefix "then." of the stage after it.
        label_fraction: share of the forget set that the method was told of.
        then: the stage that followed the method.
        costs: of plain training, of the method, and of the stage after it.
        alignment_tax: utility lost against the original.
        target: the unlearned checkpoint.
        original: the model before unlearning.
        reference: a model that never had the capability.
        capability: a testbed's, or the path of a `capability.toml`.
    """

    schema_version: Literal[1] = 1
    method: str
    seed: int
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    label_fraction: float = Field(default=1.0, ge=0, le=1)
    then: Literal["retain", "mixture"] | None = None
    costs: dict[str, CostRecord] = Field(default_factory=dict)
    alignment_tax: Measured | None = None
    target: CheckpointRef
    original: CheckpointRef | None = None
    reference: CheckpointRef | None = None
    capability: TestbedRef | str


class GroupRule(Strict):
    """Which rows speak of the same fact: the text of `field`, or the first group of `pattern` in it."""

    field: str
    pattern: str | None = None

    @field_validator("pattern")
    @classmethod
    def _has_a_group(cls, pattern: str | None) -> str | None:
        shown = repr((pattern or "")[:80])
        try:
            groups = re.compile(pattern or "()").groups
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"{shown} is no regular expression ({error})") from error
        if groups < 1:
            raise ValueError(f"{shown} has no group: put the name of the fact in parentheses")
        return pattern


class Shares(Strict):
    """Relative sizes of the three splits of the forget groups."""

    attack: float = Field(default=0.4, gt=0, le=1e9)
    select: float = Field(default=0.2, gt=0, le=1e9)
    certify: float = Field(default=0.4, gt=0, le=1e9)


class TaskRules(Strict):
    """How tasks of lm-evaluation-harness are read.

    Attributes:
        include: a directory of YAML tasks beside those of the harness; the functions that they name are run.
        group: which docs speak of the same fact; without it each does of its own.
    """

    include: str | None = Field(default=None, min_length=1)
    group: GroupRule | None = None


class CapabilityFile(Strict):
    """`capability.toml`: what was removed, in the user's own files.

    Attributes:
        name: for people and records.
        scorer: how an item is scored; "choice" compares the likelihood of the choices.
        prompt: a template over the row's fields and `{group}`.
        choices: the field that lists the choices, or the fields that hold one each.
        answer: the field that says which choice is right: its place counted from 0, its letter, or its text.
        group: which rows speak of the same fact; None where only tasks are named.
        forget: what asks for the removed capability: JSON lines, `.csv` or `.parquet` (`$NAME` in a path is taken from
            the environment), `hf://datasets/org/name@COMMIT?split=NAME`, or `lm_eval:TASK`. See docs/capabilities.md.
        retain: what asks for that which the model should still know, same form.
        tasks: how tasks among these are read.
        splits: relative sizes of the three splits.
        seed: of the split.
    """

    name: str = Field(min_length=1)
    scorer: Literal["choice"] = "choice"
    prompt: str
    choices: str | Annotated[list[str], Field(min_length=2)] = "choices"
    answer: str = "answer"
    group: GroupRule | None
    forget: list[str] = Field(min_length=1)
    retain: list[str] = Field(min_length=1)
    tasks: TaskRules = Field(default_factory=TaskRules)
    splits: Shares = Shares()
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _tasks_have_their_own(cls, data: Any) -> Any:
        """Where tasks alone are named there are no rows, and nothing has to be said of them."""
        named = [data.get(side) for side in ("forget", "retain")] if isinstance(data, dict) else [None]
        if not all(isinstance(many, list) and all(str(one).startswith(TASK) for one in many) for many in named):
            return data
        unused = sorted(data.keys() & {"prompt", "choices", "answer", "group"})
        if unused:
            raise ValueError(f"{unused[0]!r} is for rows of files, and tasks alone are named; see [tasks]")
        return {"prompt": "", "group": None, **data}

    @field_validator("prompt")
    @classmethod
    def _is_not_wide(cls, prompt: str) -> str:
        """What else may be wrong with a template the rows will tell, with their line."""
        try:
            formats = [spec or "" for _, _, spec, _ in Formatter().parse(prompt)]
        except ValueError:
            return prompt
        for spec in formats:
            if not WIDTH.fullmatch(spec):
                raise ValueError(f"no field can be formatted as {spec[:40]!r}")
        return prompt


class ClassesFile(Strict):
    """`capability.toml` of a classifier: which classes were removed, and arrays that show them.

    Attributes:
        name: for people and records.
        arrays: a `.npz` file, relative to this one. `$NAME` in the path is taken from the environment.
        inputs: the array of examples [n, ...]; bytes are divided by 255.
        labels: the array of their classes [n], counted from 0.
        classes: the array of the classes' names, or their number.
        forget: the removed classes, by name or number.
        channels: whether images have their channels "first" or "last"; a module reads them first.
        most: at most so many examples of what was removed, and ten times as many of what stays; drawn by `seed`.
        splits: relative sizes of the three splits.
        seed: of the split.
    """

    name: str = Field(min_length=1)
    arrays: str
    inputs: str = "x"
    labels: str = "y"
    classes: str | Annotated[int, Field(ge=2, le=100_000)]
    forget: list[str | int] = Field(min_length=1)
    channels: Literal["first", "last"] = "first"
    most: int = Field(default=1000, ge=3)
    splits: Shares = Shares()
    seed: int = 0


class ProjectFile(Strict):
    """`redteam.toml`: what `redteam attack` is asked for where it is given no checkpoint.

    Attributes:
        target: the checkpoint. `$NAME` in a path is taken from the environment.
        capability: files that say what was removed, or one; none for what the manifest beside the target says.
        original: the model before unlearning.
        reference: a model that never had the capability.
        base: of a PEFT adapter, the model that it was trained on.
        config: a config.json, if none lies beside the target.
        arch: `FILE.py:FUNCTION` that builds a classifier.
        attacks: by name, or `FILE.py:CLASS`; none for all.
        access: what the adversary has.
        budget: search trials on the target.
        seed: of the run.
    """

    target: str = Field(min_length=1)
    capability: Annotated[list[str], BeforeValidator(lambda given: [given] if isinstance(given, str) else given)] = []
    original: str | None = None
    reference: str | None = None
    base: str | None = None
    config: str | None = None
    arch: str | None = None
    attacks: list[str] = []
    access: Access = Access.WEIGHTS
    budget: int = Field(default=100, ge=1)
    seed: int = 0


def read_project_file(path: Path) -> ProjectFile:
    """Reads a `redteam.toml`.

    Raises:
        InputError: it is missing, not TOML, or not of this form.
    """
    return _validated(ProjectFile, _toml(path, "Write it again: redteam init"), path)


def read_manifest(path: Path) -> Manifest:
    """Reads a sidecar manifest.

    Raises:
        InputError: it is not JSON, or not of this form.
    """
    try:
        data = json.loads(_text(path))
    except UNREADABLE as error:
        raise InputError(f"{path} is not readable JSON ({error})", "Write it again with `redteam unlearn`") from error
    return _validated(Manifest, data, path)


def read_capability_file(path: Path) -> CapabilityFile | ClassesFile:
    """Reads a `capability.toml`; it is of a classifier if it names `arrays`.

    Raises:
        InputError: it is missing, not TOML, or not of this form.
    """
    if not os.path.isfile(path):  # unlike Path.is_file it raises nothing, whatever the name is
        raise InputError(f"there is no capability file {path}", "Check the path given to --capability")
    data = _toml(path, "See examples/birthdays for one that is")
    if "arrays" in data:
        return _validated(ClassesFile, data, path)
    return _validated(CapabilityFile, data, path)


def _toml(path: Path, remedy: str) -> dict[str, Any]:
    try:
        text = _text(path)
        if max(line.count(".") for line in QUOTED.sub("", text).split("\n")) > DOTS:
            raise ValueError(f"a key has more than {DOTS} parts")
        return tomllib.loads(text)
    except UNREADABLE as error:
        raise InputError(f"{path} is not readable TOML ({error})", remedy) from error


def _text(path: Path) -> str:
    if path.stat().st_size > LONGEST:
        raise ValueError(f"it has more than {LONGEST} bytes")
    return path.read_text(encoding="utf-8")


def expand_path(text: str, beside: Path) -> Path:
    """Resolves a path written in a file: `$NAME` from the environment, relative ones beside that file.

    Raises:
        InputError: a variable is not set.
    """

    def value(match: re.Match[str]) -> str:
        name = match.group(1) or match.group(2)
        if name not in os.environ:
            raise InputError(f"{text!r} uses ${name}, which is not set", f"Set it: export {name}=/path/to/data")
        return os.environ[name]

    expanded = Path(re.sub(r"\$(?:(\w+)|\{(\w+)\})", value, text))
    # An address of the hub is no path: `redteam.checkpoints.hub`.
    return expanded if expanded.is_absolute() or text.startswith("hf:") else beside.parent / expanded


def _validated(model: type[Model], data: Any, path: Path) -> Model:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])[:200] or "the top level"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        remedy = _meant(model, first["loc"]) if first["type"] == "extra_forbidden" else "Correct that key"
        said = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{path}: {where}: {said}{more}", remedy) from error


def _meant(model: type[BaseModel], loc: tuple[int | str, ...]) -> str:
    """Returns what to do about a key that is not known: the known one that is spelled most like it, if one is."""
    inside: Any = model
    for part in loc[:-1]:
        inside = (
            inside.model_fields[part].annotation if isinstance(part, str) and hasattr(inside, "model_fields") else None
        )
    near = get_close_matches(str(loc[-1]), getattr(inside, "model_fields", ()), n=1)
    return f"Did you mean {near[0]!r}?" if near else "Remove that key, or correct its name"
