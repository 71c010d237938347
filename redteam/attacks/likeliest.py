"""A search among ways to ask: which of many makes the right answers of the attack split likeliest?"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence

import torch

from redteam.attacks.contract import Arena
from redteam.attacks.phrases import row_losses
from redteam.capabilities.items import Item
from redteam.capabilities.wording import Rewrite, Wording, as_it_is, asked
from redteam.engine.batches import TokenSet
from redteam.engine.cost import Spent
from redteam.engine.loop import Diverged
from redteam.engine.seeding import seeded

SEARCHED = "searched"  # instead of the name of one way: all are tried
FEW = 4  # items that all ways are tried on: what a model knows and does not say shows on each of them
KEPT = 4  # of so many ways one goes on to the next step, where each is tried on so many times as many items
COMPARED = 64  # items on which ways that ask alike are told to be one


def search_rewrites(arena: Arena, rewrites: Sequence[Rewrite]) -> Iterator[Spent]:
    """Has every item asked in the way that makes the right answers of the attack split likeliest.

    Each step tries the ways that are left on items drawn anew, keeps a quarter of them, and asks in the best. What is
    looked for needs no more than the likelihood of an answer, which many services give away.

    Source: sequential halving, Karnin, Koren & Somekh 2013, Almost Optimal Exploration in Multi-Armed Bandits (ICML).

    Args:
        arena: its wording is rewritten.
        rewrites: the ways; of those that ask alike the first is tried.

    Raises:
        Diverged: there is room, and no loss is finite.
        ValueError: there is no room for any.
    """
    wording, generator = arena.text, seeded(arena.seed, "rewrites")
    left, count = distinct_rewrites(rewrites, wording.attack[:COMPARED]), FEW
    while True:
        started = time.perf_counter()
        arena.module.eval()
        chosen = torch.randperm(len(wording.attack), generator=generator)[:count].tolist()
        losses, data = rewrite_losses(arena, left, [wording.attack[row] for row in chosen])
        ranked = sorted(range(len(left)), key=losses.__getitem__)
        best = next((row for row in ranked if math.isfinite(losses[row]) and fits(wording, left[row])), None)
        if best is None:
            raise ValueError(f"the model reads {wording.positions} tokens, too few for any of these ways to ask")
        wording.rewrite = left[best]
        arena.ledger.seconds += time.perf_counter() - started
        tokens = int(data.lengths.sum())
        yield arena.ledger.charge_search(samples=len(data), tokens=tokens, differentiated=0, loss=losses[best])
        left, count = [left[row] for row in ranked[: len(left) // KEPT]], count * KEPT
        if len(left) < 2:
            return


def distinct_rewrites(rewrites: Sequence[Rewrite], items: Sequence[Item]) -> list[Rewrite]:
    """Returns the first of those that ask all of these items alike, in the order in which they are given."""
    found: dict[tuple[str, ...], Rewrite] = {}
    for rewrite in rewrites:
        found.setdefault(tuple(item.prompt for item in asked(items, rewrite)), rewrite)
    return list(found.values())


def rewrite_losses(arena: Arena, rewrites: Sequence[Rewrite], items: Sequence[Item]) -> tuple[list[float], TokenSet]:
    """Returns the mean loss on the items' right answers asked in each way, and what was read.

    It is infinite where the model has no room for an item asked so, or says what is not finite.

    Raises:
        Diverged: there is room, and no loss is finite.
    """
    wording = arena.text
    data = wording.encoded([item for rewrite in rewrites for item in asked(items, rewrite)], as_it_is)
    lengths = data.lengths.view(len(rewrites), -1).amax(dim=1)
    room = torch.ones(len(rewrites), dtype=torch.bool) if wording.positions is None else lengths <= wording.positions
    losses = torch.full((len(rewrites),), torch.inf)
    data = data.take(room.repeat_interleave(len(items)))
    if room.any():
        losses[room] = row_losses(arena.module, data).view(-1, len(items)).mean(dim=1)
        if not losses.isfinite().any():
            raise Diverged("the loss of no way to ask is finite")
    return losses.nan_to_num(nan=torch.inf, posinf=torch.inf).tolist(), data


def fits(wording: Wording, rewrite: Rewrite) -> bool:
    """Returns whether the model has room for every item that the adversary knows, asked so."""
    known = [*wording.attack, *wording.retain]
    return wording.positions is None or wording.longest(known, rewrite) <= wording.positions
