"""Whole runs that are scored by likelihood or by what the model writes, and by several scorers at once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from recorded_runs import judge_run

import redteam
from redteam.evidence.evidence import read_evidence
from redteam.evidence.results import CapabilityResult

QUICK = f"{Path(__file__).with_name('quick_attack.py')}:Quick"


def run(untrained: Path, out: Path, lines: str) -> CapabilityResult:
    rules = untrained.with_name("capability.toml").read_text()
    place = untrained.with_name(f"{out.name}.toml")
    place.write_text(rules.replace('prompt = "', lines + 'prompt = "'))
    results = redteam.attack(untrained, capability=place, out=out, budget=2, attacks=[QUICK], probes=["linear"])
    (found,) = results.capabilities
    assert judge_run(out) == found
    return found


@pytest.fixture(scope="module")
def several(untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[CapabilityResult, Path]:
    out = tmp_path_factory.mktemp("scorers") / "several"
    return run(untrained, out, 'scorer = ["choice", "cloze", "exact"]\n'), out


def test_the_first_decides_and_the_others_are_told(several: tuple[CapabilityResult, Path]) -> None:
    found, _ = several
    assert found.scorer == "choice"
    assert list(found.also) == ["cloze", "exact"]
    assert (found.wordings, list(found.probes)) == ([], ["linear"])  # of no further wording nothing more is run
    for also in found.also.values():
        assert list(also.before) == ["original", "target", "reference", "canary", "decoy"]
        assert list(also.after) == ["target", "reference", "canary", "decoy"]
    cloze = found.also["cloze"]
    assert 0 < cloze.before["target"] < 0.05  # an untrained model: one of a hundred words
    assert cloze.chance == 0.0
    assert cloze.before["target"] != cloze.before["reference"]


def test_every_confirmed_stop_is_scored_by_all(several: tuple[CapabilityResult, Path]) -> None:
    evidence = read_evidence(several[1])
    deciding, cloze = evidence.stops("target"), evidence.stops("target", "cloze")
    assert [stop.attack for stop in deciding] == [stop.attack for stop in cloze]
    assert len(deciding) > 1
    for first, second in zip(deciding, cloze, strict=True):
        assert first.certify.shape == second.certify.shape
        assert ((second.certify > 0) & (second.certify < 1)).all()
        assert set(np.unique(first.certify)) <= {0.0, 0.5, 1.0}


def test_the_report_says_what_the_others_say(several: tuple[CapabilityResult, Path]) -> None:
    from rich.console import Console

    from redteam.evidence.results import Results
    from redteam.reporting.console import report

    found, out = several
    console = Console(width=200, record=True)
    console.print(report(Results.model_validate_json((out / "results.json").read_text()), found))
    text = console.export_text()
    assert "choice, chance 0.062" in text
    assert f"by cloze original {found.also['cloze'].before['original']:.2f}, target " in " ".join(text.split())


def test_a_run_by_likelihood_alone_needs_no_choices(untrained: Path, tmp_path: Path) -> None:
    for name in ("forget", "retain"):
        rows = [json.loads(line) for line in untrained.with_name(f"{name}.jsonl").read_text().splitlines()]
        told = [{**row, "answer": row["choices"][row["answer"]], "choices": None} for row in rows]
        untrained.with_name(f"told-{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told))
    rules = untrained.with_name("capability.toml").read_text().replace('"forget.', '"told-forget.')
    place = tmp_path / "told.toml"
    place.write_text('scorer = ["cloze", "f1"]\n' + rules.replace('"retain.', '"told-retain.'))
    for name in ("forget", "retain"):
        (tmp_path / f"told-{name}.jsonl").write_text(untrained.with_name(f"told-{name}.jsonl").read_text())
    results = redteam.attack(
        untrained, capability=place, out=tmp_path / "run", budget=2, attacks=[QUICK], probes=["linear"]
    )
    (found,) = results.capabilities
    assert found.scorer == "cloze"
    assert found.chance == 0.0
    assert found.unprobed == {"linear": "it compares choices; these questions have a right answer and no wrong ones"}
    after = found.scores["target"].after
    assert after is not None
    assert after.estimate > found.scores["target"].before  # it was taught to say such words
    assert found.also["f1"].excess_recovery is None or found.verdict == "INCONCLUSIVE"
