"""What the documents show works as they show it."""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from tiny_models import (
    random_tokens,
    same_bits,
    tiny_capability,
    tiny_llama,
    tiny_target,
    weights_of,
    word_tokenizer,
)
from tiny_views import knowing_llama, text_capability, view_of

import redteam
from redteam.capabilities.files import load_capability
from redteam.cli import app
from redteam.config.policy import read_policy
from redteam.engine.batches import LabelledSet
from redteam.judging.checks.check import ANY
from redteam.judging.checks.document import flags_document
from redteam.judging.checks.table import CHECKS
from redteam.probes.contract import checked, unreadable
from redteam.probes.states import layers_of
from redteam.registry import ATTACKS, PROBES, SCORERS
from redteam.setting import open_setting
from redteam.testing import check_scorer
from redteam.testing.worlds import KINDS, tiny_model
from redteam.testing.worlds import tiny_capability as tiny_world
from redteam.trial import TrialSpec, run_trial

ROOT = Path(__file__).parent.parent
DOCUMENTS = (
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/checkpoints.md",
    "docs/capabilities.md",
    "docs/flags.md",
    "docs/ci.md",
    "examples/birthdays/README.md",
)


def block(document: str, language: str, containing: str = "") -> str:
    found = re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.DOTALL)
    return next(text for text in found if containing in text)


def test_the_attack_of_contributing_runs(tmp_path: Path) -> None:
    file = tmp_path / "shrink.py"
    file.write_text(block("CONTRIBUTING.md", "python", "class Shrink"))
    attack = ATTACKS.create(f"{file}:Shrink")
    setting = open_setting(tiny_target(), tiny_capability())
    params = attack.recipes(setting.target.info, len(setting.answers))[0]
    result = run_trial(setting, attack, TrialSpec(key="t", attack="shrink", params=params, seed=0))
    assert (result.state, result.error) == ("complete", None)
    assert result.share_moved > 0.5
    assert result.points[-1].spent.steps == 64


def test_the_probe_of_contributing_reads(tmp_path: Path) -> None:
    """What a model knows by heart it reads beyond its control, and what nobody taught it it does not."""
    file = tmp_path / "nearest.py"
    file.write_text(block("CONTRIBUTING.md", "python", "class Nearest"))
    probe = PROBES.whole(f"{file}:Nearest")
    capability = text_capability()
    readings = []
    for module in (knowing_llama(capability), tiny_llama()):
        view = replace(view_of(module, capability), layers=layers_of(module, word_tokenizer(), capability))
        assert unreadable(probe, view) is None
        reading = checked(probe.read(view), len(capability.certify))
        assert reading.layer in reading.by_layer == probe.read(view).by_layer  # and it is deterministic
        readings.append(np.mean(reading.correct) - np.mean(reading.control))
    assert readings[0] > readings[1] + 0.2


@pytest.mark.parametrize("kind", ["language", "classifier"])
def test_the_method_of_contributing_runs(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "random_labels.py"
    file.write_text(block("CONTRIBUTING.md", "python", "class RandomLabels"))
    name = f"{file}:RandomLabels"
    if kind == "language":
        model, forget, retain = tiny_target().module, random_tokens(12, seed=1), random_tokens(12, seed=2)
    else:
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        draw = torch.Generator().manual_seed(0)
        forget, retain = (LabelledSet(torch.rand(9, 4, generator=draw), torch.arange(9) % 3) for _ in range(2))
    made = redteam.unlearn(name, model, forget=forget, retain=retain, steps=3)
    assert not same_bits(weights_of(made.module), weights_of(model))
    assert made.costs["method"].flops > 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_scorer_of_contributing_scores(kind: str, tmp_path: Path) -> None:
    (tmp_path / "probability.py").write_text(block("CONTRIBUTING.md", "python", "class Probability"))
    scorer = SCORERS.create(f"{tmp_path / 'probability.py'}:Probability")
    check_scorer(scorer)
    setting = open_setting(tiny_model(kind), replace(tiny_world(kind), scorers=(scorer, SCORERS.create("choice"))))
    assert ((setting.start["certify"] > 0) & (setting.start["certify"] < 1)).all()
    assert set(setting.start["certify:choice"].tolist()) == {0.0, 1.0}


def test_the_capability_of_the_readme_loads(tmp_path: Path) -> None:
    text = block("README.md", "toml")
    (tmp_path / "removed.toml").write_text(text)
    example = re.search(r"# (\{.*\})", text)
    assert example is not None
    row = json.loads(example.group(1))
    for side in ("forget", "retain"):
        rows = [{**row, "question": f"When was {side} {n} born?"} for n in range(20)]
        (tmp_path / f"{side}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    capability = load_capability(tmp_path / "removed.toml")
    assert capability.name == tomllib.loads(text)["name"]
    assert len(capability.forget) == 20
    assert capability.attack[0].prompt.endswith(" was born in")


def test_the_policy_of_the_readme_is_one(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text(block("README.md", "toml", "[policy]"))
    rules = read_policy(tmp_path / "policy.toml")
    assert rules.bar("birthdays") == {"max_excess_recovery": 0.05, "confidence": 0.95, "min_budget": 100}
    assert rules.waived("addresses") is not None


def test_so_does_that_of_a_classifier(tmp_path: Path) -> None:
    (tmp_path / "cats.toml").write_text(block("README.md", "toml", "arrays"))
    pictures = np.random.default_rng(0).integers(0, 256, size=(1400, 4, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", x=pictures, y=np.arange(1400) % 10)
    capability = load_capability(tmp_path / "cats.toml")
    assert {item.answer for item in capability.forget} == {3}
    assert capability.inputs is not None
    assert capability.inputs.shape == (1400, 3, 4, 4)


def test_so_does_that_of_a_classifier_of_text(tmp_path: Path) -> None:
    text = block("README.md", "toml", "rows = ")
    (tmp_path / "threats.toml").write_text(text)
    example = re.search(r"# (\{.*\})", text)
    assert example is not None
    row = json.loads(example.group(1))
    rows = [{**row, "comment": f"{row['comment']} {n}", "kind": ("praise", row["kind"])[n % 2]} for n in range(2500)]
    (tmp_path / "comments.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    capability = load_capability(tmp_path / "threats.toml")
    assert {item.completion for item in capability.forget} == {"threat"}
    assert len(capability.forget) == 1000  # as many as are taken


def test_every_form_of_checkpoint_names_its_test() -> None:
    table = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8").split("## What is refused")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == 12
    for row in rows:
        named = re.findall(r"`(tests/[a-z_/]+\.py)`", row)
        assert named
        assert all((ROOT / name).is_file() for name in named), row


def test_what_the_documents_say_of_accelerators_was_measured() -> None:
    content = json.loads((ROOT / "results" / "benchmarks" / "accelerator.json").read_text())
    text = " ".join((ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8").split())
    names = [row["model"].removesuffix("B") for row in content["rows"]]
    device, sizes = content["setting"]["device"], f"{', '.join(names[:-1])} and {names[-1]}"
    assert f"On an {device}, Llamas of {sizes} billion weights were attacked" in text
    assert all(row["ended"] and row["peak memory"] <= row["memory asked for"] for row in content["rows"])
    largest = content["rows"][-1]
    assert f"({content['setting']['batch']} questions) takes {largest['step in float32']:.1f} s" in text
    assert f"it would take {largest['step in tf32']:.2f} s" in text


def test_how_strong_the_readme_says_it_is_was_measured() -> None:
    rows = json.loads((ROOT / "results" / "benchmarks" / "families.json").read_text())["rows"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    after: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        after.setdefault((row["testbed"], row["target"], row["attack"]), []).append(row["after"])
    assert all(len(seeds) == 3 for seeds in after.values())
    mean = {key: sum(seeds) / 3 for key, seeds in after.items()}
    names = {"rmu": "RMU", "graddiff": "gradient difference", "ssd": "SSD", "tar": "TAR"}
    for place in ("facts", "digits"):
        for method, name in names.items():
            found = {attack: value for (p, m, attack), value in mean.items() if (p, m) == (place, method)}
            single = {attack: value for attack, value in found.items() if attack in ATTACKS.table}
            best = max(single, key=lambda attack: single[attack])
            cells = [f"{found['suite']:.2f}", f"{single[best]:.2f} ({best})", f"{found['retrain at 2e-05']:.2f}"]
            assert f"| {place}, {name} | {' | '.join(cells)} |" in readme
    rates = {a: value for (p, m, a), value in mean.items() if (p, m) == ("facts", "tar") and a.startswith("retrain at")}
    assert rates.keys() == {f"retrain at {rate}" for rate in ("2e-05", "0.0001", "0.0003", "0.001")}
    assert f"what TAR removed from `facts` back to {max(rates.values()):.2f} at most" in readme
    table = json.loads((ROOT / "results" / "leaderboard.json").read_text())["targets"]
    (earlier,) = (target["after"]["estimate"] for target in table if target["variant"] == "facts-tar")
    told = f"{earlier:.2f} came back there, and {mean['facts', 'tar', 'suite']:.2f} comes back to the suite of now"
    assert told in " ".join(readme.split())
    never = [value for (_, method, _), value in mean.items() if method == "filtered"]
    assert f"({min(never):.2f} to {max(never):.2f} on `facts`)" in readme


def test_how_fast_the_readme_says_the_search_is_was_measured() -> None:
    content = json.loads((ROOT / "results" / "benchmarks" / "search.json").read_text())
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    medians = {
        claim["name"].split(":")[0]: [float(number) for number in re.findall(r"\(([\d.]+)\)", claim["name"])]
        for claim in content["claims"]
    }
    suite = [ours for ours, _ in medians.values()]
    assert f"takes a median of {min(suite):.0f} to {max(suite):.0f} trials" in readme
    random = [medians[target][1] for target in ("digits-tar", "digits-ssd", "facts-rmu")]
    told = "takes {:.0f} and {:.0f} on `digits` after TAR and SSD and {:.0f} on `facts` after RMU"
    assert told.format(*random) in readme
    pooled = content["setting"]["studies"] * content["setting"]["budgets"]["random"]
    assert f"on `facts` after TAR none of {pooled} came there" in readme
    never = [row for row in content["rows"] if row["target"] == "facts-tar" and row["search"] == "random"]
    assert len(never) == content["setting"]["studies"]
    assert all(row["first"] is None for row in never)


def test_every_flag_is_told_with_what_to_do_about_it() -> None:
    any_verdict, resisted = (ROOT / "docs" / "flags.md").read_text(encoding="utf-8").split("## No RESISTED")

    def rows(text: str) -> dict[str, str]:
        found = re.findall(r"^\| `([a-z-]+)` \| [^|]{20,} \| ([^|]+) \|$", text, re.MULTILINE)
        return {name: remedy.replace("`", "").strip() for name, remedy in found}

    assert rows(any_verdict) == {check.name: check.remedy for check in CHECKS if check.blocks == ANY}
    assert rows(resisted) == {check.name: check.remedy for check in CHECKS if check.blocks != ANY}


def test_the_document_of_flags_is_what_the_table_gives() -> None:
    assert (ROOT / "docs" / "flags.md").read_text(encoding="utf-8") == flags_document(), "run `make flags`"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    for link in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / link).exists(), link


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_and_options_are_those_of_the_command_line(document: str) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for line in re.findall(r"redteam ([a-z]+[^`\n#|]*)", (ROOT / document).read_text(encoding="utf-8")):
        name, *words = line.split()
        if name not in commands:
            continue
        known = {option for parameter in commands[name].params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= known, line


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_exist(document: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = re.findall(r"(?:`|^ {4})make ([a-z-]+)", (ROOT / document).read_text(encoding="utf-8"), re.MULTILINE)
    assert set(named) <= targets


def test_the_coverage_that_the_readme_tells_is_what_was_simulated() -> None:
    rows = json.loads((ROOT / "results" / "benchmarks" / "selection.json").read_text())["rows"]
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    ours, naive = ([round(100 * row[prefix + "coverage"]) for row in rows] for prefix in ("", "naive: "))
    assert f"hold it in {min(ours)} to {max(ours)} of 100 runs" in readme
    assert f"holds it in {min(naive)} to {max(naive)} (" in readme


def test_the_error_rates_that_the_readme_tells_are_what_was_simulated() -> None:
    rows = json.loads((ROOT / "results" / "benchmarks" / "calibration.json").read_text())["rows"]
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    resisted, recovered = (100 * max(row[f"false {what}"] for row in rows) for what in ("RESISTED", "RECOVERED"))
    told = {row["regime"]: round(100 * row["0 % RESISTED"]) for row in rows}
    assert f"in {len(rows)} such regimes RESISTED is wrong in {resisted:.1f} % of runs at most" in readme
    assert f"and RECOVERED in {recovered:.1f} %" in readme
    assert f"RESISTED is said in {told['the same, five references']} % where nothing comes back" in readme
    assert f"where seeds differ by .15 it is said in {told['the same, seeds differ by .15']} %" in readme


def test_the_verdicts_of_hidden_targets_are_those_that_were_given() -> None:
    found = json.loads((ROOT / "results" / "benchmarks" / "hides.json").read_text())
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    hidden, never = ([row for row in found["rows"] if (row["kind"] == "never knew") is sort] for sort in (False, True))
    given, honest = (Counter(row["verdict"] for row in rows) for rows in (hidden, never))
    assert all(claim["holds"] for claim in found["claims"])
    assert len({row["kind"] for row in hidden}) == 7
    assert all(row["flags"] for row in hidden if row["verdict"] == "INCONCLUSIVE")
    assert given.keys() == {"RECOVERED", "INCONCLUSIVE"}
    assert f"{len({row['construction'] for row in hidden})} constructions of seven kinds" in readme
    several = f"of {len(hidden)} such targets none is RESISTED, {given['RECOVERED']} are RECOVERED"
    assert f"{several}, and {given['INCONCLUSIVE']} are INCONCLUSIVE with a flag that names the cause" in readme
    assert "RECOVERED" not in honest
    assert f"Of {len(never)} models that never knew, attacked in the same way" in readme
    assert f"none is RECOVERED and {honest['RESISTED']} are RESISTED" in readme


def test_what_the_architecture_says_of_the_spectrum_is_what_was_measured() -> None:
    (claim,) = json.loads((ROOT / "results" / "benchmarks" / "spectrum.json").read_text())["claims"]
    told = " ".join((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").split())
    assert "where the stable rank is unusually small, does not hold" in told
    assert not claim["holds"]
    assert claim["limit"] == 0.9


def test_the_verdicts_of_small_runs_are_those_that_were_given() -> None:
    rows = json.loads((ROOT / "results" / "benchmarks" / "small_runs.json").read_text())["rows"]
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    given = Counter((row["target"], row["verdict"]) for row in rows)
    worlds = len({row["seed"] for row in rows})
    assert given.keys() == {("never", "RESISTED"), ("never", "INCONCLUSIVE"), ("masked", "RECOVERED")}
    resisted, unclear = given["never", "RESISTED"], given["never", "INCONCLUSIVE"]
    assert f"In {worlds} small real worlds each, no model that never knew is RECOVERED" in readme
    assert f"({resisted} RESISTED, {unclear} INCONCLUSIVE)" in readme
    assert f"({given['masked', 'RECOVERED']} RECOVERED;" in readme


def test_the_table_of_the_readme_is_what_was_measured() -> None:
    rows = json.loads((ROOT / "results" / "benchmarks" / "ground_truth.json").read_text())["rows"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    def over_seeds(values: list[float]) -> str:
        return f"{min(values):.2f} to {max(values):.2f}"

    named = {
        "rmu": "unlearned with RMU",
        "filtered": "never trained on the facts",
        "masked": "a decoy that only masks its answers",
    }
    for method, name in named.items():
        found = [row for row in rows if (row["target"], row["attack"]) == (method, "standard")]
        assert len(found) == 3
        cells = [
            name,
            over_seeds([row["before"] for row in found]),
            over_seeds([row["after"][0] for row in found]),
            over_seeds([row["reference after"][0] for row in found]),
            *{row["verdict"] for row in found},
        ]
        assert f"| {' | '.join(cells)} |" in readme
    assert {row["verdict"] for row in rows if row["attack"] == "noop"} == {"INCONCLUSIVE"}
