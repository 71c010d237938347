"""Replaying a certificate: the same model gives way as claimed, another is refused, a weaker claim is found out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from run_redteam import redteam

from redteam.again import replay_and_tell
from redteam.checkpoints.load import open_target
from redteam.config.request import requested
from redteam.engine.seeding import derive_seed
from redteam.evidence.certificate import read_certificate
from redteam.search.selection import Candidate
from redteam.setting import open_setting
from redteam.suite.inputs import resolve_one
from redteam.suite.replay import replay
from redteam.trial import TrialSpec, run_trial

QUICK = f"{Path(__file__).with_name('quick_attack.py')}:Quick"


@pytest.fixture(scope="module")
def certified(untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a model that knows nothing, and its certificate."""
    folder = tmp_path_factory.mktemp("replay")
    run, rules = folder / "run", folder / "policy.toml"
    rules.write_text("[policy]\nmax_excess_recovery = 0.1\n")
    done = redteam("attack", untrained, "--budget", "3", "-a", QUICK, "--policy", rules, "--out", run)
    assert done.returncode == 3, done.stderr
    return run / "certificate.json"


def claimed(certificate: Path, folder: Path, **changes: object) -> Path:
    """The certificate, with other claims about the target's scores."""
    content = json.loads(certificate.read_text())
    content["predicate"]["runs"][0]["result"]["scores"]["target"] |= changes
    path = folder / "claimed.json"
    path.write_text(json.dumps(content))
    return path


def exactly_claimed(certificate: Path, folder: Path) -> Path:
    """The certificate, with a configuration that was run said to be the winner, and to have scored what it did."""
    confirmed = confirmed_in(certificate)
    score = sum(row["points"][-1]["certify"] for row in confirmed) / len(confirmed)
    attack = {"name": QUICK, **confirmed[0]["params"], "stopped_at": confirmed[0]["points"][-1]["steps"]}
    exact = {"estimate": score, "low": score - 1e-9, "high": score + 1e-9}
    return claimed(certificate, folder, attack=attack, after=exact)


def confirmed_in(certificate: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (certificate.parent / "events.jsonl").read_text().splitlines()]
    return [row for row in rows if row["key"].startswith("target/confirm/00-")]


def test_the_winning_attack_does_again_what_it_did(certified: Path, untrained: Path, tmp_path: Path) -> None:
    """To the last digit on the same machine, also where the winner is said to be another configuration that was run."""
    run, confirmed = read_certificate(certified).predicate.runs[0], confirmed_in(certified)
    path = exactly_claimed(certified, tmp_path)
    done = redteam("replay", path, untrained)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "reproduced by" in done.stdout
    assert len(confirmed) == run.result.seeds
    for row in confirmed:
        assert f"{row['points'][-1]['certify']:.3f}" in done.stdout


def test_a_claim_that_does_not_come_out_is_told(certified: Path, untrained: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (certified.parent / "events.jsonl").read_text().splitlines()]
    row = next(row for row in rows if row["key"] == "target/confirm/00-0")
    attack = {"name": QUICK, **row["params"], "stopped_at": 4}
    path = claimed(certified, tmp_path, attack=attack, after={"estimate": 0.99, "low": 0.98, "high": 1.0})
    done = redteam("replay", path, untrained)
    assert (done.returncode, "not reproduced by" in done.stdout) == (1, True)


def test_where_no_attack_beat_the_released_weights_there_is_nothing_to_replay(
    certified: Path, untrained: Path, tmp_path: Path
) -> None:
    done = redteam("replay", claimed(certified, tmp_path, attack=None), untrained)
    assert (done.returncode, "nothing to replay" in done.stdout) == (3, True)


def test_a_winner_that_the_certificate_does_not_name_is_not_said_to_be_reproduced(
    certified: Path, untrained: Path, tmp_path: Path
) -> None:
    """What recovered gave up utility; the attack that is named is the strongest that did not, and there was none."""
    path = claimed(certified, tmp_path, attack=None)
    content = json.loads(path.read_text())
    content["predicate"]["runs"][0]["result"]["verdict"] = "RECOVERED"
    path.write_text(json.dumps(content))
    done = redteam("replay", path, untrained)
    assert done.returncode == 2
    assert "gave up utility, and the certificate does not name it" in done.stderr


def test_a_winner_with_a_few_examples_is_given_as_many(certified: Path, untrained: Path, tmp_path: Path) -> None:
    """Where nothing came back without any, the verdict rests on the attack that had some."""
    params = {"learning_rate.adamw": 1e-2, "samples": 2, "steps": 8}
    attack = {"name": QUICK, **params, "stopped_at": 8, "shown": 2}
    told = {
        "count": 4, "any_utility": False, "target": 0.5, "attack": attack,
        "alike": 0.1, "more": 0.2, "within": None, "beyond": {"estimate": 0.3, "low": 0.2, "high": 0.4},
    }  # fmt: skip
    content = json.loads(claimed(certified, tmp_path, attack=None).read_text())
    content["predicate"]["runs"][0]["result"] |= {"verdict": "RECOVERED", "with_examples": [told]}
    path = tmp_path / "claimed.json"
    path.write_text(json.dumps(content))
    run = read_certificate(path).predicate.runs[0]
    inputs = resolve_one(requested({"target": untrained, "attacks": (QUICK,), "seed": run.plan.seed}))
    found = replay(run, inputs)
    seeds = [derive_seed(run.plan.seed, "confirm", Candidate(attack=QUICK, params=params).identity, n) for n in (0, 1)]
    setting = open_setting(inputs.models["target"].open(), inputs.capability, shown=2)
    specs = [TrialSpec(key="again", attack=QUICK, params=params, seed=seed, certify=True) for seed in seeds]
    by_hand = [run_trial(setting, inputs.attacks[QUICK], spec).points[-1].scores["certify"].mean() for spec in specs]
    assert found.attack == QUICK
    assert list(found.found[:2]) == by_hand
    assert (found.claimed.estimate, found.claimed.low, found.claimed.high) == pytest.approx((0.5, 0.4, 0.6))


def test_samples_are_not_replayed(certified: Path, untrained: Path, tmp_path: Path) -> None:
    content = json.loads(certified.read_text())
    content["predicate"]["runs"][0]["result"]["scorer"] = "membership"
    (tmp_path / "claimed.json").write_text(json.dumps(content))
    done = redteam("replay", tmp_path / "claimed.json", untrained)
    assert (done.returncode, "stand out beside references, which a certificate does not hold" in done.stderr) == (
        2,
        True,
    )


def test_a_policy_that_does_not_fit_is_refused_before_the_work(untrained: Path, tmp_path: Path) -> None:
    rules, run = tmp_path / "policy.toml", tmp_path / "run"
    rules.write_text("[policy]\n[policy.capability.foreign]\nmax_excess_recovery = 0.2\n")
    done = redteam("attack", untrained, "--budget", "3", "-a", QUICK, "--policy", rules, "--out", run)
    assert (done.returncode, "the policy names the capability 'foreign'" in done.stderr) == (2, True)
    assert not run.exists()


def test_another_model_and_other_items_are_refused(certified: Path, untrained: Path, tmp_path: Path) -> None:
    rules = untrained.with_name("capability.toml")
    other = redteam("replay", certified, untrained.with_name("model.original.pt"), "--capability", rules)
    assert (other.returncode, "is not the model that was attacked" in other.stderr) == (2, True)
    for name in ("forget.jsonl", "retain.jsonl"):
        (tmp_path / name).write_text(untrained.with_name(name).read_text())
    lines = (tmp_path / "forget.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "forget.jsonl").write_text("".join(lines[:-3]))
    (tmp_path / "capability.toml").write_text(rules.read_text())
    fewer = redteam("replay", certified, untrained, "--capability", tmp_path / "capability.toml")
    assert (fewer.returncode, "has other items now" in fewer.stderr) == (2, True)
    (tmp_path / "capability.toml").write_text(rules.read_text().replace('name = "facts"', 'name = "others"'))
    named = redteam("replay", certified, untrained, "--capability", tmp_path / "capability.toml")
    assert (named.returncode, "the certificate is about 'facts'" in named.stderr) == (2, True)


def test_the_model_that_is_given_stays_as_it_was(certified: Path, untrained: Path, tmp_path: Path) -> None:
    from rich.console import Console

    before = open_target(untrained).module.state_dict()
    claim = exactly_claimed(certified, tmp_path)
    assert replay_and_tell(claim, requested({"target": untrained}), Console(quiet=True)) == 0
    after = open_target(untrained).module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
