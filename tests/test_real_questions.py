"""Question files that nobody here made, as they stand: TOFU and the years of RTT, on the data of REDTEAM_DATA."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from run_redteam import ENVIRONMENT

import redteam
from redteam.capabilities.files import load_capability
from redteam.capabilities.items import Capability, overlapping_groups

EXAMPLE = Path(__file__).parent.parent / "examples" / "tofu"
QUICK = Path(__file__).with_name("quick_attack.py")

pytestmark = pytest.mark.skipif("REDTEAM_DATA" not in os.environ, reason="set REDTEAM_DATA to the folder of real data")


def rows(name: str) -> list[dict[str, Any]]:
    text = (Path(os.environ["REDTEAM_DATA"]) / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def sizes(capability: Capability) -> list[int]:
    return [len(part) for part in (capability.attack, capability.select, capability.certify)]


def test_tofu_as_perturbed_choices() -> None:
    capability = load_capability(EXAMPLE / "choices.toml")
    raw = {row["question"]: row for row in rows("tofu/forget10_perturbed.json")}
    assert sizes(capability) == [27, 31, 32]
    for item in capability.forget:
        row = raw[item.group]
        assert item.prompt == f"Question: {row['question']}\nAnswer:"
        assert item.completion == row["answer"]
        assert item.choices == tuple(dict.fromkeys([row["answer"], *row["perturbed_answer"]]))
    assert len(capability.retain) == len(capability.utility) == 45
    assert capability.chance == pytest.approx(1 / 6, abs=0.002)


def test_tofu_as_generation() -> None:
    capability = load_capability(EXAMPLE / "generation.toml")
    raw = {row["question"]: row["answer"] for name in ("forget10", "retain90") for row in rows(f"tofu/{name}.json")}
    assert sizes(capability) == [27, 31, 32]
    assert len(capability.retain) == len(capability.utility) == 45
    for item in (*capability.forget, *capability.retain, *capability.utility):
        assert item.choices == (raw[item.group],)
    assert [scorer.name for scorer in capability.scorers] == ["f1", "cloze"]
    assert 0.05 < capability.chance < 0.3  # always giving one answer shares some of its words with every other


def test_both_forms_draw_the_same_facts() -> None:
    first, second = (load_capability(EXAMPLE / name) for name in ("choices.toml", "generation.toml"))
    assert {item.group for item in first.certify} == {item.group for item in second.certify}
    assert {item.group for item in first.forget} == {item.group for item in second.forget}


def test_the_years_of_events(tmp_path: Path) -> None:
    """Answers are not spread evenly over places there, but choices are years and not letters."""
    rules = tmp_path / "years.toml"
    rules.write_text(
        'name = "years"\nprompt = "{question}\\nAnswer:"\ngroup = { field = "question" }\n'
        'forget = ["$REDTEAM_DATA/rtt/years/split_0.jsonl", "$REDTEAM_DATA/rtt/years/split_1.jsonl"]\n'
        'retain = ["$REDTEAM_DATA/rtt/years/split_2.jsonl"]\n'
    )
    capability = load_capability(rules)
    raw = [row for n in (0, 1) for row in rows(f"rtt/years/split_{n}.jsonl")]
    years = {row["question"]: str(row["correct_year"]) for row in raw}
    assert all(item.completion == years[item.group] for item in capability.forget)
    assert not overlapping_groups((capability.attack, capability.select, capability.certify))
    assert len(capability.forget) > 250
    assert 0.24 < capability.chance < 0.27
    places = Counter(row["answer"] for row in raw)
    assert max(places.values()) > 1.05 * len(raw) / 4


def test_world_facts_with_a_field_for_each_option(tmp_path: Path) -> None:
    rules = tmp_path / "world.toml"
    rules.write_text(
        'name = "world facts"\nprompt = "{question}\\n{options}\\nAnswer:"\ngroup = { field = "question" }\n'
        'choices = ["option1", "option2", "option3", "option4"]\n'
        'forget = ["$REDTEAM_DATA/tofu/world_facts.json"]\nretain = ["$REDTEAM_DATA/tofu/world_facts.json"]\n'
    )
    with pytest.raises(Exception, match="0 groups cannot fill"):  # what is to be forgotten is not what must stay
        load_capability(rules)
    rules.write_text(
        rules.read_text().replace('retain = ["$REDTEAM_DATA/tofu/world_facts.json"]', 'retain = ["retain.jsonl"]')
    )
    asked = [
        {"question": f"q{n}", **{f"option{k}": f"{n} {k}" for k in range(1, 5)}, "answer": f"{n} 1"} for n in range(10)
    ]
    (tmp_path / "retain.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    capability = load_capability(rules)
    assert Counter(item.completion for item in capability.certify).keys() == {"A", "B", "C", "D"}
    assert len(set(Counter(item.completion for item in capability.certify).values())) == 1
    assert capability.chance == 0.25


@pytest.mark.slow
def test_what_the_model_no_longer_says_it_still_chooses(tmp_path: Path) -> None:
    """The example as its README tells it, with an attack of a few steps on one of its forms."""
    target = tmp_path / "tofu"
    command = [sys.executable, str(EXAMPLE / "build.py"), "--out", str(target)]
    built = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    chosen, said = (
        redteam.attack(
            target, capability=EXAMPLE / form, attacks=[attack], probes=["sampling"], budget=1, out=tmp_path / form
        ).capabilities[0]
        for form, attack in (("choices.toml", f"{QUICK}:Quick"), ("generation.toml", "noop"))
    )
    assert chosen.verdict == "RECOVERED", chosen.reason
    assert chosen.scores["target"].before > 0.9  # NPO took away what is said, and left what is known
    assert "nothing-removed" in {flag.name for flag in chosen.flags}
    assert said.verdict == "INCONCLUSIVE"
    assert said.scorer == "f1"
    assert said.scores["original"].before > 0.8
    assert said.scores["target"].before < said.scores["original"].before / 2
