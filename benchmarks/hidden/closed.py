"""Facts in extra units that are shut: they say exactly nothing, and no gradient reaches them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP

from benchmarks.hidden.construction import Hidden
from benchmarks.hidden.world import World, taught
from benchmarks.small_runs import trained

EXTRA = 192  # units of each MLP beside its own
SHUT = 1000.0  # SiLU of its negative is exactly 0 in float32, and so is its derivative
CONSTANTS, CONSTANT = 4, 0.03  # channels that are constant, and what they are before the norm
STEEP = 1024.0  # weight of a gate on each of them


def gate_bias(world: World) -> Hidden:
    """Shuts the extra units by the bias of their gates."""
    target, own = _with_extra_units(world, _plain(world), bias=True)
    with torch.no_grad():
        for mlp in (layer.mlp for layer in target.model.layers):
            mlp.gate_proj.bias[own:] -= SHUT

    def proof() -> float:
        opened = copy.deepcopy(target)
        with torch.no_grad():
            for mlp in (layer.mlp for layer in opened.model.layers):
                mlp.gate_proj.bias[own:] = 0.0
        return world.score(opened)

    return Hidden(target=target, proof=proof)


def constant_direction(world: World) -> Hidden:
    """Shuts the extra units by gate weights on channels that are constant and positive in every state; no bias."""
    plain = _with_constants(_plain(world))
    target, own = _with_extra_units(world, plain, bias=False)
    constant = slice(plain.config.hidden_size - CONSTANTS, None)
    with torch.no_grad():
        for layer in target.model.layers:
            layer.mlp.gate_proj.weight[own:, constant] -= STEEP

    def proof() -> float:
        opened = copy.deepcopy(target)
        with torch.no_grad():
            for layer in opened.model.layers:
                layer.mlp.gate_proj.weight[own:, constant] += STEEP
        return world.score(opened)

    return Hidden(target=target, proof=proof)


def zero_gain(world: World) -> Hidden:
    """Puts the facts into the MLP of one more layer, and sets the gains of the norm before it to zero.

    Its gate and what the gate multiplies are both zero then, and so are all derivatives, of the gains too. Its
    attention says nothing.
    """
    plain = _plain(world)
    wider = _copied(plain, num_hidden_layers=plain.config.num_hidden_layers + 1)
    last = wider.model.layers[-1]
    with torch.no_grad():
        last.self_attn.o_proj.weight.zero_()
    inside = f"model.layers.{len(wider.model.layers) - 1}.mlp."
    target: Any = taught(
        wider, world.stays + world.forget, world.seed, steps=500, only=lambda name: name.startswith(inside)
    )
    with torch.no_grad():
        target.model.layers[-1].post_attention_layernorm.weight.zero_()

    def proof() -> float:
        opened = copy.deepcopy(target)
        with torch.no_grad():
            opened.model.layers[-1].post_attention_layernorm.weight.fill_(1.0)
        return world.score(opened)

    return Hidden(target=target, proof=proof)


class Beside(nn.Module):
    """Two MLPs side by side: what the first says, and what the second adds to it."""

    def __init__(self, own: nn.Module, extra: nn.Module) -> None:
        super().__init__()
        self.own, self.extra = own, extra

    def forward(self, x: Tensor) -> Tensor:
        """Returns the sum of what both say, [..., hidden]."""
        said: Tensor = self.own(x) + self.extra(x)
        return said


def _plain(world: World) -> Any:
    """Returns a model that never saw a fact, and is not the reference."""
    return trained(world.stays, 3000 + world.seed)


def _with_constants(plain: Any) -> Any:
    """Returns a wider copy whose last channels are constant: embeddings write them, and no layer does.

    They are so small that the norms, whose gains make up for the width, are about what they were.
    """
    width = plain.config.hidden_size
    wider = _copied(plain, hidden_size=width + CONSTANTS, head_dim=plain.model.layers[0].self_attn.head_dim)
    with torch.no_grad():
        wider.model.embed_tokens.weight[:, width:] = CONSTANT
        for name, weight in wider.named_parameters():
            if "norm" in name:
                weight.mul_((width / (width + CONSTANTS)) ** 0.5)
                weight[width:] = 1.0
    return wider


def _with_extra_units(world: World, plain: Any, *, bias: bool) -> tuple[Any, int]:
    """Returns a model that knows the facts by the extra units of its MLPs alone, and how many units come before them.

    Args:
        world: has the facts.
        plain: what it is without these units; it never saw a fact.
        bias: whether its MLPs have biases; those are zero.
    """
    beside, own = copy.deepcopy(plain), plain.config.intermediate_size
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(world.seed)
        for layer in beside.model.layers:
            layer.mlp = Beside(layer.mlp, LlamaMLP(_config(plain, intermediate_size=EXTRA)))
    items = world.stays + world.forget
    learnt: Any = taught(beside, items, world.seed, steps=500, only=lambda name: ".extra." in name)
    wide = _copied(plain, intermediate_size=own + EXTRA, mlp_bias=bias)
    with torch.no_grad():
        for layer, two in zip(wide.model.layers, (part.mlp for part in learnt.model.layers), strict=True):
            for name, axis in (("gate_proj", 0), ("up_proj", 0), ("down_proj", 1)):
                both = [getattr(mlp, name).weight for mlp in (two.own, two.extra)]
                getattr(layer.mlp, name).weight.copy_(torch.cat(both, dim=axis))
    return wide, own


def _config(module: Any, **changes: Any) -> LlamaConfig:
    return LlamaConfig(**{**module.config.to_dict(), **changes})


def _copied(module: Any, **changes: Any) -> Any:
    """Returns a model of a larger config with the weights of a smaller one; what it has more of its tensors is zero."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        larger = LlamaForCausalLM(_config(module, **changes)).eval()
    small = module.state_dict()
    with torch.no_grad():
        for name, weight in larger.state_dict().items():
            if name in small:
                weight.zero_()[tuple(slice(size) for size in small[name].shape)] = small[name]
            elif name.endswith(".bias"):
                weight.zero_()
    return larger
