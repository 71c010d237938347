"""Membership inference against a plain-Python oracle, planted ranks, and models that know or do not."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_classifiers import tiny_mlp, tiny_points, trained_mlp
from tiny_models import same_bits, tiny_llama, weights_of, word_tokenizer
from tiny_tasks import hooks_of
from tiny_views import knowing_llama, near, planted_classifier, text_capability, view_of

from redteam.capabilities.items import Item
from redteam.capabilities.reading import encode_scoring
from redteam.capabilities.scorers.contract import NotFinite, item_scores
from redteam.probes import membership as membership_module
from redteam.probes.membership import Membership, mean_of_lowest, share_beaten, statistics, token_loglikelihoods

MANY = pytest.mark.parametrize("many", [False, True], ids=["one token", "many tokens"])


def by_hand(module: torch.nn.Module, item: Item, choice: str) -> dict[str, float]:
    """The statistics of one text, unpadded and alone, in plain Python."""
    ids = word_tokenizer()(f"{item.prompt} {choice}")["input_ids"]
    with torch.no_grad():
        logits = module(torch.tensor([ids])).logits[0].double().tolist()
    tokens = []
    for row, following in zip(logits, ids[1:], strict=False):
        top = max(row)
        tokens.append(row[following] - top - math.log(sum(math.exp(value - top) for value in row)))
    found = {"loss": sum(tokens) / len(tokens), "sum": sum(tokens)}
    for share in (20, 50):
        count = max(1, len(tokens) * share // 100)
        found[f"min-{share}%"] = sum(sorted(tokens)[:count]) / count
    return found


def tied(left: float, right: float) -> bool:
    """Alone and in other company the same text differs by a few millionths."""
    return math.isclose(left, right, abs_tol=1e-5)


@MANY
def test_statistics_and_scores_are_those_of_a_plain_loop(many: bool) -> None:
    module, capability = tiny_llama(), text_capability(many=many)
    encoded = encode_scoring(capability, capability.certify, word_tokenizer())
    found = statistics(module, encoded)
    assert list(found) == ["loss", "min-20%", "min-50%", "sum"]
    for name, table in found.items():
        scores = share_beaten(table, encoded)
        for row, item in enumerate(capability.certify):
            expected = [by_hand(module, item, choice)[name] for choice in item.choices]
            assert table[row, : len(item.choices)].tolist() == pytest.approx(expected, abs=2e-5)
            member = expected[item.answer]
            others = [value for index, value in enumerate(expected) if index != item.answer]
            points = [0.5 if tied(member, other) else float(member > other) for other in others]
            assert scores[row] == pytest.approx(sum(points) / len(points))


@MANY
def test_the_statistics_differ_and_ties_occur(many: bool) -> None:
    """Else the test above could not tell them apart."""
    capability = text_capability(many=many)
    encoded = encode_scoring(capability, capability.certify, word_tokenizer())
    scores = [share_beaten(table, encoded).tolist() for table in statistics(tiny_llama(), encoded).values()]
    assert scores[0] != scores[1]
    assert 0.5 in scores[1]


@pytest.mark.parametrize("percent", [20, 50, 100])
def test_the_mean_of_the_lowest(percent: int) -> None:
    rows = [[-1.0], [-3.0, -1.0, -2.0], [-0.5] * 4 + [-8.0], [-float(n) for n in range(11)]]
    padded = torch.tensor([row + [math.inf] * (11 - len(row)) for row in rows])
    expected = [sorted(row)[: max(1, len(row) * percent // 100)] for row in rows]
    assert mean_of_lowest(padded, percent).tolist() == pytest.approx([sum(row) / len(row) for row in expected])


@pytest.mark.parametrize("batch", [512, 1])
def test_texts_that_begin_alike_begin_with_the_same_likelihoods_bit_for_bit(
    batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In batches of other widths they differ in their last bits, and a min-k% that rests on them would not tie."""
    monkeypatch.setattr(membership_module, "SCORING_BATCH", batch)
    capability = text_capability(many=True)
    encoded = encode_scoring(capability, capability.certify, word_tokenizer())
    table = token_loglikelihoods(tiny_llama(hidden_size=128, intermediate_size=256, num_attention_heads=4), encoded)
    for row, item in enumerate(capability.certify):
        shared = len(word_tokenizer()(item.prompt)["input_ids"]) - 1
        texts = table[row, : len(item.choices)]
        assert torch.equal(texts[:, :shared], texts[:1, :shared].expand(len(texts), -1))
        assert torch.equal(texts[1, shared], texts[2, shared])  # "w1 w0" and "w1 w2 w0"
        assert texts[1, shared + 1] != texts[2, shared + 1]
        assert texts.isfinite().sum(dim=1).tolist() == [shared + n for n in (1, 2, 3, 2, 2)[: len(texts)]]


@MANY
def test_scores_do_not_depend_on_the_batch(many: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    view = view_of(tiny_llama(), text_capability(many=many))
    whole = Membership().read(view)
    monkeypatch.setattr(membership_module, "SCORING_BATCH", 7)
    assert Membership().read(view) == whole


@MANY
def test_a_model_that_knows_is_told_from_one_that_does_not(many: bool) -> None:
    capability = text_capability(many=many)
    knows = Membership().read(view_of(knowing_llama(capability), capability))
    blank = Membership().read(view_of(tiny_llama(), capability))
    assert sum(knows.correct) / len(knows.correct) > 0.99
    assert min(knows.by_layer["loss"], knows.by_layer["sum"]) > 0.9  # chance is 0.5; some answers begin others' texts
    assert near(blank.correct, 0.5)


def test_a_model_that_says_the_same_of_everything_ties_throughout() -> None:
    """A head of zeros: all tokens are alike, so texts of one length cannot be told apart."""
    module = tiny_llama()
    with torch.no_grad():
        module.lm_head.weight.zero_()
    reading = Membership().read(view_of(module, text_capability()))
    assert set(reading.by_layer.values()) == {0.5}
    assert reading.layer == "loss"  # of equals the first
    assert set(reading.correct) == set(reading.control) == {0.5}


def test_the_share_of_neighbours_is_finer_than_the_top() -> None:
    logits = torch.tensor([[3.0, 2, 1, 0], [3, 2, 1, 0], [3, 2, 1, 0], [3, 2, 1, 0], [1, 1, 1, 0]])
    module, capability = planted_classifier(logits, logits, ([0] * 5, [0, 1, 2, 3, 1]))
    reading = Membership().read(view_of(module, capability))
    assert reading.correct == pytest.approx((1, 2 / 3, 1 / 3, 0, 2 / 3))
    assert reading.by_layer.keys() == {"loss"}
    assert reading.by_layer["loss"] == pytest.approx((4 + 2 / 3) / 5)
    encoded = encode_scoring(capability, capability.certify, None)
    assert item_scores(module, encoded).tolist() == pytest.approx([1, 0, 0, 0, 1 / 3])


def test_classifiers() -> None:
    capability = tiny_points()
    knows = Membership().read(view_of(trained_mlp(capability, forget=True), capability))
    never = Membership().read(view_of(trained_mlp(capability, forget=False), capability))
    assert sum(knows.correct) / len(knows.correct) > 0.99
    assert sum(never.correct) / len(never.correct) < 0.7
    module = tiny_mlp()
    reading = Membership().read(view_of(module, capability))
    with torch.no_grad():
        says = module(torch.from_numpy(capability.inputs)).log_softmax(-1)
    expected = [sum(float(says[i.row, i.answer] > v) for v in says[i.row]) / 3 for i in capability.certify]
    assert reading.correct == pytest.approx(expected)


def test_the_statistic_is_chosen_on_select_and_not_on_certify(monkeypatch: pytest.MonkeyPatch) -> None:
    capability = text_capability()
    right = {"good": (1.0, 0.0), "bad": (0.0, 1.0)}  # on select, on certify

    def planted(_module, encoded):
        rows, width = torch.arange(len(encoded)), int(encoded.counts.max())
        tables = {name: torch.zeros(len(encoded), width) for name in right}
        for name, table in tables.items():
            table[rows, encoded.answers] = 2 * right[name][len(encoded) != len(capability.select)] - 1
        return tables

    monkeypatch.setattr(membership_module, "statistics", planted)
    reading = Membership().read(view_of(tiny_llama(), capability))
    assert reading.layer == "good"
    assert reading.by_layer == {"good": 1.0, "bad": 0.0}
    assert set(reading.correct) == {0.0}


def test_the_control_is_at_chance_where_everything_is_known() -> None:
    capability = text_capability(many=True)
    module = knowing_llama(capability)
    readings = [Membership().read(view_of(module, capability, seed=seed)) for seed in range(6)]
    controls = [reading.control for reading in readings]
    assert near([score for control in controls for score in control], 0.5)
    assert {reading.chance for reading in readings} == {0.5}
    assert len(set(controls)) == 6
    assert len({reading.correct for reading in readings}) == 1
    assert Membership().read(view_of(module, capability, seed=3)) == readings[3]


def test_a_choice_of_many_tokens_is_not_the_unlikelier_one_by_itself() -> None:
    """A head of zeros: by the mean all choices are alike, by the sum the shorter is the likelier."""
    module = tiny_llama()
    with torch.no_grad():
        module.lm_head.weight.zero_()
    capability = text_capability(many=True)
    encoded = encode_scoring(capability, capability.certify, word_tokenizer())
    found = statistics(module, encoded)
    assert set(share_beaten(found["min-20%"], encoded)) == {0.5}
    lengths = [[len(choice.split()) for choice in item.choices] for item in capability.certify]
    for row, (item, own) in enumerate(zip(capability.certify, lengths, strict=True)):
        shorter = [length > own[item.answer] or (length == own[item.answer]) / 2 for length in own]
        expected = (sum(shorter) - 0.5) / (len(own) - 1)
        assert share_beaten(found["sum"], encoded)[row] == pytest.approx(expected)


def test_reading_changes_nothing() -> None:
    module = tiny_llama()
    Membership().read(view_of(module, text_capability()))
    assert same_bits(weights_of(module), weights_of(tiny_llama()))
    assert hooks_of(module) == hooks_of(tiny_llama())
    assert all(p.grad is None for p in module.parameters())


@MANY
def test_a_broken_model_is_not_a_score(many: bool) -> None:
    module = tiny_llama()
    with torch.no_grad():
        module.lm_head.weight[3] = torch.nan
    with pytest.raises(NotFinite):
        Membership().read(view_of(module, text_capability(many=many)))
