"""Low-rank fine-tuning: adapters on the linear layers, merged into the weights at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from redteam.attacks.contract import Access, Arena, Params, Suggest
from redteam.attacks.tuning import at_width, forget_data, recipe, suggest_data, suggest_tuning, tuning_of
from redteam.engine.activations import hidden_layers
from redteam.engine.cost import Spent
from redteam.engine.relative import units_of
from redteam.target import TargetInfo

RATES = {"adamw": (1e-5, 1e-1), "sgd": (1e-3, 10.0), "relative-adam": (1e-5, 1e-1)}
PLACES = {"attention": ("attn", "attention"), "mlp": ("mlp", "feed_forward", "ffn", "fc"), "all": ("",)}
ADAPTER = "attack"


class LoRA:
    """Trains a low-rank change of the linear layers on n forget items, down to rank one.

    Source: Hu et al. 2021, LoRA (arXiv 2106.09685); as an attack on unlearning, Che et al. 2025 (arXiv 2502.05209)
    and Łucki et al. 2024 (arXiv 2409.18025). The adapters are peft's.
    """

    name = "lora"
    version = 3
    goal = "low-rank adapters on the linear layers, trained on forget items"
    paper = "Che et al. 2025, Model Tampering Attacks (arXiv 2502.05209); Hu et al. 2021, LoRA (arXiv 2106.09685)"
    access = Access.WEIGHTS
    kinds = "language, classifier"

    def unfit(self, module: nn.Module) -> str | None:
        """Returns why this cannot work on a module: its hidden layers cannot be told, or have no linear layer."""
        try:
            linear_layers(module, "all")
        except ValueError as error:
            return str(error)
        return None

    def space(self, suggest: Suggest, target: TargetInfo, samples: int) -> Params:
        """Tuning, data, rank, scale (alpha over rank), and of a language model which layers."""
        params = suggest_tuning(suggest, RATES) | suggest_data(suggest, samples)
        params["rank"] = suggest.suggest_int("rank", 1, 64, log=True)
        params["scale"] = suggest.suggest_float("scale", 0.125, 8.0, log=True)
        params["modules"] = suggest.suggest_categorical("modules", _places(target))
        return params

    def recipes(self, target: TargetInfo, samples: int) -> Sequence[Params]:
        """Rank 16 with alpha 32 in relative units and at three rates, rank one, and a wide adapter with a small scale.

        Rank 16, alpha 32, 1e-4: Che et al. 2025. Rank 128 with alpha 16 at 2e-4, here rank 64 with the same scale:
        Łucki et al. 2024. Those are the same at any width; the higher ones were found at a width of 128 and fall by its
        square root: the first factor moves what it puts out by rate times width, the second, which starts at zero, is
        of the size of the rate itself, and rate^2 times width is what both do to the states. 1e-3 comes to 1.8e-4 at
        a width of 4096, that of the published ones. Source of such arguments: Hayou et al. 2024, LoRA+ (arXiv
        2402.12354).

        In relative units the adapter is scaled like the weight it is added to, see `scale_adapters`: as strong at the
        utility floor as AdamW at the same rate (0.05 to 0.52 against 0.03 to 0.52 in the worlds of `Retrain.recipes`),
        and it stays so on copies that are rescaled, where AdamW brings back nothing.
        """
        base: dict[str, Any] = {"samples": samples, "loss": "answer", "modules": "all"}
        ours = [
            recipe("adamw", 1e-3, rank=16, scale=2.0, **base),
            recipe("adamw", 1e-2, rank=16, scale=2.0, **base),
            recipe("adamw", 1e-2, rank=1, scale=2.0, **base),
            recipe("relative-adam", 1e-3, rank=16, scale=2.0, **base),
        ]
        medium, high, narrow, relative = at_width(ours, target, RATES, share=0.5)
        long = recipe("adamw", 1e-4, rank=16, scale=2.0, steps=512, **base)
        wide = recipe("adamw", 2e-4, rank=64, scale=0.125, **base)
        return [relative, medium, high, long, narrow, wide]

    def run(self, arena: Arena, params: Params) -> Iterator[Spent]:
        """Trains the adapters on the first `samples` attack items.

        Raises:
            ValueError: the model has no linear layer there.
        """
        from peft import LoraConfig
        from peft.tuners.lora import LoraModel

        config = LoraConfig(
            r=params["rank"],
            lora_alpha=params["rank"] * params["scale"],  # a float serves as well
            target_modules=linear_layers(arena.module, params["modules"]),
        )
        trainable = [parameter for parameter in arena.module.parameters() if parameter.requires_grad]
        adapted = LoraModel(arena.module, {ADAPTER: config}, ADAPTER)
        tuning = tuning_of(params)
        if tuning.optimizer == "relative-adam":
            scale_adapters(arena.module)
            tuning = replace(tuning, optimizer="adamw")
        arena.module.train()
        try:
            yield from arena.fine_tune(
                forget_data(arena, params),
                params["batch_size"],
                tuning,
                only=lambda name: ".lora_" in name,
            )
        finally:
            adapted.merge_and_unload()
            for parameter in trainable:
                parameter.requires_grad_(True)


class Scaled(nn.Module):
    """A weight times fixed factors, as a parametrization: what is trained is the weight without them."""

    factors: Tensor

    def __init__(self, factors: Tensor) -> None:
        super().__init__()
        self.register_buffer("factors", factors)

    def forward(self, weight: Tensor) -> Tensor:
        """Returns the weight times the factors."""
        return weight * self.factors


def scale_adapters(module: nn.Module) -> None:
    """Trains every adapter in units of the weight it is added to: W + D_r B A D_c, with B and A trained.

    D_c holds the units of W's columns, of geometric mean one, and D_r those of its rows, near one where W is as it was
    first drawn: see `units_of`. What W is multiplied by, row by row or column by column, its adapter is too, and
    training is the same step by step.
    """
    from transformers.pytorch_utils import Conv1D

    adapted: list[Any] = [part for part in module.modules() if hasattr(part, "lora_A")]
    for layer in adapted:
        base, down, up = layer.base_layer, layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
        weight = base.weight.detach()
        groups = getattr(base, "groups", None)
        rows, columns = units_of(weight.T if isinstance(base, Conv1D) else weight, groups)
        into = columns[:: len(rows) // (groups or 1)].flatten()
        live = into[into > 0]
        shared = live.log().mean().exp() if len(live) else into.new_ones(())
        inner = (1,) * (down.weight.ndim - 2)
        parametrize.register_parametrization(down, "weight", Scaled((into / shared).reshape(1, -1, *inner)))
        parametrize.register_parametrization(up, "weight", Scaled((rows.flatten() * shared).reshape(-1, 1, *inner)))


def linear_layers(module: nn.Module, place: str) -> list[str]:
    """Returns the names of the linear layers inside the hidden layers: of the attention, of the MLP, or all.

    Where there are none of a kind, all stand for them: a space is told sizes and names, not the module. The experts of
    Mixtral and its kin are bare parameters of three dimensions, to which no adapter of a linear layer fits.

    Raises:
        ValueError: there are none.
    """
    from transformers.pytorch_utils import Conv1D

    inside = hidden_layers(module)
    every = [
        name
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear | Conv1D | nn.Conv2d)
        and any(f"{name}.".startswith(f"{layer}.") for layer in inside)
    ]
    if not every:
        raise ValueError(f"no hidden layer of the model has a linear layer ({place})")
    return [name for name in every if any(mark in name for mark in PLACES[place])] or every


def _places(target: TargetInfo) -> list[str]:
    return ["all", "attention", "mlp"] if target.kind == "language" else ["all"]
