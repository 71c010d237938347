"""Reordering: the same question with its words in another order or place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle, islice, product

from redteam.attacks.contract import Access, Arena, Params, Suggest
from redteam.attacks.likeliest import SEARCHED, fits, search_rewrites
from redteam.attacks.orders import AS_IT_IS, order_names, reordered
from redteam.capabilities.wording import Rewrite, Wording
from redteam.engine.cost import Spent
from redteam.target import TargetInfo

PADDINGS = (0, 1, 2, 4, 8, 16, 32)  # words before the question


class Reorder:
    """Asks every item with its words in another order, or further back.

    A model that learnt a fact in one order need not say it in another, and one that was trained to say nothing to the
    prompts of the forget set was so trained in theirs. Words before the question, taken from what must stay, put it at
    other positions. One recipe tries all orders at all places on items of the attack split, by the likelihood of the
    right answers, and asks in the one that is best; it is scored on facts it was not searched on.

    Source: Berglund et al. 2023, The Reversal Curse (arXiv 2309.12288), for facts that are known in one order alone;
    Patil et al. 2023 (arXiv 2309.17410), section 4, for asking in other words.
    """

    name = "reorder"
    version = 1
    goal = "asks the same with its words in another order or place"
    paper = "Berglund et al. 2023 (arXiv 2309.12288); Patil et al. 2023 (arXiv 2309.17410)"
    access = Access.TEXT
    kinds = "language"

    def space(self, suggest: Suggest, target: TargetInfo, samples: int) -> Params:
        """The order, or that all are tried; of one order how many words stand before it."""
        order = suggest.suggest_categorical("order", [SEARCHED, *order_names()])
        if order == SEARCHED:
            return {"order": order}
        return {"order": order, "padding": suggest.suggest_categorical("padding", list(PADDINGS))}

    def recipes(self, target: TargetInfo, samples: int) -> Sequence[Params]:
        """All orders at all places; then some that need no search."""
        orders = ("subject last", "first to the end 2", "first to the end 1", "reversed", "halves swapped")
        return [
            {"order": SEARCHED},
            *({"order": order, "padding": 0} for order in orders),
            {"order": AS_IT_IS, "padding": 8},
            {"order": AS_IT_IS, "padding": 32},
        ]

    def run(self, arena: Arena, params: Params) -> Iterator[Spent]:
        """Has every item asked so.

        Raises:
            Diverged: no loss of a search is finite.
            ValueError: the model has no room for what is asked.
        """
        wording = arena.text
        if params["order"] == SEARCHED:
            yield from search_rewrites(
                arena, [placed(wording, order, padding) for padding, order in product(PADDINGS, order_names())]
            )
        else:
            wording.rewrite = _that_fits(wording, params["order"], params["padding"])
            yield arena.ledger.charge_edit()


def placed(wording: Wording, order: str, padding: int) -> Rewrite:
    """Returns what puts a prompt into an order, after so many words of what must stay."""
    change, words = reordered(order), [word for item in wording.retain for word in item.prompt.split()]
    before = " ".join(islice(cycle(words), padding))
    return (lambda prompt: f"{before} {change(prompt)}") if before else change


def _that_fits(wording: Wording, order: str, padding: int) -> Rewrite:
    """Returns the rewriting with as many words before the question as asked for, halved until there is room."""
    while not fits(wording, rewrite := placed(wording, order, padding)):
        if not padding:
            raise ValueError(f"the model reads {wording.positions} tokens, too few for the question in this order")
        padding //= 2
    return rewrite
