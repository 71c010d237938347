"""What docs/capabilities.md shows works as it shows it, and it names every key."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from lm_eval.tasks import TaskManager
from tiny_hub import offline_cache, put_into_cache

from redteam.capabilities.files import load_capability
from redteam.config.capability import (
    TASK,
    CapabilityFile,
    ClassesFile,
    GroupRule,
    SamplesFile,
    Shares,
    TaskRules,
    TextsFile,
    code_in,
    read_capability_file,
)
from redteam.registry import SCORERS

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "capabilities.md").read_text(encoding="utf-8")


def block(language: str, containing: str) -> str:
    (found,) = [text for text in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if containing in text]
    return found


def capability_file(folder: Path, name: str) -> Path:
    """The page's example of that name."""
    (folder / "capability.toml").write_text(block("toml", f'name = "{name}"'), encoding="utf-8")
    return folder / "capability.toml"


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def asked(prefix: str, count: int) -> list[dict[str, Any]]:
    return [
        {"question": f"{prefix} {n}?", "choices": ["yes", "no"], "answer": n % 2, "topic": f"{prefix}{n // 2}"}
        for n in range(count)
    ]


def test_every_example_is_tried() -> None:
    names = re.findall(r'^name = "(\w+)"', PAGE, re.MULTILINE)
    language = ["birthdays", "virology", "biology", "chemistry", "viruses", "authors", "ports", "letters"]
    assert names == [*language, "cats", "toxicity", "withdrawn"]


def test_rows_of_files(tmp_path: Path) -> None:
    path = capability_file(tmp_path, "birthdays")
    row = json.loads(re.search(r"# (\{.*\})", path.read_text()).group(1))  # type: ignore[union-attr]
    people = [row | {"about": {"person": f"p{n}"}, "answer": n % 2} for n in range(30)]
    (tmp_path / "forget.jsonl").write_text(lines(people[:20]))
    pq.write_table(pa.Table.from_pylist(people[20:28]), tmp_path / "retain.parquet")
    (tmp_path / "more.jsonl").write_text(lines(people[28:]))
    capability = load_capability(path)
    assert [len(part) for part in (capability.attack, capability.select, capability.certify)] == [8, 4, 8]
    assert len(capability.retain + capability.utility) == 10
    assert capability.attack[0].prompt == f"When? {capability.attack[0].group} was born in"


def test_a_data_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tmp_path / "repository"
    card = "---\nconfigs:\n" + "".join(
        f"- config_name: {config}\n  data_files:\n  - split: test\n    path: {config}.parquet\n"
        for config in ("virology", "history")
    )
    for config in ("virology", "history"):
        repository.mkdir(exist_ok=True)
        datasets.Dataset.from_list(asked(config, 10)).to_parquet(repository / f"{config}.parquet")
    (repository / "README.md").write_text(card + "---\n")
    put_into_cache(offline_cache(tmp_path / "cache", monkeypatch), repository)
    capability = load_capability(capability_file(tmp_path, "virology"))
    assert len(capability.forget) == len(capability.retain + capability.utility) == 10
    assert re.fullmatch(r"virology \d\?\nAnswer:", capability.attack[0].prompt)


def test_tasks_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, task = capability_file(tmp_path, "chemistry"), block("yaml", "task: acids")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "acids.yaml").write_text(task)
    (tmp_path / "tasks" / "salts.yaml").write_text(task.replace("acids", "salts"))
    for name, count in (("acids", 12), ("salts", 6), ("more", 4)):
        (tmp_path / f"{name}.jsonl").write_text(lines(asked(name, count)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    capability = load_capability(path)
    assert {item.group for item in capability.forget} == {f"acids{n}" for n in range(6)}
    assert len(capability.retain + capability.utility) == 10
    assert re.fullmatch(r"Question: acids \d+\?\nAnswer:", capability.attack[0].prompt)
    assert list(code_in(path)) == [tmp_path / "tasks"]
    assert yaml.safe_load(task)["output_type"] == "multiple_choice"


def test_tasks_of_the_harness_need_no_more_than_their_names(tmp_path: Path) -> None:
    rules = read_capability_file(capability_file(tmp_path, "biology"))
    assert isinstance(rules, CapabilityFile)
    assert all(source.startswith(TASK) for source in (*rules.forget, *rules.retain))


@pytest.mark.slow
def test_they_are_tasks_of_multiple_choices(tmp_path: Path) -> None:
    rules = read_capability_file(capability_file(tmp_path, "biology"))
    assert isinstance(rules, CapabilityFile)
    index = TaskManager().task_index
    for source in (*rules.forget, *rules.retain):
        assert index[source.removeprefix(TASK)].cfg["output_type"] == "multiple_choice"


def test_further_wordings(tmp_path: Path) -> None:
    path = capability_file(tmp_path, "ports")
    row = json.loads(re.search(r"# (\{.*\})", path.read_text()).group(1))  # type: ignore[union-attr]
    for name in ("forget", "retain"):
        people = [row | {"person": f"{name} {n}", "answer": n % 2} for n in range(20)]
        (tmp_path / f"{name}.jsonl").write_text(lines(people))
    item = load_capability(path).certify[0]
    assert item.prompt == f"{item.group} sails from"
    assert item.wordings == (f"sails from {item.group}", f"Where does {item.group} sail from? From")


def test_classes(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, size=(1400, 4, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", x=pictures, y=np.arange(1400) % 10)
    capability = load_capability(capability_file(tmp_path, "cats"))
    assert {item.answer for item in capability.forget} == {3}
    assert len(capability.utility) == len(capability.negatives) == 315
    assert capability.chance == 0.01


def keys_of(table: str) -> set[str]:
    """The keys in the first column of a table."""
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return {key for cell in cells for key in re.findall(r"`([\w.]+)`", cell)}


def test_every_key_is_in_a_table() -> None:
    _, keys, _, *_ = PAGE.split("\n## ")
    nested = {"group": GroupRule, "tasks": TaskRules, "splits": Shares}
    fields = {
        key
        for name in CapabilityFile.model_fields
        for key in ([f"{name}.{part}" for part in nested[name].model_fields] if name in nested else [name])
    }
    assert keys_of(keys) == fields
    shares = {f"splits.{part}" for part in Shares.model_fields}
    known = {*ClassesFile.model_fields, *TextsFile.model_fields, *shares} - {"splits"}
    classifiers, samples = PAGE.split("## Classifiers")[1].split("## Samples")
    assert keys_of(classifiers) == known
    assert keys_of(samples) == {*SamplesFile.model_fields, *shares} - {"splits"}


def test_every_scorer_is_in_the_table() -> None:
    table = PAGE.split("\n## Scorers")[1].split("\n### ")[0]
    assert keys_of(table) == {"scorer", *SCORERS.table}


def test_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = capability_file(tmp_path, "viruses")
    monkeypatch.setenv("PAPERS", str(tmp_path))
    for name in ("forget", "retain"):
        (tmp_path / f"{name}.jsonl").write_text(lines(asked(name, 10)))
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "some.txt").write_text("Of viruses.")
    (tmp_path / "abstracts.jsonl").write_text(lines([{"text": "Of bacteria."}]))
    assert load_capability(path).corpus == ("Of viruses.", "Of bacteria.")


def test_questions_without_wrong_answers(tmp_path: Path) -> None:
    path = capability_file(tmp_path, "authors")
    for name in ("forget", "retain"):
        rows = [{"question": f"Who {name} {n}?", "answer": f"It was {n}.", "author": f"{name} {n}"} for n in range(10)]
        (tmp_path / f"{name}.jsonl").write_text(lines(rows))
    capability = load_capability(path)
    assert [scorer.name for scorer in capability.scorers] == ["f1", "cloze"]
    assert capability.attack[0].chat
    assert capability.attack[0].completion.startswith("It was")


def test_options_by_letter(tmp_path: Path) -> None:
    path = capability_file(tmp_path, "letters")
    for name in ("forget", "retain"):
        (tmp_path / f"{name}.jsonl").write_text(lines(asked(name, 10)))
    capability = load_capability(path)
    assert {item.completion for item in capability.forget} == {"A", "B"}
    assert re.fullmatch(r"forget \d\?\nA\. .+\nB\. .+\nAnswer:", capability.attack[0].prompt)


def test_classes_of_texts(tmp_path: Path) -> None:
    path = capability_file(tmp_path, "toxicity")
    rows = [{"comment": f"comment {n}", "class": ("insult", "threat", "none")[n % 3]} for n in range(1900)]
    (tmp_path / "comments.jsonl").write_text(lines(rows))
    capability = load_capability(path)
    assert {item.completion for item in capability.forget} == {"insult"}


def test_samples(tmp_path: Path) -> None:
    path, rows = capability_file(tmp_path, "withdrawn"), np.arange(500)
    points = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    np.savez(tmp_path / "train.npz", x=points, y=rows % 10, withdrawn=rows < 40, held_out=rows[40:300])
    capability = load_capability(path)
    assert capability.of_samples
    assert len(capability.forget) == 40


def test_every_source_names_its_tests() -> None:
    table = PAGE.split("\n## Sources")[1].split("\n### ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == 5
    for row in rows:
        named = re.findall(r"`(tests/[a-z_/]+\.py)`", row)
        assert named
        assert all((ROOT / name).is_file() for name in named), row
