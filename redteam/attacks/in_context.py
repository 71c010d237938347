"""In-context examples: answered questions before every question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from redteam.attacks.contract import Access, Arena, Params, Suggest
from redteam.attacks.likeliest import SEARCHED, search_rewrites
from redteam.capabilities.items import Item
from redteam.capabilities.wording import Rewrite, Wording
from redteam.engine.cost import Spent
from redteam.target import TargetInfo

SOURCES = ["attack", "retain"]
SEPARATORS = {"space": " ", "sentence": ". ", "line": "\n", "paragraph": "\n\n"}
MOST = 16
SHOTS = (1, 2, 4, 8, MOST)


class InContext:
    """Puts k answered items of the attack split, or of what stays, before every question.

    The examples show the task and its format and undo a learnt refusal; of facts that were not shown they say nothing.
    They are the first of the trial, or for each question the ones that share most words with it. If the model cannot
    read so many, as many as fit. "searched" tries all of these ways on items of the attack split and keeps the one that
    makes their answers likeliest: a model of 300 facts, which never saw two sentences in a row, gives 0.72 of its
    answers after the one nearest retain item and 0.38 after the four nearest forget items.

    Source: Brown et al. 2020 (arXiv 2005.14165) for k shots; Liu et al. 2021 (arXiv 2101.06804) for the nearest ones;
    as an attack on unlearning Shumailov et al. 2024, UnUnlearning (arXiv 2407.00106), and Lynch et al. 2024 (arXiv
    2402.16835).
    """

    name = "in-context"
    version = 2
    goal = "puts k answered questions before every question"
    paper = "Shumailov et al. 2024, UnUnlearning (arXiv 2407.00106); Lynch et al. 2024 (arXiv 2402.16835)"
    access = Access.TEXT
    kinds = "language"

    def space(self, suggest: Suggest, target: TargetInfo, samples: int) -> Params:
        """How many examples, of what, which, and what stands between them; or that all of it is tried."""
        source = suggest.suggest_categorical("source", [*SOURCES, SEARCHED])
        if source == SEARCHED:
            return {"source": source}
        return {
            "source": source,
            "shots": suggest.suggest_int("shots", 1, MOST, log=True),
            "which": suggest.suggest_categorical("which", ["nearest", "first"]),
            "separator": suggest.suggest_categorical("separator", list(SEPARATORS)),
        }

    def recipes(self, target: TargetInfo, samples: int) -> Sequence[Params]:
        """All ways; four, one and sixteen forget examples, the nearest; then random ones, and some of what stays."""
        base = {"source": "attack", "which": "nearest", "separator": "line"}
        shots = [{**base, "shots": count} for count in (4, 1, MOST)]
        return [
            {"source": SEARCHED},
            *shots,
            {**base, "shots": 4, "separator": "sentence"},
            {**base, "shots": 4, "which": "first"},
            {**base, "shots": 4, "source": "retain"},
        ]

    def run(self, arena: Arena, params: Params) -> Iterator[Spent]:
        """Has every item asked after the examples.

        Raises:
            Diverged: no loss of a search is finite.
            ValueError: not even one example fits.
        """
        wording = arena.text
        if params["source"] == SEARCHED:
            yield from search_rewrites(arena, _all_ways(wording))
            return
        pool = wording.attack if params["source"] == "attack" else wording.retain
        wording.rewrite = _that_fits(wording, pool, params)
        yield arena.ledger.charge_edit()


def _all_ways(wording: Wording) -> list[Rewrite]:
    """Returns a way to show examples for each number of them, source, choice and separator; few examples first."""
    pools = {"attack": wording.attack, "retain": wording.retain}
    return [
        shown_before(pools[source], shots, separator, nearest=nearest)
        for shots in SHOTS
        for source in SOURCES
        for nearest in (True, False)
        for separator in SEPARATORS.values()
    ]


def _that_fits(wording: Wording, pool: Sequence[Item], params: Params) -> Rewrite:
    """Returns the rewriting with as many examples as asked for, halved until all known items can be read after them."""
    shots = min(params["shots"], len(pool))
    while shots:
        rewrite = shown_before(pool, shots, SEPARATORS[params["separator"]], nearest=params["which"] == "nearest")
        known = [*wording.attack, *wording.retain]
        if wording.positions is None or wording.longest(known, rewrite) <= wording.positions:
            return rewrite
        shots //= 2
    raise ValueError(f"the model reads {wording.positions} tokens, too few for one example and a question")


def shown_before(pool: Sequence[Item], shots: int, separator: str, *, nearest: bool) -> Rewrite:
    """Returns what puts examples before a prompt; the likest stands last, next to the question.

    An item is never an example for itself.

    Args:
        pool: answered items, those that come first are preferred.
        shots: how many.
        separator: what stands between them.
        nearest: whether those that share most words with the prompt are taken (by Jaccard's index).
    """
    texts = [(item.prompt, f"{item.prompt} {item.completion}", set(item.prompt.split())) for item in pool]

    def rewrite(prompt: str) -> str:
        words = set(prompt.split())
        others = [row for row in texts if row[0] != prompt]
        if nearest:
            others.sort(key=lambda row: -len(words & row[2]) / max(1, len(words | row[2])))
        shown = [text for _, text, _ in others[:shots]]
        return separator.join([*reversed(shown), prompt])

    return rewrite
