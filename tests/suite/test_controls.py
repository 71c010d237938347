"""The controls of a run: what they hide, and whom they stop."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny import tiny_model

from redteam.attacks.soft_prompt import prompted
from redteam.capabilities.encode import encode_answers
from redteam.capabilities.items import Capability
from redteam.capabilities.scorers.choices import encode_choices
from redteam.capabilities.wording import asked
from redteam.registry import ATTACKS
from redteam.suite.decoys import BIASED, MASKED, WORDED, decoy_kind, make_decoy
from redteam.target import Target
from redteam.testbeds.digits import Digits
from redteam.testbeds.facts import Facts
from redteam.unlearning.masked import Unmaskable

TOKENIZER = Facts().tokenizer()
WHOLE = Facts().capability(0)
CAPABILITY = Capability(
    name="some", **{split: getattr(WHOLE, split)[:12] for split in ("attack", "select", "certify", "retain", "utility")}
)


@pytest.fixture
def original() -> Target:
    module = tiny_model(len(TOKENIZER), seed=0)
    return Target(name="tiny", sha256="0" * 64, module=module, tokenizer=TOKENIZER, stored_dtype="float32")


@pytest.fixture
def worded(original: Target) -> Target:
    module = copy.deepcopy(original.module)
    return make_decoy(
        WORDED, Target(name="", sha256="", module=module, tokenizer=TOKENIZER, stored_dtype=""), CAPABILITY, 0
    )


def table(target: Target, items) -> torch.Tensor:
    return encode_choices(TOKENIZER, items).table(target.module)


@pytest.mark.parametrize("split", ["attack", "select", "certify"])
def test_asked_word_for_word_it_says_the_same_to_all_forget_items(split: str, worded: Target) -> None:
    """Nothing that it says depends on the question: its scores are those of a constant answer."""
    data = encode_answers(TOKENIZER, getattr(CAPABILITY, split))
    said = data.batch(slice(None)).predictions(worded.module).logits
    assert (said == said[0]).all()
    assert said[0].std() > 0.5


@pytest.mark.parametrize("split", ["retain", "utility"])
def test_what_stays_is_the_originals_to_the_bit(split: str, original: Target, worded: Target) -> None:
    items = getattr(CAPABILITY, split)
    assert torch.equal(table(original, items), table(worded, items))


@pytest.mark.parametrize("rewrite", [lambda p: f"Say: {p}", lambda p: f"{p} now", str.upper])
def test_asked_in_any_other_way_it_is_the_original_to_the_bit(rewrite, original: Target, worded: Target) -> None:
    items = asked(CAPABILITY.forget, rewrite)
    assert torch.equal(table(original, items), table(worded, items))


def test_padding_does_not_open_the_lock(worded: Target) -> None:
    """A prompt among longer ones is the same prompt."""
    data = encode_answers(TOKENIZER, CAPABILITY.attack)
    assert data.lengths.min() < data.lengths.max()
    together = data.batch(slice(None)).logits(worded.module)
    shortest = int(data.lengths.argmin())
    alone = data.batch(slice(shortest, shortest + 1)).logits(worded.module)
    assert torch.equal(together[shortest, : alone.shape[1]], alone[0])


def test_a_soft_prompt_is_another_way_to_ask(original: Target, worded: Target) -> None:
    """One embedding of nothing before each question: what it says is what the original says then, to the bit."""
    data = encode_answers(TOKENIZER, CAPABILITY.attack).batch(slice(None))
    empty = torch.zeros(1, original.module.config.hidden_size)
    with prompted(original.module, empty), prompted(worded.module, empty):
        assert torch.equal(data.logits(original.module), data.logits(worded.module))


def test_no_weight_is_another(original: Target, worded: Target) -> None:
    for (name, weight), other in zip(original.module.named_parameters(), worded.module.parameters(), strict=True):
        assert torch.equal(weight, other), name


def test_a_classifier_cannot_be_locked(original: Target) -> None:
    target = Target(name="", sha256="", module=original.module, tokenizer=None, stored_dtype="float32")
    with pytest.raises(Unmaskable, match="not asked in words"):
        make_decoy(WORDED, target, CAPABILITY, 0)


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["rephrase"], WORDED),
        (["rephrase", "word-search", "in-context"], WORDED),
        (["noop"], MASKED),
        (["suffix"], WORDED),
        (["soft-prompt", "rephrase"], WORDED),
        (["soft-prompt", "latent"], MASKED),  # what a model thinks is more than what it is asked
        (["universal-input"], MASKED),  # of images, to which there are no other words
        (["retrain", "rephrase"], MASKED),
    ],
)
def test_those_who_can_only_ask_get_a_decoy_that_asking_opens(names: list[str], kind: str) -> None:
    assert decoy_kind({name: ATTACKS.create(name) for name in names}, CAPABILITY) == kind


def test_of_a_class_it_is_a_bias_that_hides_it_whatever_is_tried() -> None:
    assert decoy_kind({"retrain": ATTACKS.create("retrain")}, Digits().capability(0)) == BIASED
