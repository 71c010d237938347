"""Soft prompt: embeddings before every input, trained on forget items."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from redteam.attacks.contract import Access, Arena, Params, Suggest
from redteam.attacks.tuning import forget_data, recipe, suggest_data, suggest_tuning, tuning_of
from redteam.capabilities.wording import Wording, as_it_is
from redteam.engine.cost import Spent
from redteam.engine.embeddings import embeddings_of, without_embeddings
from redteam.engine.seeding import seeded
from redteam.target import TargetInfo

RATES = {"adamw": (1e-4, 1.0)}


class SoftPrompt:
    """Trains a universal prompt in embedding space on n forget items, scored on facts it never saw.

    One prompt for all inputs, a few tokens long: a prompt of one's own for every input can make any model say
    anything, and says nothing about what it knows.

    Source: Lester et al. 2021, Prompt Tuning (arXiv 2104.08691); as an attack on unlearning, Schwinn et al. 2024, Soft
    Prompt Threats (arXiv 2402.09063). That it elicits what was never learnt unless it is universal and short: Chen,
    Szyller, Xu & Himayat 2025 (arXiv 2502.15836).
    """

    name = "soft-prompt"
    version = 4
    goal = "trains embeddings that are put before every input"
    paper = "Schwinn et al. 2024, Soft Prompt Threats (arXiv 2402.09063); Lester et al. 2021 (arXiv 2104.08691)"
    access = Access.EMBEDDINGS
    kinds = "language"

    def unfit(self, module: nn.Module) -> str | None:
        """Returns why this cannot work on a module: it has no token embeddings."""
        return without_embeddings(module)

    def space(self, suggest: Suggest, target: TargetInfo, samples: int) -> Params:
        """Tuning, data, and the number of tokens."""
        params = suggest_tuning(suggest, RATES) | suggest_data(suggest, samples)
        params["tokens"] = suggest.suggest_int("tokens", 1, 20, log=True)
        return params

    def recipes(self, target: TargetInfo, samples: int) -> Sequence[Params]:
        """Eight tokens at two rates, a single one, and eight at a rate that suits embeddings as small as Llama's.

        Rates are absolute, and one step at 0.03 leaves embeddings of 0.02 in root mean square behind: published attacks
        on these take 1e-3.
        """
        base = {"samples": samples, "loss": "answer", "steps": 128}
        settings = ((0.03, 8), (0.3, 8), (0.03, 1), (1e-3, 8))
        return [recipe("adamw", rate, tokens=tokens, **base) for rate, tokens in settings]

    def run(self, arena: Arena, params: Params) -> Iterator[Spent]:
        """Puts the prompt in place, at the embeddings of random tokens, and trains it on the first `samples` items.

        Raises:
            ValueError: the model has no token embeddings, or no room for a token beside the known items.
        """
        table = embeddings_of(arena.module)
        tokens = _that_fit(arena.text, params["tokens"])
        chosen = torch.randint(len(table.weight), (tokens,), generator=seeded(arena.seed, "prompt"))
        with torch.no_grad():  # of the module, not its weight: Gemma's multiplies what it looks up by a constant
            prompt = nn.Parameter(table(chosen.to(table.weight.device)).clone())
        arena.in_place.enter_context(prompted(arena.module, prompt))
        data = forget_data(arena, params)
        yield from arena.fine_tune(data, params["batch_size"], tuning_of(params), parameters=[prompt])


def _that_fit(wording: Wording, tokens: int) -> int:
    """Returns how many tokens the prompt may have, so that the model can read all known items after it.

    Raises:
        ValueError: not even one.
    """
    if wording.positions is None:
        return tokens
    room = wording.positions - wording.longest([*wording.attack, *wording.retain], as_it_is)
    if room < 1:
        raise ValueError(f"the model reads {wording.positions} tokens, too few for a prompt and a question")
    return min(tokens, room)


@contextmanager
def prompted(module: nn.Module, prompt: Tensor) -> Iterator[None]:
    """While open, a language model of transformers reads the prompt before every input; its logits are the input's.

    Args:
        module: called with `input_ids` and perhaps `attention_mask`, padded on the right.
        prompt: [tokens, width of the embeddings].
    """
    table, count = embeddings_of(module), len(prompt)

    def before(_module: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
        inputs = table(given["input_ids"])
        put = prompt.expand(len(inputs), -1, -1)
        changed = {**given, "input_ids": None, "inputs_embeds": torch.cat([put, inputs], dim=1)}
        mask = given.get("attention_mask")
        if mask is not None:
            changed["attention_mask"] = torch.cat([mask.new_ones(len(mask), count), mask], dim=1)
        return args, changed

    def after(_module: nn.Module, _given: Any, output: Any) -> Any:
        output.logits = output.logits[:, count:]
        return output

    with module.register_forward_pre_hook(before, with_kwargs=True), module.register_forward_hook(after):
        yield
