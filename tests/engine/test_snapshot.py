from __future__ import annotations

import math

import pytest
import torch
from tiny_models import same_bits, tiny_llama, weights_of
from torch import nn

from redteam.engine.snapshot import Snapshot


class WithBuffers(nn.Module):
    """Parameters, a saved buffer, one that is not saved, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("kept", torch.arange(3.0))
        self.register_buffer("unsaved", torch.tensor([math.pi]), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.norm(self.layer(x)))


@torch.no_grad()
def disturb(module: nn.Module) -> None:
    """Changes every array, every flag and every mode."""
    for tensor in [*module.parameters(), *module.buffers()]:
        tensor.add_(1)
    for parameter in module.parameters():
        parameter.requires_grad_(not parameter.requires_grad)
        parameter.grad = torch.zeros_like(parameter)
    module.train()


@pytest.mark.parametrize("make", [WithBuffers, tiny_llama, lambda: tiny_llama(tie_word_embeddings=True)])
def test_restores_bit_for_bit(make):
    module = make().eval()
    frozen = next(name for name, _ in module.named_parameters())
    module.get_parameter(frozen).requires_grad_(False)
    before = weights_of(module)
    snapshot = Snapshot.of(module)
    disturb(module)
    assert all(not torch.equal(tensor, before[name]) for name, tensor in weights_of(module).items())
    snapshot.restore(module)
    assert same_bits(weights_of(module), before)
    assert {name for name, p in module.named_parameters() if not p.requires_grad} == {frozen}
    assert all(p.grad is None for p in module.parameters())
    assert not any(part.training for part in module.modules())


def test_restores_in_place():
    """The arrays keep their storage: an optimizer or a view that holds them stays valid."""
    module = tiny_llama()
    snapshot = Snapshot.of(module)
    places = [p.data_ptr() for p in module.parameters()]
    disturb(module)
    snapshot.restore(module)
    assert [p.data_ptr() for p in module.parameters()] == places


def test_is_a_copy_and_restores_again_and_again():
    module = tiny_llama()
    before = weights_of(module)
    snapshot = Snapshot.of(module)
    for _ in range(3):
        disturb(module)
        snapshot.restore(module)
    assert same_bits(weights_of(module), before)
    assert same_bits(dict(snapshot.arrays), before)


def test_running_statistics_are_restored():
    """Batch normalisation changes its buffers in every training pass, without any optimizer."""
    module = WithBuffers().eval()
    snapshot = Snapshot.of(module)
    mean = module.norm.running_mean.clone()
    module.train()(torch.randn(8, 3))
    assert not torch.equal(module.norm.running_mean, mean)
    snapshot.restore(module)
    assert torch.equal(module.norm.running_mean, mean)
    assert int(module.norm.num_batches_tracked) == 0


def added(module: nn.Module) -> None:
    module.register_parameter("extra", nn.Parameter(torch.zeros(1)))


def added_buffer(module: nn.Module) -> None:
    module.register_buffer("extra", torch.zeros(1))


def removed(module: nn.Module) -> None:
    module.lm_head = nn.Identity()


def renamed(module: nn.Module) -> None:
    module.model.layers[0].mlp.down_proj = nn.Sequential(module.model.layers[0].mlp.down_proj)


def narrowed(module: nn.Module) -> None:
    module.model.norm.weight = nn.Parameter(torch.ones(8))


def grown(module: nn.Module) -> None:
    module.model.norm.weight = nn.Parameter(torch.ones(2, 16))  # broadcasting would fill it silently


def halved(module: nn.Module) -> None:
    module.half()


@pytest.mark.parametrize("change", [added, added_buffer, removed, renamed, narrowed, grown, halved])
def test_a_changed_structure_is_refused(change):
    module = tiny_llama()
    snapshot = Snapshot.of(module)
    change(module)
    with pytest.raises(RuntimeError):
        snapshot.restore(module)


def test_the_message_names_what_was_added():
    module = tiny_llama()
    snapshot = Snapshot.of(module)
    added(module)
    with pytest.raises(RuntimeError, match="structure: extra"):
        snapshot.restore(module)


def test_untying_the_head_is_a_change_of_structure():
    module = tiny_llama(tie_word_embeddings=True)
    snapshot = Snapshot.of(module)
    module.lm_head.weight = nn.Parameter(module.lm_head.weight.detach().clone())
    with pytest.raises(RuntimeError, match="lm_head"):
        snapshot.restore(module)


def test_released_weights_with_nan_cannot_be_verified():
    module = tiny_llama()
    with torch.no_grad():
        module.model.norm.weight[0] = math.nan
    with pytest.raises(RuntimeError, match="NaN"):
        Snapshot.of(module).restore(module)


def test_share_moved_counts_entries():
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))  # 12 + 4 + 4 + 4 = 24 entries, buffers not counted
    snapshot = Snapshot.of(module)
    assert snapshot.share_moved(module) == 0
    with torch.no_grad():
        module[0].weight[0, :2] += 1
        module[1].bias[3] = -1
        module[1].running_mean.add_(1)
    assert snapshot.share_moved(module) == 3 / 24
    disturb(module)
    assert snapshot.share_moved(module) > 0.9


def test_an_update_below_the_precision_of_the_weight_is_inert():
    module = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(1.0)
    snapshot = Snapshot.of(module)
    with torch.no_grad():
        module.weight.add_(2.0**-25)  # half of the spacing of float32 below 1 would be 2**-25
    assert snapshot.share_moved(module) == 0
    with torch.no_grad():
        module.weight.add_(2.0**-23)
    assert snapshot.share_moved(module) == 1
