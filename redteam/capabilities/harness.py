"""Items of the multiple-choice tasks of lm-evaluation-harness, asked in its own words and without examples before.

The harness compares the likelihoods of continuations of a context, both as its own code makes them of a task's doc. An
item holds the same texts. Source: EleutherAI, lm-evaluation-harness 0.4.13, `lm_eval/api/task.py`, `api/model.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

from redteam.capabilities.grouping import group_of
from redteam.capabilities.items import Item
from redteam.capabilities.libraries import library, quiet_datasets
from redteam.config.capability import TASK, TaskRules
from redteam.config.files import expand_path
from redteam.errors import InputError, one_line

MOST_DOCS = 1_000_000
OTHERS = "Name a task of multiple choices with one right answer each"


class Tasks:
    """The tasks that a capability file can name: the harness's, and those that it includes."""

    def __init__(self, rules: TaskRules, toml: Path) -> None:
        self.rules = rules
        self.include = None if rules.include is None else expand_path(rules.include, toml)

    def items(self, source: str) -> Iterator[Item]:
        """Yields an item for every doc of a task, or of all tasks of a group or tag.

        Raises:
            InputError: there is no such task, it or its data cannot be loaded, it asks something else than one right
                choice of several, or nothing of ours can stand for what the harness compares.
        """
        for task, docs in self._loaded(source.removeprefix(TASK)):
            _refuse_other(task)
            if len(docs) > MOST_DOCS:
                raise InputError(f"{task.task_name} has {len(docs)} docs", f"Name one with at most {MOST_DOCS}")
            for number, doc in enumerate(docs):
                yield self._item(task, doc, number)

    def _item(self, task: Any, doc: Any, number: int) -> Item:
        name = f"{TASK}{task.task_name}:{number}"
        try:
            context, continuations = _requests(task, doc, number)
            offered, right = list(task.doc_to_choice(doc)), task.doc_to_target(doc)
        except (Exception, SystemExit) as error:  # of templates, and of functions that a task names
            raise InputError(f"{name} cannot be asked ({_said(error)})", "Correct the task") from error
        prompt, choices = _divided(context, continuations, name)
        if isinstance(right, str) and right in offered:
            right = offered.index(right)
        if not isinstance(right, int) or not 0 <= right < len(choices):
            raise InputError(f"{name} says that {str(right)[:60]!r} of its choices is right", OTHERS)
        distinct = tuple(dict.fromkeys(choices))
        if len(distinct) < 2 or not prompt.strip() or not all(choice.strip() for choice in distinct):
            raise InputError(f"{name} has an empty prompt or choice, or fewer than two different choices", OTHERS)
        group = name if self.rules.group is None else group_of(self.rules.group, doc, name)
        return Item(id=name, group=group, prompt=prompt, choices=distinct, answer=distinct.index(choices[right]))

    def _loaded(self, name: str) -> list[tuple[Any, Any]]:
        """Returns the tasks of that name, and their docs. Not of that path: YAML may name functions, and so is code."""
        manager = self._own if self._own is not None and _is_task(self._own, name) else self._all
        if name not in manager.task_index:
            near = get_close_matches(name, manager.all_tasks, n=1)
            place = "" if self.include is None else f", nor can it read one in {self.include}"
            raise InputError(
                f"lm-evaluation-harness has no task {name!r}{place}",
                f"Did you mean {near[0]!r}?" if near else "List them: lm-eval ls tasks",
            )
        try:
            with quiet_datasets():
                return [(task, task.eval_docs) for task in manager.load(name)["tasks"].values()]
        except (Exception, SystemExit) as error:  # of YAML, of functions in it, of the data's library, of the network
            raise InputError(f"task {name} cannot be loaded ({_said(error)})", "Check the task and its data") from error

    @cached_property
    def _own(self) -> Any | None:
        """The tasks of the user alone, which take no time to find; what is the harness's takes seconds."""
        if self.include is None:
            return None
        if not self.include.is_dir():
            raise InputError(f"there is no directory of tasks {self.include}", "Correct `include` under [tasks]")
        return _manager()(include_path=str(self.include), include_defaults=False)

    @cached_property
    def _all(self) -> Any:
        with quiet_datasets():
            return _manager()(include_path=None if self.include is None else str(self.include))


def _manager() -> Any:
    library("datasets", "lm-eval", "a task of lm-evaluation-harness")
    return library("lm_eval.tasks", "lm-eval", "a task of lm-evaluation-harness").TaskManager


def _is_task(manager: Any, name: str) -> bool:
    return name in manager.task_index and manager.task_index[name].kind.name == "TASK"


def _refuse_other(task: Any) -> None:
    """Refuses what is not scored by which of several continuations of one context is the likeliest."""
    why = next(
        (
            why
            for why, so in (
                (f"asks for {task.OUTPUT_TYPE}, not for one of several choices", task.OUTPUT_TYPE != "multiple_choice"),
                ("is written in Python", not hasattr(task, "multiple_input")),
                ("has a prompt for each choice", getattr(task, "multiple_input", 0)),
                ("has several right choices", getattr(task, "multiple_target", 0)),
                ("shows pictures or plays sounds", getattr(task, "MULTIMODAL", False)),
                ("is scored by a function of its own", callable(task.config.process_results)),
            )
            if so
        ),
        None,
    )
    if why:
        raise InputError(f"task {task.task_name} {why}", OTHERS)


def _requests(task: Any, doc: Any, number: int) -> tuple[str, list[str]]:
    """Returns the context and the continuations whose likelihoods the harness asks a model for."""
    context = task.fewshot_context(doc, num_fewshot=0, gen_prefix=task.doc_to_prefix(doc))
    made = task.construct_requests(doc, context, metadata=(task.task_name, number, 1))
    # A metric of mutual information asks for each choice without the context as well.
    pairs = [request.args for request in made][: len(task.doc_to_choice(doc))]
    return context, [continuation for _, continuation in pairs]


def _divided(context: str, continuations: Sequence[str], name: str) -> tuple[str, tuple[str, ...]]:
    """Returns the prompt and the choices that, joined by a space, are the same texts.

    The harness counts spaces at the end of a context to what follows, so the prompt ends before them if it can.
    """
    texts = [context + continuation for continuation in continuations]
    for prompt in (context.rstrip(), context):
        if all(text.startswith(f"{prompt} ") for text in texts):
            return prompt, tuple(text[len(prompt) + 1 :] for text in texts)
    raise InputError(
        f"{name} puts no space between its context and {continuations[0][:60]!r}",
        "A choice is read after a space: name a task that does so",
    )


def _said(error: BaseException) -> str:
    return one_line(f"{type(error).__name__}: {error}")[:200]
