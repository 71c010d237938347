"""Tasks of lm-evaluation-harness as people write their own: YAML beside JSON lines, nothing to download."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from redteam.capabilities.harness import Tasks
from redteam.capabilities.items import Item
from redteam.config.capability import GroupRule, TaskRules

SUBJECTS = ("water", "a cell", "the sun", "iron", "a virus", "salt")
DOCS = [
    {
        "question": f"What is known of {SUBJECTS[n % 6]}, number {n}? ",
        "choices": [f"it is {n}", "nothing much", f"that {SUBJECTS[n % 5]} is old"][: 2 + n % 2],
        "answer": n % 2,
        "topic": f"topic {n // 3}",
        "right": "nothing much" if n % 2 else f"it is {n}",
    }
    for n in range(12)
]


def write_docs(place: Path, docs: Sequence[dict[str, Any]] = DOCS) -> None:
    """The docs of all tasks of a directory."""
    (place / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))


def write_task(place: Path, name: str, config: dict[str, Any], raw: str = "") -> None:
    """A task; `config` says what it has of its own, and `raw` is YAML that `yaml` would not write."""
    whole = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(place / "docs.jsonl")}, "cache_dir": str(place / "cache")},
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}],
        **config,
    }
    given = {key: value for key, value in whole.items() if value is not None}
    (place / f"{name}.yaml").write_text(yaml.safe_dump(given) + raw)


def items_of(folder: Path, name: str, group: GroupRule | None = None) -> list[Item]:
    """The items of a task in a directory."""
    return list(Tasks(TaskRules(include=str(folder), group=group), folder / "c.toml").items(f"lm_eval:{name}"))
