"""`capability.toml`: what was removed, in its three forms."""

from __future__ import annotations

import os
import re
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from redteam.config.files import expand_path, listed, read_toml, validated
from redteam.errors import InputError
from redteam.record import Record

TASK = "lm_eval:"  # what a task of lm-evaluation-harness is named with among files
WIDTH = re.compile(r"(?!.*\d{4})[^{}]{0,20}")  # how a field of a prompt may be formatted: not to fill the memory
Name = Annotated[str, Field(min_length=1)]
ClassCount = Annotated[int, Field(ge=2, le=100_000)]


class GroupRule(Record):
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


class Shares(Record):
    """Relative sizes of the three splits of the forget groups."""

    attack: float = Field(default=0.4, gt=0, le=1e9)
    select: float = Field(default=0.2, gt=0, le=1e9)
    certify: float = Field(default=0.4, gt=0, le=1e9)


class TaskRules(Record):
    """How tasks of lm-evaluation-harness are read.

    Attributes:
        include: a directory of YAML tasks beside those of the harness; the functions that they name are run.
        group: which docs speak of the same fact; without it each does of its own.
    """

    include: str | None = Field(default=None, min_length=1)
    group: GroupRule | None = None


class CapabilityFile(Record):
    """`capability.toml`: what was removed, in the user's own files.

    Attributes:
        name: for people and records.
        scorer: how an item is scored, or several ways, of which the first decides: a name from `redteam list scorers`,
            or `FILE.py:Class`, a class of the user's own, relative to this file.
        prompt: a template over the row's fields, `{group}`, and `{options}`: the choices by letter, in every order.
        wordings: further templates, which ask the same in other words; see docs/capabilities.md.
        chat: whether the prompt is what a user says, in the model's own chat template.
        choices: the field that lists the choices, or fields that hold one each or list some. Where no scorer compares
            choices, none need be.
        answer: the field that says which choice is right: its place counted from 0, its letter, or its text. Without
            choices it holds the right answer.
        group: which rows speak of the same fact; None where only tasks are named.
        forget: what asks for the removed capability: JSON lines, `.csv` or `.parquet` (`$NAME` in a path is taken from
            the environment), `hf://datasets/org/name@COMMIT?split=NAME`, or `lm_eval:TASK`. See docs/capabilities.md.
        retain: what asks for that which the model should still know, same form.
        corpus: files of documents of the topic, or related and public, for attacks that relearn from texts. `*` in a
            path stands for any name. None where there are none.
        tasks: how tasks among these are read.
        most: at most so many facts of what was removed, and so many of what stays; drawn by `seed`. All if not given.
        splits: relative sizes of the three splits.
        seed: of the split.
    """

    name: str = Field(min_length=1)
    scorer: Annotated[tuple[Name, ...], Field(min_length=1), BeforeValidator(listed)] = ("choice",)
    prompt: str
    wordings: tuple[str, ...] = Field(default=(), strict=False)
    chat: bool = False
    choices: str | Annotated[list[str], Field(min_length=2)] | None = None
    answer: str = "answer"
    group: GroupRule | None
    forget: list[str] = Field(min_length=1)
    retain: list[str] = Field(min_length=1)
    corpus: Annotated[tuple[Name, ...], Field(min_length=1), BeforeValidator(listed)] | None = None
    tasks: TaskRules = Field(default_factory=TaskRules)
    most: int | None = Field(default=None, ge=3)
    splits: Shares = Shares()
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _tasks_have_their_own(cls, data: Any) -> Any:
        """Where tasks alone are named there are no rows, and nothing has to be said of them."""
        named = [data.get(side) for side in ("forget", "retain")] if isinstance(data, dict) else [None]
        if not all(isinstance(many, list) and all(str(one).startswith(TASK) for one in many) for many in named):
            return data
        unused = sorted(data.keys() & {"prompt", "wordings", "choices", "answer", "group"})
        if unused:
            raise ValueError(f"{unused[0]!r} is for rows of files, and tasks alone are named; see [tasks]")
        return {"prompt": "", "group": None, **data}

    @model_validator(mode="after")
    def _tasks_are_asked_as_they_ask(self) -> CapabilityFile:
        if self.chat and self.asks_tasks:
            raise ValueError("tasks are asked as their own harness asks, and not in a chat")
        if self.wordings and self.asks_tasks:
            raise ValueError("tasks are asked as their own harness asks, and in no further wordings")
        return self

    @property
    def asks_tasks(self) -> bool:
        """Whether a task of lm-evaluation-harness is among the sources."""
        return any(source.startswith(TASK) for source in (*self.forget, *self.retain))

    @field_validator("scorer")
    @classmethod
    def _names_each_once(cls, scorers: tuple[Name, ...]) -> tuple[Name, ...]:
        if len(set(scorers)) != len(scorers):
            raise ValueError("a scorer is named twice")
        return scorers

    @field_validator("prompt")
    @classmethod
    def _is_not_wide(cls, prompt: str) -> str:
        _refuse_wide(prompt)
        return prompt

    @field_validator("wordings")
    @classmethod
    def _none_is_wide(cls, wordings: tuple[str, ...]) -> tuple[str, ...]:
        for wording in wordings:
            _refuse_wide(wording)
        return wordings


def _refuse_wide(template: str) -> None:
    """Refuses formats that fill the memory. What else may be wrong with a template the rows tell, with their line."""
    try:
        formats = [spec or "" for _, _, spec, _ in Formatter().parse(template)]
    except ValueError:
        return
    for spec in formats:
        if not WIDTH.fullmatch(spec):
            raise ValueError(f"no field can be formatted as {spec[:40]!r}")


class _ByClass(Record):
    """What files of classifiers have in common.

    Attributes:
        name: for people and records.
        forget: the removed classes, by name or number.
        scorer: how an example of them is scored, "recall" or "choice" (accuracy), or both, of which the first decides.
        false_positives: share of examples of other classes that "recall" lets be taken for a removed one; 0.01 if not
            given, and 0.05 of a trigger.
        most: at most so many examples of what was removed, and ten times as many of what stays; drawn by `seed`.
        splits: relative sizes of the three splits.
        seed: of the split.
    """

    name: str = Field(min_length=1)
    forget: list[str | int] = Field(min_length=1)
    scorer: Annotated[
        tuple[Literal["recall", "choice"], ...], Field(min_length=1, max_length=2), BeforeValidator(listed)
    ] = ("recall",)
    false_positives: float | None = Field(default=None, gt=0, le=0.5)
    most: int = Field(default=1000, ge=3)
    splits: Shares = Shares()
    seed: int = 0


class ArraysOf(Record):
    """What files of classifiers of arrays have in common.

    Attributes:
        arrays: a `.npz` file, relative to this one. `$NAME` in the path is taken from the environment.
        inputs: the array of examples [n, ...]; bytes are divided by 255.
        labels: the array of their classes [n], counted from 0.
        classes: the array of the classes' names, or their number.
        channels: whether images have their channels "first" or "last"; a module reads them first.
    """

    arrays: str
    inputs: str = "x"
    labels: str = "y"
    classes: str | ClassCount
    channels: Literal["first", "last"] = "first"


class ClassesFile(ArraysOf, _ByClass):
    """`capability.toml` of a classifier: which classes were removed, and arrays that show them.

    Attributes:
        triggered: the array that says which examples carry a trigger: true and false [n], or their rows. The trigger is
            then what was removed, `forget` the class that it asks for, and clean examples are what stays.
    """

    triggered: Name | None = None


class SamplesFile(ArraysOf):
    """`capability.toml` of samples of the training data that a classifier was made to forget.

    Attributes:
        name: for people and records.
        samples: the array that says which examples were removed: true and false [n], or their rows.
        unseen: the array that says which examples no model was trained on, in the same form. All others stay.
        false_positives: share of unseen samples that may be taken for members.
        most: at most so many samples, and ten times as many of what stays; drawn by `seed`.
        splits: relative sizes of the three splits. An adversary trains on none of them.
        seed: of the split.
    """

    name: str = Field(min_length=1)
    samples: Name
    unseen: Name
    false_positives: float = Field(default=0.05, gt=0, le=0.5)
    most: int = Field(default=3000, ge=3)
    splits: Shares = Shares(attack=0.05, select=0.25, certify=0.7)
    seed: int = 0


class TextsFile(_ByClass):
    """`capability.toml` of a classifier of text: which classes were removed, and rows that show them.

    Attributes:
        rows: files of texts with their classes, JSON lines or `.csv`. `$NAME` in a path is taken from the environment.
        text: the field that the model reads.
        label: the field of the class, its name or its number, counted from 0.
        classes: names of all classes in the model's order, or their number; by default what the rows call them, where
            that is what the model's config calls them.
    """

    rows: list[str] = Field(min_length=1)
    text: str = "text"
    label: str = "label"
    classes: Annotated[list[str], Field(min_length=2, max_length=100_000)] | ClassCount | None = None


def read_capability_file(path: Path) -> CapabilityFile | ClassesFile | SamplesFile | TextsFile:
    """Reads a `capability.toml`; it is of a classifier if it names `arrays` or `rows`, of samples if it names those.

    Raises:
        InputError: it is missing, not TOML, or not of this form.
    """
    if not os.path.isfile(path):  # unlike Path.is_file it raises nothing, whatever the name is
        raise InputError(f"there is no capability file {path}", "Check the path given to --capability")
    data = read_toml(path, "See examples/birthdays for one that is")
    if "samples" in data:
        return validated(SamplesFile, data, path)
    if "arrays" in data:
        return validated(ClassesFile, data, path)
    if "rows" in data:
        return validated(TextsFile, data, path)
    return validated(CapabilityFile, data, path)


def scorer_place(name: str, path: Path) -> str:
    """Returns the name of a scorer in a capability file at `path`; of a class of the user's own the file in full.

    Raises:
        InputError: its path uses a variable that is not set.
    """
    file, _, attribute = name.rpartition(":")
    return f"{expand_path(file, path)}:{attribute}" if ".py:" in name else name


def code_in(path: Path) -> dict[Path, str]:
    """Returns the code that a capability file brings and that is run: where it is, and what is said of it.

    Raises:
        InputError: as `read_capability_file`.
    """
    rules = read_capability_file(path)
    if not isinstance(rules, CapabilityFile):
        return {}
    places = (scorer_place(name, path) for name in rules.scorer if ".py:" in name)
    code = {Path(place.rpartition(":")[0]): "is code of yours and is run to score" for place in places}
    if rules.tasks.include is not None:
        tasks = expand_path(rules.tasks.include, path)
        code[tasks] = "holds tasks of yours, and functions that they name are run"
    return code
