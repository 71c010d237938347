"""UNDO: the corruption of weights, the distillation, and when it stops."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import random_tokens, same_bits, tiny_llama, weights_of
from tiny_tasks import CLASSES, random_data, random_labelled, tiny_classifier, tiny_model_of, tiny_task
from torch import nn

from redteam.engine.batches import LabelledSet
from redteam.engine.loop import Diverged
from redteam.engine.seeding import seeded
from redteam.errors import InputError
from redteam.unlearning.graddiff import GradDiff
from redteam.unlearning.undo import CHECK_EVERY, UNDO, accuracy, corrupted, divergence

ALL = slice(None)


def convolutional() -> nn.Module:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        layers = (nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, CLASSES))
        return nn.Sequential(*layers).eval()


MODELS = {"language": tiny_llama, "classifier": tiny_classifier, "convolutional": convolutional}


@pytest.mark.parametrize("kind", list(MODELS))
def test_no_corruption_is_the_identity_and_full_corruption_without_noise_is_zero(kind: str) -> None:
    module = MODELS[kind]()
    before = weights_of(module)
    assert same_bits(weights_of(corrupted(module, 0.0, 0.3, seeded(0))), before)
    assert all(bool((p == 0).all()) for p in corrupted(module, 1.0, 0.0, seeded(0)).parameters())
    assert same_bits(weights_of(module), before)


@given(alpha=st.floats(0.05, 1.0), beta=st.floats(0.01, 2.0), seed=st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_corruption_mixes_in_bounded_noise_of_the_seed(alpha: float, beta: float, seed: int) -> None:
    """Xavier-uniform: within sqrt(6 / (fan in + fan out)), a kernel's receptive field counted; none in 1-D tensors."""
    module = convolutional()
    made = corrupted(module, alpha, beta, seeded(seed))
    assert same_bits(weights_of(made), weights_of(corrupted(module, alpha, beta, seeded(seed))))
    bounds = {"0.weight": math.sqrt(6 / (2 * 9 + 6 * 9)), "4.weight": math.sqrt(6 / (24 + CLASSES))}
    for name, parameter in made.named_parameters():
        kept = (1 - alpha) * module.get_parameter(name)
        if parameter.dim() == 1:
            assert torch.allclose(parameter, kept, atol=1e-7)
            continue
        noise = ((parameter - kept) / (alpha * beta)).detach()
        bound = bounds[name]
        assert noise.abs().max() <= bound * 1.001 + 1e-4
        assert noise.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.2)
        other = corrupted(module, alpha, beta, seeded(seed + 1)).get_parameter(name)
        assert not torch.equal(other, parameter)
    assert torch.equal(made.get_buffer("1.running_var"), module.get_buffer("1.running_var"))


def test_a_shared_matrix_is_corrupted_once() -> None:
    module = tiny_llama(tie_word_embeddings=True)
    made = corrupted(module, 0.5, 0.0, seeded(0))
    assert made.lm_head.weight is made.model.embed_tokens.weight
    assert torch.allclose(made.lm_head.weight, 0.5 * module.lm_head.weight)


@pytest.mark.parametrize("kind", ["language", "classifier"])
def test_divergence_is_forward_kl_over_labelled_tokens(kind: str) -> None:
    teacher, student = (tiny_model_of(kind, seed) for seed in (0, 1))
    batch = random_data(kind, 7, seed=3).batch(ALL)
    with torch.no_grad():
        aims, said = (batch.predictions(module).logits.double() for module in (teacher, student))
    wanted = []
    for p_scores, q_scores in zip(aims.tolist(), said.tolist(), strict=True):
        p_total, q_total = (sum(math.exp(x) for x in scores) for scores in (p_scores, q_scores))
        pairs = [(math.exp(p) / p_total, math.exp(q) / q_total) for p, q in zip(p_scores, q_scores, strict=True)]
        wanted.append(sum(p * math.log(p / q) for p, q in pairs))
    got = divergence(teacher, student, batch)
    assert got.item() == pytest.approx(sum(wanted) / len(wanted), rel=1e-4)
    assert divergence(teacher, teacher, batch).item() == pytest.approx(0, abs=1e-6)
    got.backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None for p in student.parameters())


@pytest.mark.parametrize("length", [8, 11])
def test_padding_is_no_part_of_the_divergence(length: int) -> None:
    teacher, student, data = tiny_llama(0), tiny_llama(1), random_tokens(6, seed=3)
    rows = [data.batch(slice(i, i + 1)) for i in range(6)]
    counts = [int((row.labels != -100).sum()) for row in rows]
    each = [float(divergence(teacher, student, row).detach()) for row in rows]
    wanted = sum(n * value for n, value in zip(counts, each, strict=True)) / sum(counts)
    batch = data.batch(ALL)
    extra = length - batch.input_ids.shape[1]
    assert batch.mask is not None
    wider = dataclasses.replace(
        batch,
        input_ids=nn.functional.pad(batch.input_ids, (0, extra), value=3),
        labels=nn.functional.pad(batch.labels, (0, extra), value=-100),
        mask=nn.functional.pad(batch.mask, (0, extra)),
    )
    assert divergence(teacher, student, wider).item() == pytest.approx(wanted, rel=1e-4)


def test_accuracy_is_a_share_of_right_labels_and_leaves_the_mode() -> None:
    module, data = tiny_classifier().train(), random_labelled(30, seed=3)
    with torch.no_grad():
        right = sum(int(module(x[None]).argmax()) == int(y) for x, y in zip(data.inputs, data.labels, strict=True))
    assert 0 < right < 30
    assert accuracy(module, data) == pytest.approx(right / 30)
    assert all(part.training for part in module.modules())


def learned(kind: str):
    """A task whose model has learned its retain and forget examples."""
    task = tiny_task(kind)
    tuning = dataclasses.replace(task.training.tuning, steps=200)
    training = dataclasses.replace(task.training, tuning=tuning, batch_size=44)
    return dataclasses.replace(task, original=training.fit(training.data, seed=0), training=training)


@pytest.mark.parametrize("kind", ["language", "classifier"])
def test_the_student_does_what_the_teacher_does_and_not_what_the_original_did(kind: str) -> None:
    task = learned(kind)
    teacher = GradDiff().apply(task)
    assert accuracy(task.original, task.retain) > 0.8
    made = UNDO(steps=400, learning_rate=1e-2).apply(task)
    assert accuracy(made, task.retain) >= 0.95 * accuracy(teacher, task.retain)
    assert accuracy(made, task.forget) <= accuracy(teacher, task.forget) + 0.1 < accuracy(task.original, task.forget)
    corrupt = corrupted(teacher, 0.5, 0.1, seeded(0, "undo", "noise"))
    assert accuracy(corrupt, task.retain) < 0.95 * accuracy(teacher, task.retain)  # distillation had work to do


def test_distillation_ends_as_soon_as_the_student_is_good_enough() -> None:
    task, heard = learned("classifier"), []
    task = dataclasses.replace(task, progress=lambda what, done, total: heard.append((what, done, total)))
    UNDO(alpha=0.0, steps=400).apply(task)
    assert [done for what, done, _ in heard if "undo" in what] == [*range(1, CHECK_EVERY + 1), 400]
    heard.clear()
    UNDO(alpha=0.9, enough=9.0, steps=30).apply(task)
    assert [done for what, done, _ in heard if "undo" in what] == list(range(1, 31))


def test_distils_on_the_training_data_only_where_it_may() -> None:
    """`whole` reads what else the original was trained on; without it, or without a recipe, the retain set alone."""
    task = tiny_task("classifier")
    more = random_labelled(60, seed=9)
    labelled = torch.arange(60) < 20
    wide = dataclasses.replace(task, training=dataclasses.replace(task.training, data=more, labelled=labelled))
    unknown = dataclasses.replace(task, training=None)
    quick = UNDO(steps=4)
    narrow = weights_of(quick.apply(unknown))
    assert not same_bits(weights_of(quick.apply(wide)), narrow)
    assert same_bits(weights_of(dataclasses.replace(quick, whole=False).apply(wide)), narrow)


def test_convolutions_and_batch_norms_go_through() -> None:
    draw = torch.Generator().manual_seed(1)
    sets = [LabelledSet(torch.randn(9, 2, 4, 4, generator=draw), torch.arange(9) % CLASSES) for _ in range(2)]
    net = convolutional()
    made = UNDO(steps=4).apply(tiny_task("classifier", net, forget=sets[0], retain=sets[1], training=None))
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights_of(made).values())
    assert same_bits(weights_of(net), weights_of(convolutional()))


@pytest.mark.parametrize("stage", ["npo", "ga", "rr"])
def test_the_first_stage_is_an_option(stage: str) -> None:
    task = tiny_task("classifier")
    made = [weights_of(UNDO(stage=name, steps=2, enough=9.0).apply(task)) for name in (stage, "graddiff")]
    assert not same_bits(*made)


@pytest.mark.parametrize("stage", ["undo", "filtered", "original", "nothing"])
def test_the_first_stage_is_another_post_hoc_method(stage: str) -> None:
    with pytest.raises(InputError):
        UNDO(stage=stage).apply(tiny_task("classifier"))


def test_a_loss_that_is_not_finite_ends_it() -> None:
    broken = tiny_classifier()
    with torch.no_grad():
        broken[0].weight[0, 0] = float("nan")
    with pytest.raises(Diverged):
        UNDO().apply(tiny_task("classifier", broken))
