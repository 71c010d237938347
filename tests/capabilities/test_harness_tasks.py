"""Which tasks of lm-evaluation-harness a capability may name, what becomes of them, and what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lm_eval.tasks
import pytest
import yaml
from run_redteam import redteam
from tiny_harness import DOCS, items_of, write_docs, write_task

from redteam.capabilities.files import load_capability
from redteam.capabilities.harness import Tasks
from redteam.capabilities.items import overlapping_groups
from redteam.config.capability import GroupRule, TaskRules, code_in
from redteam.config.request import RunRequest
from redteam.errors import InputError
from redteam.suite.inputs import resolve_one

TOML = """\
name = "quiz"
forget = ["lm_eval:quiz"]
retain = ["lm_eval:other"]

[tasks]
include = "tasks"
"""
OTHERS = [doc | {"question": f"What else, {n}?", "topic": f"topic of {n}"} for n, doc in enumerate(DOCS)]


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """A capability of two tasks, of which one has a function; every doc of a topic has its neighbours'."""
    for name, docs in (("tasks", DOCS), ("tasks/more", OTHERS)):
        (tmp_path / name).mkdir()
        write_docs(tmp_path / name, docs)
    write_task(tmp_path / "tasks", "quiz", {})
    write_task(tmp_path / "tasks" / "more", "other", {}, "process_docs: !function mine.without_the_last\n")
    (tmp_path / "tasks" / "more" / "mine.py").write_text(
        "def without_the_last(docs):\n    return docs.select(range(len(docs) - 1))\n"
    )
    (tmp_path / "capability.toml").write_text(TOML)
    return tmp_path / "capability.toml"


def refusal(call: Callable[..., Any], *given: Any) -> str:
    with pytest.raises(InputError) as caught:
        call(*given)
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_a_capability_of_tasks_needs_nothing_else(rules: Path) -> None:
    capability = load_capability(rules)
    assert len(capability.forget) == 12
    assert len(capability.retain + capability.utility) == 11  # the function of the task has left one out
    assert len({item.group for item in capability.forget}) == 12
    item = next(item for item in capability.forget if item.id == "lm_eval:quiz:1")
    assert (item.prompt, item.choices, item.completion) == (
        DOCS[1]["question"].rstrip(),
        tuple(f" {choice}" for choice in DOCS[1]["choices"]),  # the question ends in a space, which the harness keeps
        " nothing much",
    )
    assert load_capability(rules).sha256 == capability.sha256


def test_a_field_of_the_docs_groups_them(rules: Path) -> None:
    rules.write_text(TOML + 'group = { field = "topic", pattern = "topic (.+)" }\n')
    capability = load_capability(rules)
    assert {item.group for item in capability.forget} == {"0", "1", "2", "3"}
    assert not overlapping_groups([capability.attack, capability.select, capability.certify])
    rules.write_text(TOML + 'group = { field = "none" }\n')
    assert "lm_eval:quiz:0 has no field 'none'" in refusal(load_capability, rules)


def test_tasks_and_rows_in_one_capability(rules: Path) -> None:
    rows = [{"q": f"Where, {n}?", "who": f"p{n}", "choices": ["here", "there"], "answer": n % 2} for n in range(9)]
    (rules.parent / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mixed = TOML.replace('["lm_eval:other"]', '["rows.jsonl", "lm_eval:other"]')
    ask = 'prompt = "{q}"\ngroup = { field = "who" }\n'
    rules.write_text(ask + mixed)
    capability = load_capability(rules)
    names = {item.id.rpartition(":")[0] for item in capability.retain + capability.utility}
    assert names == {"rows.jsonl", "lm_eval:other"}
    rules.write_text(mixed)
    assert "Field required" in refusal(load_capability, rules)


def test_what_is_said_of_rows_where_there_are_none_is_refused(rules: Path) -> None:
    for line in ('prompt = "{q}"', 'group = { field = "topic" }', 'answer = "x"', 'choices = "x"'):
        rules.write_text(f"{line}\n{TOML}")
        assert f"{line.split()[0]!r} is for rows of files" in refusal(load_capability, rules)


def test_what_identifies_a_capability_is_what_was_asked(rules: Path) -> None:
    before = load_capability(rules).sha256
    write_docs(rules.parent / "tasks", [*DOCS[:-1], DOCS[-1] | {"answer": 0}])
    assert load_capability(rules).sha256 != before


def test_nothing_is_written_to_the_terminal(rules: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither when data are prepared nor when a function maps them."""
    (rules.parent / "tasks" / "more" / "mine.py").write_text(
        "def without_the_last(docs):\n    return docs.map(lambda doc: doc).filter(lambda doc: True)\n"
    )
    assert len(load_capability(rules).forget) == 12
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_group_of_tasks_is_all_of_them(rules: Path) -> None:
    group = {"group": "both", "task": ["quiz", "other"]}
    (rules.parent / "tasks" / "both.yaml").write_text(yaml.safe_dump(group))
    assert len(items_of(rules.parent / "tasks", "both")) == 23


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"output_type": "generate_until", "doc_to_choice": None}, "asks for generate_until"),
        ({"output_type": "loglikelihood", "doc_to_choice": None}, "asks for loglikelihood"),
        ({"doc_to_text": 1}, "has a prompt for each choice"),
        ({"doc_to_target": [0, 1]}, "has several right choices"),
        ({"process_results": "!function mine.score"}, "is scored by a function of its own"),
        ({"doc_to_image": "topic"}, "shows pictures"),
        ({"target_delimiter": "\n", "doc_to_text": "{{question.strip()}}"}, "no space between its context and '\\nit"),
        ({"target_delimiter": "", "doc_to_text": "{{question.strip()}}"}, "puts no space between"),
        ({"doc_to_text": "{{''}}"}, "has an empty prompt or choice"),
        ({"doc_to_choice": ["a"], "doc_to_target": 0}, "fewer than two different choices"),
        ({"doc_to_choice": ["a", " "], "doc_to_target": 0}, "has an empty prompt or choice"),
        ({"doc_to_target": 7}, "quiz cannot be loaded (IndexError"),
        ({"doc_to_target": "topic"}, "lm_eval:quiz:0 says that 'topic 0' of its choices is right"),
        ({"doc_to_target": "{{answer - 1}}"}, "lm_eval:quiz:0 says that '-1' of its choices is right"),
        ({"doc_to_text": "{{question"}, "quiz cannot be loaded (TemplateSyntaxError"),
        ({"doc_to_text": "{{question / 2}}"}, "quiz cannot be loaded (TypeError"),
        ({"doc_to_text": "{{1 // (answer - 1)}}"}, "lm_eval:quiz:1 cannot be asked (ZeroDivisionError"),
        ({"test_split": "none"}, "quiz cannot be loaded (KeyError"),
        ({"test_split": None}, "must have valid or test docs"),
        ({"dataset_path": "org/none", "dataset_kwargs": None}, "quiz cannot be loaded ("),
        ({"dataset_path": "none.py", "dataset_kwargs": None}, "scripts are no longer supported"),
        ({"metric_list": [{"metric": "none"}]}, "quiz cannot be loaded ("),
    ],
)  # fmt: skip
def test_what_cannot_be_scored_as_the_harness_does_is_refused(rules: Path, config: dict[str, Any], says: str) -> None:
    function = config.get("process_results")
    raw = "process_results: !function mine.score\n" if function else ""
    (rules.parent / "tasks" / "mine.py").write_text("def score(doc, results):\n    return {'acc': 1}\n")
    write_task(rules.parent / "tasks", "quiz", {} if function else config, raw)
    assert says in refusal(items_of, rules.parent / "tasks", "quiz")


def test_a_data_set_that_is_a_program_is_refused_and_not_run(rules: Path) -> None:
    """Even where the task asks that its code be trusted."""
    tasks = rules.parent / "tasks"
    (tasks / "program.py").write_text(f"open({str(tasks / 'ran')!r}, 'w')")
    program = {"dataset_path": str(tasks / "program.py"), "dataset_kwargs": {"trust_remote_code": True}}
    write_task(tasks, "quiz", program)
    assert "scripts are no longer supported" in refusal(items_of, tasks, "quiz")
    assert not (tasks / "ran").exists()


@pytest.mark.parametrize("code", ["raise SystemExit(3)", "import none_such", "1 / 0", "}"])
def test_functions_that_fail_are_said_in_one_line(rules: Path, code: str) -> None:
    (rules.parent / "tasks" / "more" / "mine.py").write_text(f"{code}\n")
    assert "task other cannot be loaded (" in refusal(load_capability, rules)


def test_a_function_that_ends_the_process_at_a_doc(rules: Path) -> None:
    tasks = rules.parent / "tasks"
    ask = "def ask(doc):\n    if '1' in doc['question']:\n        raise SystemExit(3)\n    return doc['question']\n"
    (tasks / "mine.py").write_text(ask)
    write_task(tasks, "quiz", {"doc_to_text": None}, "doc_to_text: !function mine.ask\n")
    assert "lm_eval:quiz:1 cannot be asked (SystemExit: 3)" in refusal(items_of, tasks, "quiz")


def test_a_directory_that_is_not_there(rules: Path) -> None:
    rules.write_text(TOML.replace('"tasks"', '"none"'))
    assert "there is no directory of tasks" in refusal(load_capability, rules)


def test_docs_are_counted(rules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redteam.capabilities.harness.MOST_DOCS", 11)
    assert "quiz has 12 docs" in refusal(load_capability, rules)


def test_without_the_harness_the_extra_is_named(rules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    assert "needs lm_eval, which is not installed. pip install 'unlearning-redteam[lm-eval]'" in refusal(
        load_capability, rules
    )


@pytest.mark.slow
def test_a_name_is_no_path(rules: Path) -> None:
    """The harness would open any YAML file that is named, and run the functions in it."""
    rules.write_text(TOML.replace("lm_eval:quiz", f"lm_eval:{rules.parent / 'tasks' / 'quiz.yaml'}"))
    assert "lm-evaluation-harness has no task" in refusal(load_capability, rules)


@pytest.mark.slow
def test_tasks_of_the_harness_are_found_and_their_data_asked_for() -> None:
    """All of its fourteen thousand are looked through, which takes seconds; there is no network to load one."""
    tasks = Tasks(TaskRules(), Path("capability.toml"))
    assert "Did you mean 'wmdp_bio'?" in refusal(list, tasks.items("lm_eval:wmdp_boi"))
    assert "task wmdp_bio cannot be loaded (" in refusal(list, tasks.items("lm_eval:wmdp_bio"))
    assert Path(tasks._all.task_index["wmdp_bio"].yaml_path).is_relative_to(Path(lm_eval.tasks.__file__).parent)


def test_code_of_the_user_is_said_to_be_run_before_it_is(rules: Path, untrained: Path) -> None:
    (rules.parent / "tasks" / "more" / "mine.py").write_text("import sys\nsys.exit(print('ran', file=sys.stderr))\n")
    assert list(code_in(rules)) == [rules.parent / "tasks"]
    done = redteam("attack", untrained, "--capability", rules, "--capability", rules, "--budget", "1")
    assert done.returncode == 2
    said = done.stderr.splitlines()
    assert said[0].endswith("/tasks holds tasks of yours, and functions that they name are run")
    assert said[1] == "ran"
    assert "task other cannot be loaded" in said[2]
    assert len(said) == 3


def test_without_tasks_of_the_user_nothing_is_said(rules: Path, untrained: Path) -> None:
    assert code_in(untrained.parent / "capability.toml") == {}
    rules.write_text('name = "x"\narrays = "a.npz"\nclasses = 2\nforget = [0]\nscorer = "choice"\n')
    assert code_in(rules) == {}


def test_code_that_a_manifest_leads_to_is_not_run(rules: Path, untrained: Path) -> None:
    """Whoever made a checkpoint chose what its manifest names; what --capability names, its user did."""
    folder = rules.parent
    for file in untrained.parent.glob("model*"):
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "tasks" / "more" / "mine.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    message = refusal(lambda: resolve_one(RunRequest(target=folder / "model.pt", budget=3)))
    assert "capability.toml brings code that would be run" in message
    assert not (folder / "ran").exists()
    assert "cannot be loaded" in refusal(
        lambda: resolve_one(RunRequest(target=folder / "model.pt", budget=3, capability=rules))
    )
    assert (folder / "ran").exists()


def test_a_rule_for_groups(rules: Path) -> None:
    items = items_of(rules.parent / "tasks", "quiz", GroupRule(field="topic"))
    assert [item.group for item in items] == [doc["topic"] for doc in DOCS]
