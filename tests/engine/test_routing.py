from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_blocks import outputs, tiny_gpt2, tiny_neox
from tiny_models import random_tokens, tiny_llama
from tiny_tasks import hooks_of, random_labelled, tiny_classifier
from torch import nn

from redteam.engine.batches import TokenSet
from redteam.engine.blocks import mlp_blocks
from redteam.engine.freezing import block_gradients, frozen
from redteam.engine.relative import RelativeAdam, RelativeMomentum
from redteam.engine.routing import labelled_positions, routed, scale_gradient, unit_multipliers
from redteam.engine.seeding import seeded

MODELS = {"llama": tiny_llama, "neox": tiny_neox, "gpt2": tiny_gpt2}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(-3, 3, width=32))
def test_the_value_is_the_same_bit_for_bit_and_the_gradient_is_multiplied(seed, scalar) -> None:
    draw = seeded(seed)
    value = torch.randn(3, 4, 5, generator=draw).requires_grad_()
    upstream = torch.randn(3, 4, 5, generator=draw)
    for multiplier in (
        torch.tensor(scalar),
        torch.randn(3, 4, 5, generator=draw),
        torch.randn(3, 4, 1, generator=draw),
    ):
        out = scale_gradient(value, multiplier)
        assert torch.equal(out, value)
        (got,) = torch.autograd.grad(out, value, upstream)
        assert torch.equal(got, upstream * multiplier)
    with pytest.raises(ValueError, match="does not fit"):
        scale_gradient(value, torch.ones(2, 3, 4, 5))


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_in_a_real_model_the_forward_pass_stays_and_gradients_obey_the_mask(build) -> None:
    """The last block: what its units pass back is known from one plain backward pass, per token and per unit."""
    module = build()
    said = outputs(module)
    block = mlp_blocks(module)[-1]
    batch = random_tokens(4, seed=1).batch(slice(None))
    shape = (*batch.input_ids.shape, block.width)
    multiplier = torch.randn(shape, generator=seeded(3))
    inputs: dict[str, torch.Tensor] = {}

    def gradients(value: torch.Tensor) -> dict[str, torch.Tensor]:
        names = dict(module.named_parameters())
        with routed(module, {block.down: value}) as inputs_now:
            loss = batch.loss(module)
        inputs.update(inputs_now)
        found = torch.autograd.grad(loss, [*names.values(), inputs[block.down]], allow_unused=True)
        return dict(zip([*names, "z"], found, strict=True))

    plain, masked, blocked = gradients(torch.ones(shape)), gradients(multiplier), gradients(torch.zeros(shape))
    assert torch.equal(masked["z"], plain["z"] * multiplier)
    assert torch.equal(masked[f"{block.down}.weight"], plain[f"{block.down}.weight"])  # the outgoing weight
    for up in block.ups:
        assert not blocked[f"{up}.weight"].any()
        assert not torch.equal(masked[f"{up}.weight"], plain[f"{up}.weight"])
    # The residual path goes past the block: with the block's units stopped, what is left upstream is the gradient of
    # the loss through the skip alone, the same as when the units are constants.
    values = inputs[block.down].detach()
    handle = module.get_submodule(block.down).register_forward_pre_hook(lambda _m, _x: (values,))
    first = next(name for name, p in module.named_parameters() if blocked[name] is not None)
    (skip,) = torch.autograd.grad(batch.loss(module), module.get_parameter(first))
    handle.remove()
    assert skip.any()
    assert torch.equal(skip, blocked[first])
    with routed(module, {block.down: torch.full((1, 1, block.width), -0.75)}):
        assert torch.equal(outputs(module), said)
    assert hooks_of(module) == hooks_of(build())


def test_masks_look_at_the_predicted_token() -> None:
    data = TokenSet.from_sequences([[1, 2, 3, 4], [5, 6, 7], [1, 2, 3, 4]], [2, 2, 1], pad=28)
    batch, labelled = data.batch(slice(None)), torch.tensor([True, True, False])
    assert labelled_positions(batch, labelled, "loss").tolist() == [
        [False, True, True, False],  # tokens 2 and 3 have a loss: positions 1 and 2 predict them
        [False, True, False, False],
        [False] * 4,
    ]
    assert labelled_positions(batch, labelled).tolist() == [[True] * 4, [True, True, True, False], [False] * 4]
    images = random_labelled(3).batch(slice(None))
    assert torch.equal(labelled_positions(images, labelled), labelled)


def test_unit_multipliers_are_the_row_where_chosen_and_one_elsewhere() -> None:
    got = unit_multipliers(torch.tensor([[True, False]]), torch.tensor([-0.75, 1.0, 0.0]))
    assert got.tolist() == [[[-0.75, 1, 0], [1, 1, 1]]]


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD, RelativeAdam, RelativeMomentum])
def test_frozen_entries_and_their_moments_stay_bit_for_bit_and_blocked_ones_move(kind) -> None:
    options = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    module = tiny_classifier()
    optimizer = kind(module.parameters(), lr=0.01, **options)
    batch = random_labelled(8).batch(slice(None))
    batch.loss(module).backward()
    optimizer.step()
    marked = {p: torch.rand(p.shape, generator=seeded(5)) < 0.5 for p in module.parameters()}
    whole = next(module.parameters())
    marked[whole] = torch.ones(whole.shape, dtype=torch.bool)

    def step(context: bool) -> tuple[bool, bool]:
        before = {p: (p.detach().clone(), _moments(optimizer, p)) for p in marked}
        module.zero_grad()
        batch.loss(module).backward()
        if context:
            with frozen(optimizer, marked):
                optimizer.step()
        else:
            block_gradients(marked)
            optimizer.step()
        still = all(
            torch.equal(p[m], old[m])
            and all(torch.equal(a[m], b[m]) for a, b in zip(_moments(optimizer, p), was, strict=True))
            for p, m in marked.items()
            for old, was in [before[p]]
        )
        others = all(bool((p != before[p][0])[~m].any()) for p, m in marked.items() if not m.all())
        return still, others

    assert step(context=True) == (True, True)
    assert step(context=False) == (False, True)


def _moments(optimizer: torch.optim.Optimizer, p: nn.Parameter) -> list[torch.Tensor]:
    return [v.clone() for v in optimizer.state[p].values() if torch.is_tensor(v) and v.shape == p.shape]
