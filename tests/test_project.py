"""`redteam.toml` and the questions that write it: afterwards `redteam attack` needs no more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from run_redteam import ENVIRONMENT, ONE_PROBE
from tiny_texts import save_text_model, text_rows, tiny_text_model, write_texts

from redteam.access import Access
from redteam.capabilities.files import load_capability
from redteam.config.request import read_project, requested
from redteam.errors import InputError

QUICK = Path(__file__).with_name("quick_attack.py")


def redteam_in(folder: Path, *arguments: object, answers: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "redteam.cli", *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, input=answers, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=300
    )


def write(folder: Path, text: str) -> Path:
    path = folder / "redteam.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_paths_are_relative_to_the_file_and_names_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELD", "/data")
    text = """
        target = "model"
        capability = ["a.toml", "$HELD/b.toml"]
        original = "before"
        arch = "train.py:make"
        attacks = ["lora", "mine.py:Mine"]
        access = "activations"
        budget = 7
    """
    asked = read_project(write(tmp_path, text))
    assert asked.target == tmp_path / "model"
    assert asked.capability == (tmp_path / "a.toml", Path("/data/b.toml"))
    assert (asked.original, asked.reference) == (tmp_path / "before", ())
    assert asked.arch == f"{tmp_path}/train.py:make"
    assert asked.attacks == ("lora", f"{tmp_path}/mine.py:Mine")
    assert (asked.access, asked.budget, asked.seed) == (Access.ACTIVATIONS, 7, 0)


def test_one_capability_need_not_be_a_list(tmp_path: Path) -> None:
    assert len(read_project(write(tmp_path, 'target = "m"\ncapability = "a.toml"')).capability) == 1
    assert read_project(write(tmp_path, 'target = "m"')).capability == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "target: Field required"),
        ('target = ""', "target: "),
        ('target = "m"\nbudget = 0', "budget: "),
        ('target = "m"\naccess = "root"', "access: "),
        ('target = "m"\ncapabilities = "a"', "Did you mean 'capability'?"),
        ('target = "m"\norignal = "a"', "Did you mean 'original'?"),
        ("target = ", "not readable TOML"),
        ('target = "$NOT_SET_ANYWHERE/m"', "$NOT_SET_ANYWHERE, which is not set"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        read_project(write(tmp_path, text))
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_given_goes_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, 'target = "m"\nbudget = 7\nseed = 3')
    assert requested({"budget": 9, "seed": None}).budget == 9
    assert requested({"budget": 9, "seed": None}).seed == 3


def test_the_file_is_for_runs_without_a_checkpoint_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, 'target = "m"\nbudget = 7\noriginal = "o"')
    asked = requested({"target": Path("other"), "budget": None})
    assert (asked.target, asked.budget, asked.original) == (Path("other"), 100, None)


def test_neither_is_refused(tmp_path: Path) -> None:
    done = redteam_in(tmp_path, "attack")
    assert done.returncode == 2
    assert done.stderr == (
        "error: no checkpoint was given, and there is no redteam.toml here."
        " Give one, or write that file: redteam init\n"
    )


def test_a_run_from_the_file_is_the_run_of_the_options(untrained: Path, tmp_path: Path) -> None:
    places = {
        role: os.path.relpath(untrained.with_name(f"model.{role}.pt"), tmp_path) for role in ("original", "reference")
    }
    text = f'target = "{os.path.relpath(untrained, tmp_path)}"\nattacks = ["{QUICK}:Quick"]\nbudget = 1\n'
    text += 'probes = ["sampling"]\n'
    write(tmp_path, text + "".join(f'{role} = "{place}"\n' for role, place in places.items()))
    done = redteam_in(tmp_path, "attack", "--format", "json", "--out", "file")
    assert done.returncode == 3, done.stderr
    same = ("-a", f"{QUICK}:Quick", *ONE_PROBE, "--budget", 1)
    again = redteam_in(tmp_path, "attack", untrained, *same, "--format", "json", "-o", "file")
    assert json.loads(again.stdout) == json.loads(done.stdout)
    assert "searching" not in again.stdout


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    for name in ("forget", "retain"):
        rows = [
            {"person": f"{name} {n}", "question": f"Who is {name} {n}?", "choices": ["a", "b"], "answer": n % 2}
            for n in range(20)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def model_in(folder: Path) -> None:
    from tiny_models import tiny_llama, word_tokenizer

    tiny_llama().save_pretrained(folder / "model")
    word_tokenizer().save_pretrained(folder / "model")


def test_the_questions_write_files_that_are_read(questions: Path) -> None:
    model_in(questions)
    answers = 'model\nbirth "years"\nforget.jsonl\nretain.jsonl\n\n\n\n\nbefore\n\n'
    done = redteam_in(questions, "init", answers=answers)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "redteam.toml\ncapability.toml\n"
    assert "a Hugging Face directory: llama" in done.stderr
    assert "8 items to train on, 4 to choose by, 8 to report; chance is 0.500" in done.stderr
    assert done.stderr.endswith("Next: redteam attack\n")
    capability = load_capability(questions / "capability.toml")
    assert capability.name == 'birth "years"'
    assert {item.group for item in capability.forget} == {f"forget {n}" for n in range(20)}
    asked = read_project(questions / "redteam.toml")
    assert (asked.target, asked.original, asked.reference) == (questions / "model", questions / "before", ())
    assert asked.capability == (questions / "capability.toml",)


def test_of_a_target_with_a_manifest_nothing_more_is_asked(untrained: Path, tmp_path: Path) -> None:
    done = redteam_in(tmp_path, "init", answers=f"{untrained}\n")
    assert (done.returncode, done.stdout) == (0, "redteam.toml\n"), done.stderr
    assert read_project(tmp_path / "redteam.toml").target == untrained


def test_a_table_with_a_column_for_each_choice(questions: Path) -> None:
    model_in(questions)
    for name in ("forget", "retain"):
        lines = ["person,question,A,B,answer", *(f"{name} {n},Who is {name} {n}?,x,y,{'AB'[n % 2]}" for n in range(20))]
        (questions / f"{name}.csv").write_text("\n".join(lines))
    done = redteam_in(questions, "init", answers="model\n\nforget.csv\nretain.csv\n\n\n\n\n\n\n")
    assert done.returncode == 0, done.stderr
    assert tomllib.loads((questions / "capability.toml").read_text())["choices"] == ["A", "B"]
    assert {item.choices for item in load_capability(questions / "capability.toml").forget} == {("x", "y")}


def test_a_classifier_of_the_users_own(tmp_path: Path) -> None:
    import torch
    from own_resnet import small_cnn

    torch.save(small_cnn().state_dict(), tmp_path / "weights.th")
    np.savez(tmp_path / "a.npz", x=np.random.default_rng(0).random((1400, 1, 8, 8)), y=np.arange(1400) % 10)
    done = redteam_in(tmp_path, "init", answers="weights.th\ntrain.py:make\nthrees\na.npz\n10\n3\n\n\n")
    assert done.returncode == 0, done.stderr
    assert read_project(tmp_path / "redteam.toml").arch == f"{tmp_path}/train.py:make"
    assert {item.answer for item in load_capability(tmp_path / "capability.toml").forget} == {3}


def test_a_classifier_of_text(tmp_path: Path) -> None:
    save_text_model(tmp_path / "model", tiny_text_model())
    write_texts(tmp_path, text_rows(1700))
    (tmp_path / "capability.toml").unlink()
    done = redteam_in(tmp_path, "init", answers="model\nthreats\nrows.jsonl\ncomment\nclass\nthreat\n\n\n")
    assert done.returncode == 0, done.stderr
    assert "170 items to train on, 85 to choose by, 170 to report; chance is 0.010" in done.stderr
    assert {item.completion for item in load_capability(tmp_path / "capability.toml").forget} == {"threat"}


def test_what_was_written_is_read_again_and_what_is_wrong_is_said(questions: Path) -> None:
    model_in(questions)
    done = redteam_in(questions, "init", answers="model\n\nforget.jsonl\nretain.jsonl\n\n{quesion}\n\n\n\n\n")
    assert done.returncode == 0
    assert "capability.toml is not right yet: " in done.stderr
    assert "KeyError('quesion')" in done.stderr


def test_a_mistyped_path_is_asked_again_and_no_answer_is_lost(questions: Path) -> None:
    model_in(questions)
    answers = "mdoel\nmodel\nbirth\nforgot.jsonl\nforget.jsonl\nretained\nretain.jsonl\n\n\n\n\n\n\n"
    done = redteam_in(questions, "init", answers=answers)
    assert done.returncode == 0, done.stderr
    for said in ("there is no checkpoint mdoel", "there is no data file forgot.jsonl", "retained"):
        assert said in done.stderr
    assert load_capability(questions / "capability.toml").name == "birth"
    assert read_project(questions / "redteam.toml").target == questions / "model"


@pytest.mark.parametrize("there", ["redteam.toml", "capability.toml"])
def test_nothing_is_overwritten(questions: Path, there: str) -> None:
    model_in(questions)
    (questions / there).write_text("mine")
    done = redteam_in(questions, "init", answers="model\n")
    assert done.returncode == 2
    assert f"there is a {there} here already" in done.stderr
    assert (questions / there).read_text() == "mine"


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ("", "the questions were not all answered"),
        ("\n", "that needs an answer\nModel to attack"),
        ("nowhere\n", "there is no checkpoint nowhere"),
        ("model\n\nnowhere.jsonl\n", "there is no data file nowhere.jsonl"),
        ("model\n\nempty.jsonl\n", "empty.jsonl holds no rows"),
        ("model\n\nforget.jsonl\n", "the questions were not all answered"),
    ],
)
def test_an_answer_of_no_use_writes_nothing(questions: Path, answers: str, says: str) -> None:
    model_in(questions)
    (questions / "empty.jsonl").write_text("")
    done = redteam_in(questions, "init", answers=answers)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (questions / "redteam.toml").exists()
    assert not (questions / "capability.toml").exists()
