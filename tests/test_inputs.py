"""What identifies a run: the same things give the same plan, any other thing another."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from redteam.capabilities.files import load_capability
from redteam.config.request import RunRequest
from redteam.errors import InputError
from redteam.suite.inputs import resolve_one
from redteam.suite.run import run_path

QUICK = Path(__file__).with_name("quick_attack.py")


def test_the_same_call_finds_the_same_run(untrained: Path) -> None:
    assert run_path(resolve_one(RunRequest(target=untrained, budget=3))) == run_path(
        resolve_one(RunRequest(target=untrained, budget=3))
    )


def test_budget_seed_and_attacks_make_another_run(untrained: Path) -> None:
    calls = [{"budget": 3}, {"budget": 4}, {"budget": 3, "seed": 1}, {"budget": 3, "attacks": ["noop"]}]
    assert len({resolve_one(RunRequest(target=untrained, **call)).plan.fingerprint for call in calls}) == len(calls)


def test_an_edited_attack_file_makes_another_run(untrained: Path, tmp_path: Path) -> None:
    """Otherwise who edits an attack and repeats the command would be shown what the old one found."""
    mine = tmp_path / "mine.py"
    shutil.copy(QUICK, mine)
    before = resolve_one(RunRequest(target=untrained, budget=3, attacks=[f"{mine}:Quick"])).plan
    mine.write_text(QUICK.read_text().replace("1e-3, 1e-4", "1e-2, 1e-4"))
    after = resolve_one(RunRequest(target=untrained, budget=3, attacks=[f"{mine}:Quick"])).plan
    assert before.fingerprint != after.fingerprint


@pytest.fixture
def copy(untrained: Path, tmp_path: Path) -> Path:
    for file in untrained.parent.iterdir():
        shutil.copy(file, tmp_path)
    return tmp_path / "model.pt"


def test_a_reference_that_is_not_what_the_manifest_says(copy: Path) -> None:
    shutil.copy(copy.with_name("model.original.pt"), copy.with_name("model.reference.pt"))
    with pytest.raises(InputError, match="was changed after the manifest was written"):
        resolve_one(RunRequest(target=copy, budget=3))


def test_a_missing_reference_shows_before_anything_is_run(copy: Path) -> None:
    copy.with_name("model.reference.pt").unlink()
    with pytest.raises(InputError, match="there is no checkpoint"):
        resolve_one(RunRequest(target=copy, budget=3))


@pytest.mark.parametrize("role", ["target", "original"])
def test_a_reference_that_is_one_of_the_other_models(role: str, copy: Path) -> None:
    """Its attacked score would be the target's own, so excess recovery would be nil whatever came back."""
    wrong = copy if role == "target" else copy.with_name("model.original.pt")
    with pytest.raises(InputError, match=f"is the {role}"):
        resolve_one(RunRequest(target=copy, budget=3, reference=wrong))


def test_another_config_beside_the_same_weights_is_another_model(copy: Path) -> None:
    config = copy.with_name("config.json")
    config.write_text('{"rope_theta": 10000}')
    before = resolve_one(RunRequest(target=copy, budget=3)).plan
    config.write_text('{"rope_theta": 500000}')
    after = resolve_one(RunRequest(target=copy, budget=3)).plan
    assert before.target == after.target
    assert before.fingerprint != after.fingerprint


def test_the_order_of_attacks_does_not_matter(untrained: Path) -> None:
    """The search goes through them in order, so two orders under one plan would resume each other wrongly."""
    one = resolve_one(RunRequest(target=untrained, budget=3, attacks=["retrain", "noop"]))
    two = resolve_one(RunRequest(target=untrained, budget=3, attacks=["noop", "retrain"]))
    assert list(one.attacks) == list(two.attacks)
    assert one.plan.fingerprint == two.plan.fingerprint


def test_a_manifest_cannot_name_a_file_to_be_imported(copy: Path, tmp_path: Path) -> None:
    """A manifest comes with a downloaded model."""
    evil = tmp_path / "evil.py"
    evil.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass X: pass\n")
    manifest = copy.with_name("model.redteam.json")
    content = json.loads(manifest.read_text())
    content["capability"] = {"testbed": f"{evil}:X", "seed": 0, "sha256": "0" * 64}
    manifest.write_text(json.dumps(content))
    with pytest.raises(InputError, match="capability"):
        resolve_one(RunRequest(target=copy, budget=3))
    assert not (tmp_path / "ran").exists()


def rows(*groups: str, question: str = "Where does {} live?") -> str:
    return "".join(
        json.dumps({"who": g, "q": question.format(g), "choices": ["here", "there"], "answer": n % 2}) + "\n"
        for n, g in enumerate(groups)
    )


def test_the_same_question_under_two_groups_leaks(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "forget.jsonl").write_text(rows(*(f"f{n}" for n in range(30)), question="Where do they live?"))
    (tmp_path / "retain.jsonl").write_text(rows(*(f"r{n}" for n in range(30))))
    capability = tmp_path / "capability.toml"
    capability.write_text(
        'name = "homes"\nprompt = "{q}"\ngroup = { field = "who" }\n'
        'forget = ["forget.jsonl"]\nretain = ["retain.jsonl"]\n'
    )
    with pytest.raises(InputError, match="contradict themselves"):
        resolve_one(RunRequest(target=copy, budget=3, capability=capability))


def test_a_capability_from_python_is_checked_as_well(copy: Path) -> None:
    """A file's facts that share a question are put together; of one that was made elsewhere, nobody has seen to it."""
    made = load_capability(copy.with_name("capability.toml"))
    leaking = replace(made, certify=(*made.certify, replace(made.attack[0], id="new", group="another")))
    with pytest.raises(InputError, match="prompts are in more than one split"):
        resolve_one(RunRequest(target=copy, budget=3, capability=leaking))


def test_a_prompt_that_leaves_out_what_the_answer_depends_on(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "forget.jsonl").write_text(rows(*(f"f{n}" for n in range(30)), *(f"f{n}" for n in range(1, 31))))
    (tmp_path / "retain.jsonl").write_text(rows(*(f"r{n}" for n in range(30))))
    capability = tmp_path / "capability.toml"
    capability.write_text(
        'name = "homes"\nprompt = "{who} lives"\ngroup = { field = "who" }\n'
        'forget = ["forget.jsonl"]\nretain = ["retain.jsonl"]\n'
    )
    with pytest.raises(InputError, match="contradict themselves"):
        resolve_one(RunRequest(target=copy, budget=3, capability=capability))


def test_questions_with_one_answer_are_refused_before_anything_is_run(copy: Path, tmp_path: Path) -> None:
    for side in ("f", "r"):
        lines = [json.dumps({"who": f"{side}{n}", "choices": ["here", "there"], "answer": 0}) for n in range(30)]
        (tmp_path / f"{side}.jsonl").write_text("\n".join(lines))
    capability = tmp_path / "capability.toml"
    capability.write_text(
        'name = "homes"\nprompt = "{who} lives"\ngroup = { field = "who" }\n'
        'forget = ["f.jsonl"]\nretain = ["r.jsonl"]\n'
    )
    with pytest.raises(InputError, match="every question about 'homes' has the answer 'here'"):
        resolve_one(RunRequest(target=copy, budget=3, capability=capability))
