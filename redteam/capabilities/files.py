"""A capability from the files of a user: `capability.toml`, and what it names: rows, tasks, or arrays."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any

from redteam.capabilities.classes import classes_of
from redteam.capabilities.corpus import documents_of, refuse_telling
from redteam.capabilities.duplicates import asked_in, normal_form, refuse_alike, together
from redteam.capabilities.grouping import field_of, group_of
from redteam.capabilities.harness import Tasks
from redteam.capabilities.hub_rows import START, dataset_rows
from redteam.capabilities.items import NAMED, Capability, Item
from redteam.capabilities.labelled import texts_of
from redteam.capabilities.options import FIELD, LETTERS, MARK, listed
from redteam.capabilities.rows import Row, rows_of
from redteam.capabilities.samples import samples_of
from redteam.capabilities.splits import refuse_starved, split_by_group
from redteam.config.capability import (
    TASK,
    CapabilityFile,
    ClassesFile,
    SamplesFile,
    TextsFile,
    read_capability_file,
    scorer_place,
)
from redteam.config.files import expand_path
from redteam.errors import InputError
from redteam.registry import SCORERS

if TYPE_CHECKING:
    from redteam.capabilities.scorers.contract import Scorer


def load_capability(path: Path) -> Capability:
    """Reads a `capability.toml` and the files that it names.

    Raises:
        InputError: a file is missing or not of the expected form, with the line; or too little is left to split.
    """
    rules = read_capability_file(path)
    if isinstance(rules, TextsFile):
        return texts_of(rules, path)
    if isinstance(rules, SamplesFile):
        return samples_of(rules, path)
    return classes_of(rules, path) if isinstance(rules, ClassesFile) else capability_of(rules, path)


def capability_of(rules: CapabilityFile, path: Path) -> Capability:
    """Reads the files that rules name; `path` is where the rules stand, since paths in them are relative to it.

    Raises:
        InputError: as `load_capability`.
    """
    scorers = tuple(_scorer(name, path) for name in rules.scorer)
    _refuse_unfit(scorers, rules, path)
    if rules.choices is None and any("choices" in scorer.needs for scorer in scorers):
        rules = rules.model_copy(update={"choices": "choices"})
    tasks = Tasks(rules.tasks, path)
    forget = _items(rules, path, tasks, rules.forget)
    retain = _items(rules, path, tasks, rules.retain)
    forget, retain = (_drawn(rules, items) for items in (forget, retain))
    about, asked = {item.group for item in forget}, asked_in(forget)
    retain = tuple(item for item in retain if item.group not in about and normal_form(item.prompt) not in asked)
    sizes = (rules.splits.attack, rules.splits.select, rules.splits.certify)
    try:
        attack, select, certify = split_by_group(forget, sizes, rules.seed)
        kept, utility = split_by_group(retain, (0.5, 0.5), rules.seed)
    except ValueError as error:
        raise InputError(f"{path}: {error}", "Name files with more facts under forget and retain") from error
    refuse_starved(attack, forget, path)
    documents = () if rules.corpus is None else documents_of(rules.corpus, path)
    capability = Capability(
        name=rules.name,
        attack=listed(attack),
        select=listed(select),
        certify=listed(certify),
        retain=listed(kept),
        utility=listed(utility),
        scorers=scorers,
        premise=_premise(scorers, rules, path),
        corpus=tuple(document.text for document in documents),
    )
    refuse_alike(capability, f"{path}: ")
    refuse_telling(documents, capability)
    return capability


def _scorer(name: str, path: Path) -> Scorer:
    """Returns a scorer that a capability file names; one of the user's own is run for that."""
    place = scorer_place(name, path)
    try:
        scorer: Scorer = SCORERS.whole(place)
    except InputError as error:
        if place != name:
            raise
        raise InputError(f"{path}: {error.found}", error.remedy) from error
    if not all(isinstance(said, str) for said in (scorer.name, scorer.kinds, scorer.needs)):
        raise InputError(f"{name} does not say its name, kinds and needs as texts", "Hold it to check_scorer")
    if not NAMED.fullmatch(scorer.name):
        found = f"{name} calls itself {scorer.name[:60]!r}"
        raise InputError(found, "Give it a name of lower-case letters, digits and hyphens")
    if scorer.name in SCORERS.table and not SCORERS.ships(scorer):
        raise InputError(f"{name} calls itself {scorer.name!r}, as one of redteam's own", "Give it another name")
    if "language" not in scorer.kinds:
        raise InputError(f"{path}: {scorer.name!r} scores: {scorer.kinds}; these are questions", "Name another scorer")
    return scorer


def _refuse_unfit(scorers: Sequence[Scorer], rules: CapabilityFile, path: Path) -> None:
    """Refuses scorers that cannot be told apart, or that need what the rules do not give.

    Options by letter are for scorers that compare choices: a letter is no answer by itself. A further wording lists
    them where the prompt does, since the choices are the same. A task of lm-evaluation-harness has choices, and no
    premise.
    """
    for wording in rules.wordings:
        if _lists_options(wording) != _lists_options(rules.prompt):
            raise InputError(
                f"{path}: the prompt and the wording {wording[:60]!r} do not both list {{options}}",
                "List them in both, or in neither",
            )
    if len({scorer.name for scorer in scorers}) < len(scorers):
        raise InputError(f"{path}: two scorers have the name {scorers[-1].name!r}", "Give each a name of its own")
    for scorer in scorers:
        if _lists_options(rules.prompt) and "choices" not in scorer.needs:
            raise InputError(
                f"{path}: the prompt lists {{options}}, and {scorer.name!r} chooses none",
                "Leave {options} out of the prompt, or that scorer out of `scorer`",
            )
        if rules.asks_tasks and scorer.needs != "choices":
            raise InputError(
                f"{path}: tasks are scored by comparing their choices, {scorer.name!r} needs: {scorer.needs}",
                'Use scorer = "choice", which scores as their own harness does',
            )


def _premise(scorers: Sequence[Scorer], rules: CapabilityFile, path: Path) -> str | None:
    """Returns the prompt with nothing asked in it, if a scorer needs it.

    Every field is "N/A" (Zhao et al. 2021, arXiv 2102.09690).
    """
    asking = [scorer.name for scorer in scorers if "premise" in scorer.needs]
    if not asking:
        return None
    try:
        return rules.prompt.format_map(_Nothing())
    except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
        raise InputError(
            f"{path}: no premise can be made of the prompt ({error!r})",
            f"Leave {asking[0]!r} out of `scorer`, or name whole fields without a format",
        ) from error


class _Nothing(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return "N/A"


def _lists_options(template: str) -> bool:
    with suppress(ValueError):  # what is wrong with a template the rows tell, with their line
        return any(name == FIELD for _, name, _, _ in Formatter().parse(template))
    return False


def _drawn(rules: CapabilityFile, items: tuple[Item, ...]) -> tuple[Item, ...]:
    """Returns the items of at most so many groups as the rules allow."""
    groups = sorted({item.group for item in items})
    if rules.most is None or len(groups) <= rules.most:
        return items
    kept = set(random.Random(f"most {rules.seed}").sample(groups, rules.most))
    return tuple(item for item in items if item.group in kept)


def _items(rules: CapabilityFile, toml: Path, tasks: Tasks, sources: Sequence[str]) -> tuple[Item, ...]:
    """Returns the items of the sources, one per distinct question of a group.

    A question asked twice counts once, however it is written, and groups that share one are one. A group whose
    questions contradict each other (two people of one name, say) is left out whole: no answer to it is right.
    """
    by_group: dict[str, dict[str, Item]] = defaultdict(dict)
    contradicted: set[str] = set()
    read = [item for source in sources for item in _read(rules, toml, tasks, source)]
    for item in together(read):
        known = by_group[item.group].setdefault(normal_form(item.prompt), item)
        if known.completion != item.completion:
            contradicted.add(item.group)
    if 2 * len(contradicted) > len(by_group):
        raise InputError(
            f"{toml}: {len(contradicted)} of {len(by_group)} facts contradict themselves",
            "Let the prompt name all that the answer depends on",
        )
    return tuple(item for group, items in by_group.items() if group not in contradicted for item in items.values())


def _read(rules: CapabilityFile, toml: Path, tasks: Tasks, source: str) -> Iterator[Item]:
    if source.startswith(TASK):
        yield from tasks.items(source)
        return
    place = source if source.startswith(START) else expand_path(source, toml)
    for line, row in dataset_rows(place) if isinstance(place, str) else rows_of(place):
        yield _item(rules, row, source, f"{place}:{line}")


def _item(rules: CapabilityFile, row: Row, file: str, where: str) -> Item:
    assert rules.group is not None  # there are rows
    group = group_of(rules.group, row, where)
    choices, answer = _answers(rules, row, where)
    fields = {**row, "group": group, FIELD: MARK}
    return Item(
        id=f"{file}:{where.rpartition(':')[2]}",
        group=group,
        prompt=_filled(rules.prompt, fields, "prompt", where),
        choices=choices,
        answer=answer,
        chat=rules.chat,
        wordings=tuple(_filled(wording, fields, "wordings", where) for wording in rules.wordings),
    )


def _filled(template: str, fields: Row, key: str, where: str) -> str:
    """Returns a template with a row's fields in it; `key` is what it stands under in the capability file."""
    try:
        text = template.format_map(fields)
    except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
        raise InputError(
            f"{where}: the {key.removesuffix('s')} template fails ({error!r})", "Use fields of the rows and {group}"
        ) from error
    if not text.strip():
        raise InputError(f"{where}: the {key.removesuffix('s')} is empty", f"Correct `{key}` in the capability file")
    return text


def _answers(rules: CapabilityFile, row: Row, where: str) -> tuple[tuple[str, ...], int]:
    """Returns the distinct choices and which is right; the right answer alone where nothing is chosen."""
    given = field_of(row, rules.answer, where)
    if rules.choices is None:
        if isinstance(given, bool) or not isinstance(given, str | int | float):
            raise InputError(f"{where}: {rules.answer!r} is no text", "Give the right answer as text or as a number")
        if not str(given).strip():
            raise InputError(f"{where} has an empty answer", "A model cannot be asked how likely nothing is")
        return (str(given),), 0
    offered = _choices(rules, row, where)
    right = offered[_answer(rules, given, offered, where)]
    choices = tuple(dict.fromkeys(offered))
    if len(choices) < 2:
        raise InputError(f"{where} has fewer than two different choices", "Give each question a wrong choice")
    if not all(choice.strip() for choice in choices):
        raise InputError(f"{where} has an empty choice", "A model cannot be asked how likely nothing is")
    if len(choices) > len(LETTERS) and _lists_options(rules.prompt):
        raise InputError(f"{where} has {len(choices)} choices, there are {len(LETTERS)} letters", "List fewer")
    return choices, choices.index(right)


def _choices(rules: CapabilityFile, row: Row, where: str) -> list[str]:
    """Returns the choices that one field lists, or several hold or list; empty ones of several are left out."""
    if isinstance(rules.choices, list):
        held = [field_of(row, name, where) for name in rules.choices]
        several = [str(choice) for part in held for choice in (part if isinstance(part, list) else [part])]
        return [choice for choice in several if choice.strip()]
    assert rules.choices is not None
    offered = field_of(row, rules.choices, where)
    if not isinstance(offered, list):
        raise InputError(f"{where}: {rules.choices!r} is no list", "Or name the fields that hold a choice each")
    return [str(choice) for choice in offered]


def _answer(rules: CapabilityFile, given: Any, listed: list[str], where: str) -> int:
    """Returns the index of the right choice, which may be given as that, as its letter, or as its text.

    Raises:
        InputError: it is none of these, or could be two of them.
    """
    readings = {given} if type(given) is int else set()
    if isinstance(given, str):
        text = given.strip()
        readings |= {number for number, choice in enumerate(listed) if choice.strip() == text}
        readings |= {int(text)} if text.isdecimal() and len(text) < 4 else set()
        readings |= {LETTERS.index(text)} if len(text) == 1 and text in LETTERS else set()
    found = {listed[reading]: reading for reading in readings if 0 <= reading < len(listed)}
    if len(found) > 1:
        raise InputError(
            f"{where}: {rules.answer!r} is {given!r}, a choice and the place of another",
            "Give the place as a number",
        )
    if not found:
        raise InputError(
            f"{where}: {rules.answer!r} is no index into the choices",
            "Give its place counted from 0, its letter, or the choice itself",
        )
    return next(iter(found.values()))
