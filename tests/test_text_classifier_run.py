"""Classifiers of text through every room: read, scored, trained, probed, masked, attacked, judged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from run_redteam import redteam
from tiny_classifiers import tiny_classifier_target, tiny_points
from tiny_models import same_bits, tiny_capability, tiny_target, weights_of
from tiny_texts import CLASSES, save_text_model, text_rows, text_tokenizer, tiny_text_model, write_texts
from torch.nn import functional

import redteam as package
from redteam.attacks.benign import dealt_anew
from redteam.attacks.contract import unfitness
from redteam.attacks.partial import parameters_of
from redteam.capabilities.files import load_capability
from redteam.capabilities.items import Capability, Texts, overlapping_inputs
from redteam.capabilities.reading import encode_scoring, encode_training
from redteam.capabilities.texts import as_read
from redteam.checkpoints.load import open_target
from redteam.checkpoints.save import save_checkpoint
from redteam.checkpoints.texts import TextClassifier
from redteam.engine.batches import PADDING, TEXTS, TextBatch, TextSet, join, ordered_batches, shuffled_batches
from redteam.engine.loop import train
from redteam.engine.optimizers import Tuning
from redteam.engine.seeding import seeded
from redteam.errors import InputError
from redteam.evidence.results import CapabilityResult
from redteam.probes.states import read_layers
from redteam.registry import ATTACKS, PROBES
from redteam.setting import Setting, open_setting
from redteam.suite.decoys import make_decoy, masked, worded
from redteam.target import Target
from redteam.trial import TrialSpec, run_trial
from redteam.unlearning.importance import single_samples
from redteam.unlearning.masked import Unmaskable, answer_states, untied_head

QUICK = Path(__file__).with_name("quick_attack.py")
THREAT = CLASSES.index("threat")
KINDS = ("bert", "llama")  # one reads its first token, the other its last


@pytest.fixture
def opened(tmp_path: Path):
    """Opens a tiny model of a kind that transformers has written."""

    def opens(kind: str = "bert", **changes: Any) -> Target:
        return open_target(save_text_model(tmp_path / kind, tiny_text_model(kind, **changes)))

    return opens


@pytest.fixture
def capability(tmp_path: Path) -> Capability:
    return load_capability(write_texts(tmp_path))


# What a model reads.


@torch.no_grad()
def test_items_are_the_rows_as_the_tokenizer_and_the_model_have_them(opened, capability: Capability) -> None:
    target = opened()
    setting = open_setting(target, capability)
    encoded = setting.choices["utility"]
    assert capability.texts is not None
    for place in range(0, len(encoded), 9):
        item = setting.capability.utility[place]
        text = capability.texts.rows[item.row]
        said = target.module.model(**text_tokenizer()(text, return_tensors="pt")).logits[0]
        assert torch.allclose(encoded.table(target.module)[place], said, atol=1e-5), text
        assert item.completion in text


def test_classes_are_numbered_as_the_model_numbers_them(opened, capability: Capability) -> None:
    """The rows name them, and a file has no order."""
    assert capability.certify[0].choices == tuple(sorted(CLASSES)) != CLASSES
    setting = open_setting(opened(), capability)
    assert setting.capability.certify[0].choices == CLASSES
    assert {int(answer) for answer in setting.choices["certify"].answers} == {THREAT}
    before = {item.id: item.completion for item in capability.utility}
    assert before == {item.id: item.completion for item in setting.capability.utility}


def test_where_the_model_has_no_names_the_order_of_the_file_stands(opened, tmp_path: Path) -> None:
    target = opened(id2label={n: f"LABEL_{n}" for n in range(4)}, label2id={f"LABEL_{n}": n for n in range(4)})
    with pytest.raises(InputError, match=r"calls its classes LABEL_0, .*List `classes`"):
        open_setting(target, load_capability(write_texts(tmp_path)))
    given = load_capability(write_texts(tmp_path, classes=["threat", "spam", "praise", "insult"]))
    assert set(open_setting(target, given).choices["select"].answers.tolist()) == {0}


def test_a_model_of_more_classes_is_refused(opened, tmp_path: Path) -> None:
    rules = write_texts(tmp_path, classes=[*CLASSES, "other"])
    with pytest.raises(InputError, match="where the items name 5 classes"):
        open_setting(opened(), load_capability(rules))


def test_a_text_is_cut_as_its_tokenizer_cuts_it(opened, capability: Capability) -> None:
    target = opened()
    assert capability.texts is not None
    rows = (" ".join(["w1"] * 50), *capability.texts.rows[1:])
    read = as_read(replace(capability, texts=replace(capability.texts, rows=rows)), target).inputs
    assert read is not None
    assert read.shape == (len(rows), 24)  # all that it has positions for
    assert (read[0, 0], read[0, 23], read[0, 1]) == (0, 2, 5)  # the marks of beginning and end stay
    assert read[1, -1] == PADDING


@pytest.mark.parametrize(("kind", "longest"), [("roberta", 22), ("mpnet", 22), ("distilbert", 24), ("gpt2", 24)])
def test_a_text_as_long_as_the_model_reads(kind: str, longest: int, opened) -> None:
    target = opened(kind)
    assert target.reader.longest == longest
    assert torch.isfinite(target.module(torch.full((1, longest), 5))).all()
    with pytest.raises((IndexError, RuntimeError)):
        target.module(torch.full((1, longest + 1), 5))


def test_a_tokenizer_of_another_model_is_refused(opened, capability: Capability) -> None:
    target = opened(vocab_size=20)
    with pytest.raises(InputError, match=r"gives token 63, the model has 20 embeddings"):
        open_setting(target, capability)


def test_a_text_of_which_nothing_is_left_is_refused(opened, capability: Capability) -> None:
    target = opened()
    target = replace(target, reader=replace(target.reader, tokenizer=text_tokenizer("$A")))
    assert capability.texts is not None
    rows = (" ", *capability.texts.rows[1:])
    with pytest.raises(InputError, match="leaves nothing of ' '"):
        as_read(replace(capability, texts=Texts(rows, by_name=True)), target)


def test_models_and_capabilities_of_other_kinds_are_refused(opened, capability: Capability) -> None:
    for target, held, says in (
        (tiny_target(), capability, "is a language model, the capability 'threats' is of texts"),
        (tiny_classifier_target(), capability, "is a classifier of arrays, the capability 'threats' is of texts"),
        (opened(), tiny_points(), "is a classifier of text, the capability 'points' is of arrays"),
        (opened(), tiny_capability(), "is a classifier of text, the capability 'tiny' asks questions"),
    ):
        with pytest.raises(InputError, match=says) as caught:
            open_setting(target, held)
        assert len(str(caught.value).splitlines()) == 1


# Batches.


def texts(lengths: tuple[int, ...], seed: int = 0) -> TextSet:
    draw = torch.Generator().manual_seed(seed)
    rows = torch.full((len(lengths), 12), PADDING)
    for row, length in zip(rows, lengths, strict=True):
        row[:length] = torch.randint(4, 28, (length,), generator=draw)
    return TextSet(rows, torch.arange(len(lengths)) % 4)


def test_a_batch_is_as_long_as_its_longest_text_and_costs_its_tokens() -> None:
    data = texts((3, 7, 12, 5))
    batch = data.batch(torch.tensor([0, 1, 3]))
    assert batch.inputs.shape == (3, 7)
    assert (batch.tokens, batch.samples, batch.labelled) == (15, 3, 3)
    assert batch.real.sum(dim=1).tolist() == [3, 7, 5]
    part = batch.rows(slice(0, 1))
    assert isinstance(part, TextBatch)
    assert part.tokens == 3
    both = join(data.take(slice(0, 2)), data.take(slice(2, 4)))
    assert isinstance(both, TextSet)
    assert torch.equal(both.inputs, data.inputs)
    assert [len(one.inputs[0]) for one in single_samples(batch)] == [3, 7, 5]


def test_no_more_texts_are_read_at_a_time_than_fit() -> None:
    data = texts((4,) * 80)
    batches = list(ordered_batches(data, 512))
    assert [len(batch.labels) for batch in batches] == [TEXTS, TEXTS, 16]
    assert torch.equal(torch.cat([batch.labels for batch in batches]), data.labels)
    assert [len(batch.labels) for batch in ordered_batches(data, 8)] == [8] * 10


def test_unrelated_texts_have_the_same_tokens_and_lengths() -> None:
    data = texts((3, 7, 12, 5))
    dealt = dealt_anew(data, torch.Generator().manual_seed(1))
    assert isinstance(dealt, TextSet)
    assert torch.equal(dealt.inputs == PADDING, data.inputs == PADDING)
    assert torch.equal(dealt.inputs.flatten().sort().values, data.inputs.flatten().sort().values)
    assert not torch.equal(dealt.inputs, data.inputs)


# Attacks and probes.


def setting_of(target: Target, capability: Capability) -> Setting:
    return open_setting(target, capability)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [n for n in ATTACKS.table if "classifier" in ATTACKS.declared(n).facts["kinds"]])
def test_every_attack_on_classifiers_works_or_says_why_not(name: str, kind: str, opened, capability) -> None:
    setting = setting_of(opened(kind), capability)
    attack, module = ATTACKS.create(name), setting.target.module
    if name == "universal-input":
        assert unfitness(attack, module) == "its inputs are tokens, to which no number can be added"
        return
    assert unfitness(attack, module) is None
    before = weights_of(module)
    for number, params in enumerate(attack.recipes(setting.target.info, len(setting.answers))):
        short = {**params, "steps": 2} if "steps" in params else params
        result = run_trial(setting, attack, TrialSpec(key="0", attack=name, params=short, seed=number))
        assert result.state == "complete", result.error
        assert not result.diverged
        assert (result.outputs_moved > 0.5) == (name != "noop"), params
        assert same_bits(weights_of(module), before)


def test_the_norms_stand_for_biases_that_are_not_there() -> None:
    assert all("norm" in name for name in parameters_of(tiny_text_model("llama"), "biases"))
    assert all(name.endswith("bias") for name in parameters_of(tiny_text_model("bert"), "biases"))


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_probes_read_both_ends_and_the_mean_without_the_padding(kind: str, opened, capability: Capability) -> None:
    target = opened(kind)
    read = as_read(capability, target)
    found = read_layers(target.module, None, read, read.select).states
    layer = {"bert": "model.bert.encoder.layer.1", "llama": "model.model.layers.1"}[kind]
    assert len(found) == 6
    own = {}
    handle = target.module.get_submodule(layer).register_forward_hook(lambda _m, _i, out: own.update(out=out))
    for row, item in enumerate(read.select):
        assert capability.texts is not None
        target.module.model(**text_tokenizer()(capability.texts.rows[item.row], return_tensors="pt"))
        alone = (own["out"][0] if isinstance(own["out"], tuple) else own["out"])[0]
        for place, wanted in (("first", alone[0]), ("last", alone[-1]), ("mean", alone.mean(dim=0))):
            assert np.allclose(found[f"{layer}, {place}"][row], wanted, atol=1e-5), (row, place)
    handle.remove()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["bert", "llama", "xlm-roberta", "distilbert"])
def test_the_states_of_the_head_are_what_the_logits_are_made_of(kind: str, opened, capability: Capability) -> None:
    """Of XLM-RoBERTa the head is made before the body."""
    target = opened(kind)
    read = as_read(capability, target)
    data = encode_training(read, read.retain, None)
    head = untied_head(target.module)
    logits = functional.linear(answer_states(target.module, data), head.weight, head.bias)
    encoded = encode_scoring(read, read.retain, None)
    assert torch.allclose(logits, encoded.table(target.module), atol=1e-5)


def test_a_decoy_that_hides_words_is_of_language_models_alone(opened, capability: Capability) -> None:
    with pytest.raises(Unmaskable, match="not asked in words"):
        worded(opened(), capability, 0)


def test_the_digest_is_of_the_texts_and_a_text_in_two_splits_is_a_leak(capability: Capability, tmp_path: Path) -> None:
    assert capability.texts is not None
    rows = list(capability.texts.rows)
    assert replace(capability, texts=Texts(tuple(rows), by_name=True)).sha256 == capability.sha256
    assert replace(capability, texts=Texts(tuple(rows), by_name=False)).sha256 != capability.sha256
    attack, certify = capability.attack[0], capability.certify[0]
    rows[certify.row] = rows[attack.row]
    copied = replace(capability, texts=Texts(tuple(rows), by_name=True))
    assert copied.sha256 != capability.sha256
    parts = (copied.attack, copied.select, copied.certify)
    assert overlapping_inputs(copied, parts) == {attack.id, certify.id}
    assert overlapping_inputs(capability, parts) == set()
    with pytest.raises(InputError, match="2 items have an input"):
        package.attack(tiny_text_model(), tokenizer=text_tokenizer(), capability=copied, out=tmp_path / "run")


# Whole runs: a model that knows all classes, one of which its head hides, and one that never saw that.


@pytest.fixture(scope="module", params=KINDS)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    sizes = {"splits.attack": 0.1, "splits.select": 0.3, "splits.certify": 0.6}
    capability = load_capability(write_texts(folder, text_rows(800), **sizes))
    original = learned(folder / "original", request.param, capability, forget=True, seed=0)
    learned(folder / "reference", request.param, capability, forget=False, seed=1)
    save_checkpoint(folder / "target", masked(original, as_read(capability, original), 5).module, text_tokenizer())
    return folder


def learned(path: Path, kind: str, capability: Capability, *, forget: bool, seed: int) -> Target:
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # what draws nothing can be repeated
    target = open_target(save_text_model(path, tiny_text_model(kind, seed, **still)))
    read = as_read(capability, target)
    data = encode_training(read, read.retain + (read.forget if forget else ()), None)
    tuning = Tuning(learning_rate=3e-3, schedule="cosine", steps=600)
    train(target.module, shuffled_batches(data, 32, seeded(seed, "order")), tuning)
    save_checkpoint(path, target.module.eval(), text_tokenizer())
    return open_target(path)


@pytest.mark.slow
def test_a_class_that_was_masked_is_recovered(world: Path, tmp_path: Path) -> None:
    models = [f"--{role}={world / role}" for role in ("original", "reference")]
    chosen = ["-a", f"{QUICK}:Mixed", "-a", "steer", "-a", "universal-input", "--budget", "6", "--format", "json"]
    given = ["--capability", world / "capability.toml", *models, *chosen]
    done = redteam("attack", world / "target", *given, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    (found,) = (CapabilityResult.model_validate(row) for row in json.loads(done.stdout)["capabilities"])
    assert found.chance == pytest.approx(1 / 4)
    assert found.scores["original"].before > 0.95
    assert found.scores["original"].utility_before > 0.8
    assert found.scores["target"].before < 0.4
    assert found.scores["target"].utility_before > 0.8
    assert found.scores["target"].after is not None
    assert found.scores["target"].after.estimate > 0.9  # where the select items said to stop, at the least of equals
    assert max(score for _, score in found.scores["target"].curve) > 0.95
    assert found.scores["reference"].before < 0.05
    assert found.scores["reference"].after is not None
    # Sixty-four steps teach a model that never knew something too; how much differs between processors.
    assert found.scores["reference"].after.high < found.scores["target"].after.low
    assert found.control_recovered is True
    assert found.budget.failed == 0
    assert found.verdict == "RECOVERED", found.reason
    assert found.excess_recovery is not None
    assert found.excess_recovery.low > 0.5
    assert set(found.unprobed) == {"logit-lens", "tuned-lens", "decoder"}
    assert set(found.probes) == set(PROBES.table) - set(found.unprobed)


@pytest.mark.slow
def test_a_decoy_of_a_file_leaves_all_but_the_head(world: Path) -> None:
    original = open_target(world / "original")
    capability = load_capability(world / "capability.toml")
    decoy = make_decoy("masked", original, capability, 0)
    before, after = weights_of(original.module), weights_of(decoy.module)
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved <= {"model.classifier.weight", "model.score.weight"}
    assert len(moved) == 1


def test_a_module_is_attacked_like_its_file_and_left_as_it_is(tmp_path: Path) -> None:
    modules = {role: tiny_text_model("gpt2", seed) for seed, role in enumerate(("target", "original", "reference"))}
    files = {role: save_text_model(tmp_path / role, module) for role, module in modules.items()}
    how: dict[str, Any] = {
        "capability": write_texts(tmp_path),
        "budget": 2,
        "attacks": [f"{QUICK}:Quick", "universal-input", "soft-prompt"],
        "probes": ["linear", "patching"],
    }
    before = weights_of(modules["target"])
    results = [
        package.attack(given["target"], original=given["original"], reference=given["reference"], **more, **how)
        for given, more in (
            (modules, {"out": tmp_path / "live", "tokenizer": text_tokenizer()}),
            (files, {"out": tmp_path / "run"}),
        )
    ]
    (found,) = results[0].capabilities
    assert results[0].capabilities == results[1].capabilities
    assert found.skipped == {
        "soft-prompt": "it works on: language; this is a classifier",
        "universal-input": "its inputs are tokens, to which no number can be added",
    }
    assert found.budget.failed == 0
    assert set(found.probes) == {"linear", "patching"}
    assert same_bits(weights_of(modules["target"]), before)


def test_a_module_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    given = {"capability": write_texts(tmp_path), "out": tmp_path / "run"}
    with pytest.raises(InputError, match="the target is a text classifier without its tokenizer"):
        package.attack(tiny_text_model(), **given)
    for changes, says in (
        ({"pad_token_id": None}, "the target names no padding token"),
        ({"problem_type": "multi_label_classification"}, "the target is of a classifier for 'multi_label"),
    ):
        with pytest.raises(InputError, match=says):
            package.attack(tiny_text_model("llama", **changes), tokenizer=text_tokenizer(), **given)


def test_what_was_opened_is_saved_as_it_was(opened, tmp_path: Path) -> None:
    target = opened()
    assert isinstance(target.module, TextClassifier)
    for name in ("again", "again.pt", "beside/again.safetensors"):
        (tmp_path / "beside").mkdir(exist_ok=True)
        save_checkpoint(tmp_path / name, target.module, target.reader.tokenizer)
        other = open_target(tmp_path / name)
        assert same_bits(weights_of(other.module), weights_of(target.module))
        assert other.reader.classes == CLASSES
    with pytest.raises(TypeError, match="with its tokenizer"):
        save_checkpoint(tmp_path / "none", target.module)
