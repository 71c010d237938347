"""Classifiers through every room: scored, trained, probed, masked, attacked, judged; and runs that share a memo."""

from __future__ import annotations

import io
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from threadpoolctl import threadpool_info, threadpool_limits
from tiny_classifiers import SIZES, tiny_classifier_target, tiny_mlp, tiny_points, trained_mlp
from tiny_models import same_bits, tiny_capability, tiny_target, weights_of
from torch import nn

import redteam.suite.arm as arm
from redteam.attacks.retrain import Retrain
from redteam.capabilities.items import Capability, overlapping_inputs
from redteam.capabilities.reading import encode_scoring, encode_training
from redteam.capabilities.scorers.class_inputs import EncodedInputs
from redteam.capabilities.scorers.contract import SCORING_BATCH, NotFinite, item_scores, share_known
from redteam.checkpoints.trio import Trio, save_trio
from redteam.config.manifest import TestbedRef
from redteam.config.request import RunRequest
from redteam.engine.activations import UnknownLayers
from redteam.engine.batches import LabelledSet
from redteam.errors import InputError
from redteam.evidence.results import Results
from redteam.probes.contract import ProbeContext, ProbeReading
from redteam.probes.states import read_layers
from redteam.registry import PROBES
from redteam.reporting.console import print_results
from redteam.setting import open_setting
from redteam.suite.attack import attack
from redteam.suite.inputs import resolve_one
from redteam.suite.memo import Memo
from redteam.testbeds.facts import Facts
from redteam.trial import TrialSpec, run_trial
from redteam.unlearning.contract import UnlearningTask
from redteam.unlearning.masked import Masked, Unmaskable, answer_states

QUICK = f"{Path(__file__).with_name('quick_attack.py')}:Quick"
POINTS = tiny_points()


def table(rows: list[list[float]], answers: list[int]) -> tuple[nn.Module, EncodedInputs]:
    """A classifier whose logits are its inputs."""
    examples = LabelledSet(torch.tensor(rows), torch.tensor(answers))
    return nn.Flatten(), EncodedInputs(examples, examples.labels, len(rows[0]))


def test_an_item_is_right_where_its_class_is_the_largest_and_ties_share() -> None:
    module, encoded = table([[1, 2, 0], [1, 2, 0], [3, 3, 1], [3, 3, 1], [0, 0, 0]], [1, 0, 0, 2, 1])
    assert item_scores(module, encoded).tolist() == [1, 0, 1 / 2, 0, pytest.approx(1 / 3)]
    mean = (1 + 0 + 1 / 2 + 0 + 1 / 3) / 5
    assert share_known(module, encoded) == pytest.approx((mean - 1 / 3) / (1 - 1 / 3))


def test_a_logit_that_is_not_finite_is_no_score() -> None:
    module, encoded = table([[1.0, float("inf")], [0.0, 0.0]], [0, 0])
    with pytest.raises(NotFinite):
        item_scores(module, encoded)


def test_scores_do_not_depend_on_the_batches() -> None:
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(SCORING_BATCH + 77, 6, generator=draw)
    answers = torch.randint(0, 4, (len(inputs),), generator=draw)
    scores = item_scores(tiny_mlp(), EncodedInputs(LabelledSet(inputs, answers), answers, 4))
    assert np.array_equal(scores, (tiny_mlp()(inputs).argmax(1) == answers).numpy())


def test_items_become_rows_of_the_inputs() -> None:
    items = POINTS.select[3:6]
    data, encoded = encode_training(POINTS, items, None), encode_scoring(POINTS, items, None)
    assert POINTS.inputs is not None
    for inputs, answers in ((data.inputs, data.labels), (encoded.examples.inputs, encoded.answers)):
        assert np.array_equal(inputs.numpy(), POINTS.inputs[15:18])
        assert answers.tolist() == [item.answer for item in items]
    data.inputs.zero_()
    assert POINTS.inputs[15:18].any()
    assert encoded.classes == 4
    assert POINTS.chance == 1 / 4


def test_a_model_of_the_other_kind_is_refused() -> None:
    with pytest.raises(InputError, match="is text"):
        open_setting(tiny_classifier_target(), tiny_capability())
    with pytest.raises(InputError, match="of a classifier"):
        open_setting(tiny_target(), POINTS)


@pytest.mark.parametrize(
    ("sizes", "says"), [((6, 5), "name 4 classes"), ((6, 3), "name 4 classes"), ((7, 4), "cannot take inputs")]
)
def test_a_classifier_of_other_inputs_or_classes_is_refused(sizes: tuple[int, ...], says: str) -> None:
    with pytest.raises(InputError, match=says):
        open_setting(tiny_classifier_target(sizes=sizes), POINTS)


def test_items_that_do_not_name_the_same_classes_are_refused() -> None:
    odd = replace(POINTS.select[0], choices=("a", "b"))
    with pytest.raises(InputError, match="name 2 classes, others 4"):
        open_setting(tiny_classifier_target(), replace(POINTS, select=(odd, *POINTS.select[1:])))


@pytest.mark.parametrize("row", [None, -1, 130])
def test_an_item_without_its_row_is_no_capability(row: int | None) -> None:
    with pytest.raises(ValueError, match="p12 is about row"):
        replace(POINTS, select=(replace(POINTS.select[0], row=row), *POINTS.select[1:]))


def test_the_digest_of_text_is_what_it_was_before_there_were_inputs() -> None:
    """Manifests and runs of earlier releases name it."""
    assert Facts().capability(0).sha256 == "160c6eaecdeb0cdbed0341d92a6d8e2575268d742aa2cc7901102f2fb3764e80"


def test_the_digest_covers_the_inputs_their_shape_and_each_row() -> None:
    assert POINTS.inputs is not None
    nudged = POINTS.inputs.copy()
    nudged[129, 1, 2] = np.nextafter(nudged[129, 1, 2], 9)
    flat = POINTS.inputs.reshape(130, 6)
    moved = (replace(POINTS.select[0], row=13), *POINTS.select[1:])
    others = [replace(POINTS, inputs=nudged), replace(POINTS, inputs=flat), replace(POINTS, select=moved)]
    digests = {capability.sha256 for capability in (POINTS, *others)}
    assert len(digests) == 4
    assert tiny_points().sha256 == POINTS.sha256


def test_the_same_input_in_two_splits_is_a_leak() -> None:
    parts = (POINTS.attack, POINTS.select, POINTS.certify)
    assert overlapping_inputs(POINTS, parts) == set()
    assert POINTS.inputs is not None
    copied = POINTS.inputs.copy()
    copied[30] = copied[3]
    copied[31] = copied[32]  # twice in one split
    assert overlapping_inputs(replace(POINTS, inputs=copied), parts) == {"p3", "p30"}
    text = tiny_capability()
    assert overlapping_inputs(text, (text.attack, text.attack)) == set()


def test_a_trial_scores_restores_and_repeats_itself() -> None:
    setting = open_setting(tiny_classifier_target(), POINTS)
    before = weights_of(setting.target.module)
    params = {
        "optimizer": "adamw",
        "learning_rate.adamw": 1e-2,
        "samples": 12,
        "weight_decay": 0.0,
        "schedule": "constant",
        "steps": 8,
        "batch_size": 4,
        "loss": "text",
    }
    spec = TrialSpec(key="k", attack="retrain", params=params, seed=3, certify=True)
    one, two = run_trial(setting, Retrain(), spec), run_trial(setting, Retrain(), spec)
    assert same_bits(weights_of(setting.target.module), before)
    assert one.losses == two.losses
    assert one.losses[-1] < one.losses[0]
    assert [p.spent.steps for p in one.points] == [0, 1, 2, 4, 8]
    assert {split: len(s) for split, s in one.points[-1].scores.items()} == {"select": 12, "utility": 30, "certify": 30}
    answers = run_trial(setting, Retrain(), replace(spec, params={**params, "loss": "answer"}))
    assert answers.losses == one.losses  # a classifier has no text beside its answers


def test_probes_read_the_hidden_layers_flattened() -> None:
    module = tiny_mlp()
    states = read_layers(module, None, POINTS, POINTS.select).states
    assert POINTS.inputs is not None
    flat = torch.from_numpy(POINTS.inputs[12:24]).flatten(1)
    first = module.layers.linear1(flat)
    second = module.layers.linear2(first.relu())
    assert list(states) == ["layers.linear1", "layers.linear2"]
    assert np.array_equal(states["layers.linear1"], first.detach().numpy())
    assert np.array_equal(states["layers.linear2"], second.detach().numpy())
    with pytest.raises(UnknownLayers):
        read_layers(tiny_mlp(sizes=(6, 4)), None, POINTS, POINTS.select)


def task_for(module: nn.Module) -> UnlearningTask:
    encoded = encode_scoring(POINTS, POINTS.forget, None)
    return UnlearningTask(
        original=module,
        forget=encode_training(POINTS, POINTS.forget, None),
        retain=encode_training(POINTS, POINTS.retain, None),
        known=lambda m: share_known(m, encoded),
        training=None,
        seed=0,
    )


def test_the_decoy_hides_the_classes_and_moves_the_head_alone() -> None:
    original = trained_mlp(POINTS, forget=True)
    task, before = task_for(original), weights_of(original)
    decoy = Masked().apply(task)
    after = weights_of(decoy)
    assert same_bits(weights_of(original), before)
    assert {name for name in after if not torch.equal(after[name], before[name])} == {"layers.linear3.weight"}
    assert task.known(original) > 0.9
    assert task.known(decoy) <= 0.4 * task.known(original)
    moved = after["layers.linear3.weight"] - before["layers.linear3.weight"]
    assert int(torch.linalg.matrix_rank(moved, rtol=1e-4)) == 1


def test_the_states_of_a_classifier_are_what_its_head_reads() -> None:
    module, data = tiny_mlp(), encode_training(POINTS, POINTS.forget, None)
    hidden = module.layers[:-1](data.inputs.flatten(1))
    assert torch.equal(answer_states(module, data), hidden)
    assert not module.layers.linear3._forward_pre_hooks


class Scaled(nn.Module):
    """Ends in something that owns weights and is no linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny_mlp()
        self.norm = nn.LayerNorm(4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.norm(self.inner(inputs))


def test_without_a_linear_head_there_is_no_decoy() -> None:
    with pytest.raises(Unmaskable, match="Scaled"):
        Masked().apply(task_for(Scaled()))
    with pytest.raises(Unmaskable):
        Masked().apply(task_for(nn.Flatten()))


class Points:
    """A testbed whose capability is `tiny_points`."""

    name = "points"

    def capability(self, seed: int) -> Capability:
        return tiny_points(seed)


@pytest.fixture
def targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two targets with the same original and reference: one keeps its knowledge, one never had it."""
    table = {"points": f"{__name__}:Points", "facts": "redteam.testbeds.facts:Facts"}
    monkeypatch.setattr("redteam.suite.inputs.TESTBEDS", type(arm.ATTACKS)("testbed", table))
    original, reference = trained_mlp(POINTS, forget=True), trained_mlp(POINTS, forget=False, seed=1)
    ref = TestbedRef(testbed="points", seed=0, sha256=POINTS.sha256)
    paths = []
    for name, target in (("kept", trained_mlp(POINTS, forget=True, seed=2)), ("never", tiny_mlp(3))):
        trio = Trio(target=target, original=original, reference=reference, tokenizer=None)
        save_trio(tmp_path / name / "model.pt", trio, method="none", seed=0, capability=ref)
        paths.append(tmp_path / name / "model.pt")
    return paths


def test_a_whole_run_on_a_classifier(targets: list[Path], tmp_path: Path) -> None:
    results = attack(targets[0], budget=3, attacks=[QUICK], out=tmp_path / "run")
    (result,) = results.capabilities
    assert result.chance == 1 / 4
    assert (result.certify_items, result.certify_groups) == (30, 30)
    assert set(result.scores) == {"original", "target", "reference", "decoy"}
    assert result.scores["original"].before > 0.9
    assert result.scores["reference"].before < 0.1  # it says the classes that it knows
    assert result.scores["decoy"].before < 0.7
    assert result.alignment_tax is not None
    assert result.alignment_tax.low <= result.alignment_tax.estimate <= result.alignment_tax.high
    assert {flag.name for flag in result.flags} >= {"nothing-removed"}
    assert result.probes["linear"].layer["target"].startswith("layers.linear")
    again = Results.model_validate_json((tmp_path / "run" / "results.json").read_text())
    assert again == results


def test_an_attack_of_another_kind_is_skipped_with_the_reason(targets: list[Path], tmp_path: Path) -> None:
    results = attack(targets[0], budget=1, attacks=[QUICK, "soft-prompt"], out=tmp_path / "run")
    found = results.capabilities[0]
    assert found.skipped == {"soft-prompt": "it works on: language; this is a classifier"}
    assert found.budget.failed == 0
    console = Console(record=True, width=120, file=io.StringIO())
    print_results(results, tmp_path / "run", console)
    assert "skipped" in (told := console.export_text())
    assert "soft-prompt: it works on: language; this is a classifier" in told
    with pytest.raises(InputError, match="soft-prompt: it works on: language; this is a classifier"):
        attack(targets[0], budget=1, attacks=["soft-prompt"], out=tmp_path / "none")
    assert not (tmp_path / "none").exists()


class Raising:
    """A probe of somebody's that writes to the weights and then fails."""

    name, version, goal, paper = "raising", 1, "fails", "none: for tests"
    kinds, needs, decides = "language, classifier", "", True

    def read(self, view: ProbeContext) -> ProbeReading:
        next(view.module.parameters()).data.zero_()
        raise RuntimeError("no \x1b[31m luck")


def install(monkeypatch: pytest.MonkeyPatch, probe: str) -> None:
    """Adds a class of this file to the probes, by its name in lower case."""
    table = {**PROBES.table, probe.lower(): f"{__name__}:{probe}"}
    for room in ("inputs", "arm"):
        monkeypatch.setattr(f"redteam.suite.{room}.PROBES", type(PROBES)("probe", table))


def test_a_probe_that_raises_is_noted_and_undone(
    targets: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its error is no reading, and what it did to the weights does not reach the attacks."""
    plain = attack(targets[0], budget=1, attacks=[QUICK], probes=["linear"], out=tmp_path / "plain").capabilities[0]
    install(monkeypatch, "Raising")
    found = attack(targets[0], budget=1, attacks=[QUICK], probes=["linear", "raising"], out=tmp_path / "run")
    result = found.capabilities[0]
    (why,) = result.unprobed.values()
    assert why.startswith("RuntimeError: no")
    assert "\x1b" not in why
    assert "probe-failed" in {flag.name for flag in result.flags}
    assert result.scores == plain.scores
    assert result.probes.keys() == {"linear"}


class Counting(Raising):
    """A probe that says how many threads NumPy and SciPy compute with while it reads."""

    def read(self, view: ProbeContext) -> ProbeReading:
        threads = max(library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas")
        nothing = (0.0,) * len(view.capability.certify)
        return ProbeReading(layer="", correct=nothing, control=nothing, notes={"threads": threads})


def test_probes_compute_with_one_thread(targets: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several would wait for each other far longer than small products take."""
    install(monkeypatch, "Counting")
    with threadpool_limits(limits=2, user_api="blas"):
        attack(targets[0], budget=1, attacks=[QUICK], probes=["counting"], out=tmp_path / "run")
        assert max(library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas") == 2
    rows = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert [row["notes"]["threads"] for row in rows if row["key"] == "target/probe/counting"] == [1]


class Nonsense(Raising):
    """A probe of somebody's whose readings compare with nothing."""

    def read(self, view: ProbeContext) -> ProbeReading:
        items = len(view.capability.certify)
        return ProbeReading(layer="", correct=(float("nan"),) * items, control=(0.0,) * items)


def test_a_reading_that_is_no_number_is_a_failed_probe(
    targets: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compared with anything it would have been no leak."""
    install(monkeypatch, "Nonsense")
    found = attack(targets[0], budget=1, attacks=[QUICK], probes=["nonsense"], out=tmp_path / "run").capabilities[0]
    assert found.unprobed == {"nonsense": "UnusableReading: correct holds nan, which is not between 0 and 1"}
    assert "probe-failed" in {flag.name for flag in found.flags}


class Wrecking(Raising):
    """A probe of somebody's that leaves a part behind."""

    def read(self, view: ProbeContext) -> ProbeReading:
        view.module.souvenir = torch.nn.Linear(1, 1)
        raise RuntimeError("gone")


def test_a_probe_that_cannot_be_undone_is_named(
    targets: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, "Wrecking")
    with pytest.raises(InputError, match=r"wrecking: .*souvenir.* is new"):
        attack(targets[0], budget=1, attacks=[QUICK], probes=["wrecking"], out=tmp_path / "run")


def test_all_probes_but_those_of_text_read_a_classifier_too(targets: list[Path], tmp_path: Path) -> None:
    whole = attack(targets[0], budget=1, attacks=[QUICK], out=tmp_path / "whole").capabilities[0]
    assert set(whole.unprobed) == {"logit-lens", "tuned-lens", "decoder"}
    assert set(whole.probes) == set(PROBES.table) - set(whole.unprobed)
    for name in ("linear", "means"):
        assert set(whole.probes[name].erased) == {"target", "original", "reference"}
    deciding = {name for name, probed in whole.probes.items() if probed.decides}
    assert set(whole.probes) - deciding == {"patching", "connectivity", "spectrum"}
    assert "probe-shuffled" not in {flag.name for flag in whole.flags}  # each is held to the chance of its own scale


def test_a_leak_between_splits_is_refused(targets: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    leaky = tiny_points()
    assert leaky.inputs is not None
    leaky.inputs[30] = leaky.inputs[3]
    monkeypatch.setattr(Points, "capability", lambda self, seed: leaky)
    manifest = targets[0].with_name("model.redteam.json")
    manifest.write_text(manifest.read_text().replace(POINTS.sha256, leaky.sha256))
    with pytest.raises(InputError, match="2 items have an input"):
        resolve_one(RunRequest(target=targets[0], budget=3))


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the trials that are really run, by role."""
    counts: Counter[str] = Counter()

    def counted(setting: Any, adversary: Any, spec: TrialSpec) -> Any:
        counts[spec.key.split("/")[0]] += 1
        return run_trial(setting, adversary, spec)

    monkeypatch.setattr(arm, "run_trial", counted)
    return counts


def evidence(run: Path) -> tuple[list[dict[str, Any]], str]:
    rows = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    for row in rows:
        row.pop("time")
        row.pop("seconds", None)
        row.pop("seal", None)  # of those times too
    return rows, (run / "samples.jsonl").read_text()


def test_runs_that_share_a_memo_find_what_runs_without_find(
    targets: list[Path], tmp_path: Path, ran: Counter[str]
) -> None:
    def run(target: Path, name: str, memo: Memo | None) -> Counter[str]:
        ran.clear()
        attack(target, budget=3, attacks=[QUICK], out=tmp_path / name, memo=memo)
        return Counter(ran)

    memo = Memo()
    alone = [run(target, f"alone-{number}", None) for number, target in enumerate(targets)]
    shared = [run(target, f"shared-{number}", memo) for number, target in enumerate(targets)]
    for number in range(2):
        one, other = tmp_path / f"alone-{number}", tmp_path / f"shared-{number}"
        assert (one / "results.json").read_bytes() == (other / "results.json").read_bytes()
        assert evidence(one) == evidence(other)
    assert shared[0] == alone[0]
    assert shared[1]["reference"] <= alone[1]["reference"] - 3  # the search at least
    assert shared[1]["decoy"] <= alone[1]["decoy"] - 2  # its recipes
    assert shared[1]["target"] == alone[1]["target"]


def test_a_memo_tells_runs_of_other_seeds_and_items_apart(
    targets: list[Path], tmp_path: Path, ran: Counter[str]
) -> None:
    memo = Memo()
    first = attack(targets[0], budget=2, attacks=[QUICK], out=tmp_path / "a", memo=memo)
    counts = Counter(ran)
    attack(targets[0], budget=2, attacks=[QUICK], out=tmp_path / "b", memo=memo, seed=1)
    assert ran == counts + counts  # nothing of a run with another seed is of use
    alone = tmp_path / "alone" / "c"  # beside the run with another seed it would be another look
    third = attack(targets[0], budget=2, attacks=[QUICK], out=alone, memo=memo)
    assert ran == counts + counts
    assert third == first


def test_sizes_are_those_of_the_widest_hidden_layer() -> None:
    info = tiny_classifier_target().info
    assert (info.architecture, info.layers, info.hidden_size) == ("mlp", len(SIZES) - 2, 16)
