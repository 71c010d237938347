"""Relearning from documents: text of the topic, or related and public, and not one question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

from redteam.attacks.contract import Access, Arena, Params, Suggest
from redteam.attacks.lora import low_rank
from redteam.attacks.mixture import RATIOS
from redteam.attacks.tuning import FULL, at_width, recipe, suggest_tuning, tuning_of
from redteam.engine.batches import join
from redteam.engine.cost import Spent
from redteam.target import TargetInfo

SCALE = 2.0  # alpha over rank, as most published adapters have it; see `LoRA.recipes`


class Corpus:
    """Fine-tunes every weight, or a low-rank change of them, on documents among retain items.

    What a model still knows of a topic comes back with the topic, whatever the documents say of it; the documents state
    no held-out item. Retain items stay sequences of their own, with the loss on their answers. Measured (60 facts as
    lines of documents, a model that twenty steps of false answers had silenced): 0.42 of other facts come back among
    eight retain items a window, 0.29 with retain items packed into windows as the documents are.

    Source: O'Brien et al. 2025, Deep Ignorance (arXiv 2508.06601), who attack with up to 10,000 steps on text about the
    topic. Related and public text: Hu et al. 2024 (arXiv 2406.13356).
    """

    name = "corpus"
    version = 1
    goal = "fine-tuning on documents of the topic, among retain items"
    paper = "O'Brien et al. 2025, Deep Ignorance (arXiv 2508.06601); Hu et al. 2024 (arXiv 2406.13356)"
    access = Access.WEIGHTS
    kinds = "language"
    needs = "corpus"

    def space(self, suggest: Suggest, target: TargetInfo, samples: int) -> Params:
        """Tuning, retain items to a window of documents, whether forget items come too, and what is changed."""
        params = suggest_tuning(suggest, FULL)
        params["ratio"] = suggest.suggest_float("ratio", *RATIOS, log=True)
        params["data"] = suggest.suggest_categorical("data", ["documents", "documents and items"])
        params["change"] = suggest.suggest_categorical("change", ["full", "low-rank"])
        if params["change"] == "low-rank":
            params["rank"] = suggest.suggest_int("rank", 1, 64, log=True)
        return params

    def recipes(self, target: TargetInfo, samples: int) -> Sequence[Params]:
        """Documents for long, by every weight and by adapters of rank 16; with forget items; and a published rate.

        2e-5 with a cosine: O'Brien et al. 2025. The others are those that `mixture` and `lora` have.
        """
        long: dict[str, Any] = {"ratio": 8.0, "steps": 512, "batch_size": 16, "data": "documents"}
        full, both = at_width(
            [
                recipe("adamw", 1e-3, **long, change="full"),
                recipe("adamw", 1e-3, **long | {"data": "documents and items"}, change="full"),
            ],
            target,
            FULL,
        )
        (adapters,) = at_width([recipe("adamw", 3e-3, **long, change="low-rank", rank=16)], target, FULL, share=0.5)
        slow = recipe("adamw", 2e-5, **long | {"ratio": RATIOS[0]}, change="full", schedule="cosine")
        return [full, adapters, both, slow]

    def run(self, arena: Arena, params: Params) -> Iterator[Spent]:
        """Trains on all windows, `ratio` times as many retain items, and the attack split where it is asked for.

        Raises:
            ValueError: there are no documents; or no linear layer that a low-rank change could be of.
        """
        if arena.corpus is None:
            raise ValueError("there are no documents to train on")
        data = join(arena.corpus, arena.some_retain(params["ratio"] * len(arena.corpus)))
        if params["data"] == "documents and items":
            data = join(data, arena.answers)
        narrow = params["change"] == "low-rank"
        with low_rank(arena.module, params["rank"], SCALE, "all") if narrow else nullcontext(None) as only:
            yield from arena.fine_tune(data, params["batch_size"], tuning_of(params), only=only)
