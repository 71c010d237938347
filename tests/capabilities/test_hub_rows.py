"""Data sets of the hub, out of a cache as its client lays it out, and read by the real library; nothing is fetched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_hub import COMMIT, OTHER, offline_cache, put_into_cache

from redteam.capabilities.files import load_capability
from redteam.capabilities.hub_rows import WANTED, dataset_rows, folder_rows
from redteam.errors import InputError

ADDRESS = f"hf://datasets/org/quiz@{COMMIT}?config=people&split=test"
CARD = """---
configs:
- config_name: people
  data_files:
  - split: test
    path: people/test-*.parquet
  - split: validation
    path: people/validation.parquet
- config_name: places
  data_files: places.parquet
---
# Quiz
"""


def rows(start: int, count: int) -> list[dict[str, Any]]:
    return [
        {"question": "when", "about": {"person": f"p{n}"}, "choices": ["1", "2", f"{n}"], "answer": n % 3}
        for n in range(start, start + count)
    ]


def write_repository(folder: Path) -> Path:
    """A repository as `Dataset.to_parquet` writes its files, with a card that says which is what."""
    (folder / "people").mkdir(parents=True)
    answers = datasets.ClassLabel(names=["first", "second", "third"])
    whole = datasets.Dataset.from_list(rows(0, 20)).cast_column("answer", answers)
    for number in range(2):
        whole.shard(2, number, contiguous=True).to_parquet(folder / "people" / f"test-{number}-of-2.parquet")
    datasets.Dataset.from_list(rows(20, 10)).to_parquet(folder / "people" / "validation.parquet")
    datasets.Dataset.from_list([{"q": "where", "A": "x", "B": "y", "answer": "B"}]).to_parquet(
        folder / "places.parquet"
    )
    (folder / "README.md").write_text(CARD)
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return write_repository(tmp_path / "repository")


@pytest.fixture
def cache(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hidden directory, as the client's is."""
    place = offline_cache(tmp_path / ".cache" / "hub", monkeypatch)
    put_into_cache(place, repository)
    return place


def refusal(address: str) -> str:
    with pytest.raises(InputError) as caught:
        list(dataset_rows(address))
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize(("config", "split"), [("people", "test"), ("people", "validation"), ("places", "train")])
def test_the_rows_are_those_of_the_library(repository: Path, tmp_path: Path, config: str, split: str) -> None:
    wanted = list(datasets.load_dataset(str(repository), config, split=split, cache_dir=str(tmp_path / "c")))
    assert wanted
    assert list(folder_rows(repository, "it", config=config, split=split)) == list(enumerate(wanted))


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_files_without_a_card(tmp_path: Path, form: str) -> None:
    """Splits are told by the files' names, as the library does."""
    folder = tmp_path / "plain"
    folder.mkdir()
    for split, count in (("train", 3), ("test", 5)):
        asked = [{"question": f"{split} {n}", "A": "x", "B": "y", "answer": "B"} for n in range(count)]
        made = datasets.Dataset.from_list(asked)
        made.to_json(folder / f"{split}.jsonl") if form == "jsonl" else made.to_csv(folder / f"{split}.csv")
    wanted = [{"question": f"test {n}", "A": "x", "B": "y", "answer": "B"} for n in range(5)]
    assert list(folder_rows(folder, "it", split="test")) == list(enumerate(wanted))


def test_a_cached_revision_is_read(cache: Path) -> None:
    assert [row for _, row in dataset_rows(ADDRESS)] == rows(0, 20)
    validation = f"hf://datasets/org/quiz@{COMMIT}?split=validation&config=people"
    assert [row for _, row in dataset_rows(validation)] == rows(20, 10)


def test_it_is_the_revision_that_was_asked_for(cache: Path, repository: Path) -> None:
    """The library by itself takes, while offline, whatever it has seen last."""
    datasets.Dataset.from_list(rows(99, 1)).to_parquet(repository / "people" / "validation.parquet")
    put_into_cache(cache, repository, OTHER)
    address = ADDRESS.replace("split=test", "split=validation")
    assert len(list(dataset_rows(address))) == 10
    assert [row["about"]["person"] for _, row in dataset_rows(address.replace(COMMIT, OTHER))] == ["p99"]
    assert "quiz cannot be had from the hub" in refusal(address.replace(COMMIT, "a" * 40))


def test_nothing_is_copied_or_said(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: Any) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "prepared")
    assert len(list(dataset_rows(ADDRESS))) == 20
    assert all(file.suffix == ".lock" for file in (tmp_path / "prepared").rglob("*"))
    assert capfd.readouterr() == ("", "")


def test_a_capability_names_fields_of_the_rows(cache: Path, tmp_path: Path) -> None:
    retain = ADDRESS.replace("split=test", "split=validation")
    (tmp_path / "c.toml").write_text(
        f'name = "quiz"\nprompt = "{{question}} {{group}}"\ngroup = {{ field = "about.person" }}\n'
        f'forget = ["{ADDRESS}"]\nretain = ["{retain}", "more.jsonl"]\n'
    )
    (tmp_path / "more.jsonl").write_text(json.dumps(rows(50, 1)[0]) + "\n")
    capability = load_capability(tmp_path / "c.toml")
    assert {item.group for item in capability.forget} == {f"p{n}" for n in range(20)}
    assert len(capability.retain + capability.utility) == 11
    item = next(item for item in capability.forget if item.group == "p4")
    assert (item.id, item.prompt, item.completion) == (f"{ADDRESS}:4", "when p4", "2")


def test_what_identifies_a_capability_is_what_was_read(cache: Path, repository: Path, tmp_path: Path) -> None:
    rules = (
        f'name = "quiz"\nprompt = "{{about[person]}}"\ngroup = {{ field = "about.person" }}\nforget = ["{ADDRESS}"]\n'
        f'retain = ["{ADDRESS.replace("test", "validation")}"]\n'
    )
    (tmp_path / "c.toml").write_text(rules)
    before = load_capability(tmp_path / "c.toml").sha256
    assert load_capability(tmp_path / "c.toml").sha256 == before
    changed = [row | {"answer": (row["answer"] + 1) % 3} for row in rows(20, 10)]
    datasets.Dataset.from_list(changed).to_parquet(repository / "people" / "validation.parquet")
    shutil.rmtree(cache)
    put_into_cache(cache, repository)
    assert load_capability(tmp_path / "c.toml").sha256 != before


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("hf://org/quiz@main?split=test", "is no address of a data set"),
        ("hf://datasets/quiz?split=test", "is no address of a data set"),
        ("hf://datasets/../..?split=test", "is no address of a data set"),
        ("hf://datasets/org/quiz/test.parquet", "is no address of a data set"),
        ("hf://datasets/org/quiz?split=test", "names no commit"),
        ("hf://datasets/org/quiz@main?split=test", "names no commit"),
        (f"hf://datasets/org/quiz@{COMMIT[:7]}?split=test", "names no commit"),
        (f"hf://datasets/org/quiz@{COMMIT}", "does not say which split"),
        (f"hf://datasets/org/quiz@{COMMIT}?config=people", "does not say which split"),
        (f"hf://datasets/org/quiz@{COMMIT}?split=test&split=train", "does not say which split"),
        (f"hf://datasets/org/quiz@{COMMIT}?split=", "does not say which split"),
        (f"hf://datasets/org/quiz@{COMMIT}?split=test&trust_remote_code=true", "or says more"),
        (f"hf://datasets/org/quiz@{COMMIT}?split=none&config=people", "cannot be read"),
        (f"hf://datasets/org/quiz@{COMMIT}?split=test&config=none", "cannot be read"),
        (f"hf://datasets/org/quiz@{COMMIT}?split=test", "Config name is missing"),
        (f"hf://datasets/org/other@{COMMIT}?split=test", "other cannot be had from the hub"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(cache: Path, address: str, says: str) -> None:
    assert says in refusal(address)


def test_a_repository_that_is_a_program_is_refused_and_not_run(cache: Path, tmp_path: Path) -> None:
    """The library itself refuses a script only where the directory is called like it."""
    program = cache / "datasets--org--quiz" / "snapshots" / COMMIT / "quiz.py"
    program.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert "org/quiz is a program, quiz.py" in refusal(ADDRESS)
    assert not (tmp_path / "ran").exists()


def test_files_that_are_large_in_memory_are_refused(cache: Path) -> None:
    pq.write_table(pa.table({"t": pa.nulls(50_000_000, pa.int8())}), cache.parent / "bomb.parquet")
    link = cache / "datasets--org--quiz" / "snapshots" / COMMIT / "people" / "test-1-of-2.parquet"
    shutil.copy(cache.parent / "bomb.parquet", link.resolve())
    assert "says that it holds 100000000 rows and values" in refusal(ADDRESS)


@pytest.mark.parametrize("content", [b"PAR1", b"<html>", b""])
def test_damaged_files_are_refused(cache: Path, content: bytes) -> None:
    link = cache / "datasets--org--quiz" / "snapshots" / COMMIT / "people" / "test-1-of-2.parquet"
    link.resolve().write_bytes(content)
    assert "is no readable Parquet file" in refusal(ADDRESS)


def test_a_cache_that_has_only_some_of_the_files(cache: Path, repository: Path, tmp_path: Path) -> None:
    """The card that `push_to_hub` writes says how many rows there are."""
    said = "dataset_info:\n  config_name: people\n  splits:\n  - name: test\n    num_bytes: 1\n    num_examples: 20\n"
    card = cache / "datasets--org--quiz" / "snapshots" / COMMIT / "README.md"
    card.resolve().write_text(CARD.replace("configs:", said + "configs:"))
    assert len(list(dataset_rows(ADDRESS))) == 20
    (card.parent / "people" / "test-1-of-2.parquet").unlink()
    assert "has 10 rows, its card says 20" in refusal(ADDRESS)


def test_rows_are_counted(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redteam.capabilities.hub_rows.MOST_ROWS", 20)
    assert len(list(dataset_rows(ADDRESS))) == 20
    monkeypatch.setattr("redteam.capabilities.hub_rows.MOST_ROWS", 19)
    assert "has more than 19 rows" in refusal(ADDRESS)


def test_only_data_are_fetched_and_the_script_that_would_show_a_program(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def download(name: str, **how: Any) -> str:
        asked.update(how, name=name)
        return str(repository)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert len(list(dataset_rows(ADDRESS))) == 20
    wanted = ["README.md", ".huggingface.yaml", "quiz.py", *WANTED]
    assert asked == {"name": "org/quiz", "repo_type": "dataset", "revision": COMMIT, "allow_patterns": wanted}
    assert not any(pattern.endswith(("*", ".py", ".pkl", ".pt", ".zip")) for pattern in WANTED)


def test_without_the_library_the_extra_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    assert "needs datasets, which is not installed. pip install 'unlearning-redteam[datasets]'" in refusal(ADDRESS)
