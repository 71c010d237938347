"""What the searches for a phrase share: a few tokens before or after every prompt, changed one at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from redteam.attacks.contract import Arena, Params, Suggest
from redteam.capabilities.encode import tokens_of
from redteam.capabilities.items import Item
from redteam.capabilities.wording import Rewrite, Wording, as_it_is, asked
from redteam.engine.batches import TokenSet, ordered_batches
from redteam.engine.cost import Spent
from redteam.engine.embeddings import embeddings_of
from redteam.engine.loop import Diverged
from redteam.engine.seeding import seeded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

READ = 128  # sequences a forward pass; more no longer fit into the caches of a CPU
STEPS = (8, 16, 32)


def suggest_phrase(suggest: Suggest, samples: int, steps: Sequence[int] = STEPS) -> dict[str, Any]:
    """Proposes the phrase's length and place, and how it is searched for, for one of so many steps."""
    return {
        "tokens": suggest.suggest_int("tokens", 1, 20, log=True),
        "place": suggest.suggest_categorical("place", ["before", "after"]),
        "steps": suggest.suggest_categorical("steps", list(steps)),
        "width": suggest.suggest_categorical("width", [16, 32, 64]),
        "samples": suggest.suggest_int("samples", 1, samples, log=True),
        "batch_size": suggest.suggest_categorical("batch_size", [8, 16, 32]),
    }


def phrase_recipe(samples: int, **changes: Any) -> dict[str, Any]:
    """Returns a setting of `suggest_phrase`: eight tokens before the prompt, 16 steps of 64 candidates; but changes."""
    base = {"tokens": 8, "place": "before", "steps": 16, "width": 64, "samples": samples, "batch_size": 16}
    return {**base, **changes}


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """Where a search for a phrase stands.

    Attributes:
        phrase: the text.
        items: that this step looks at.
        place: "before" or "after" the prompt.
        room: tokens that a phrase may have when it stands alone, the tokenizer's own among them.
        words: tokens that a phrase may be made of, int64 [words].
        width: candidates to propose.
        generator: to draw with.
    """

    phrase: str
    items: Sequence[Item]
    place: str
    room: int
    words: Tensor
    width: int
    generator: torch.Generator

    def located(self, wording: Wording, item: Item) -> tuple[list[int], slice]:
        """Returns the tokens of an item's prompt with the phrase, and which of them are the phrase's."""
        before, after = ("", item.prompt) if self.place == "before" else (item.prompt, "")
        return wording.place_of(before, self.phrase, after)


# Maps an arena and a standing to candidates, each as tokens, and to how many tokens were differentiated to find them.
Propose = Callable[[Arena, Standing], tuple[list[list[int]], int]]


def search_phrase(arena: Arena, params: Params, propose: Propose) -> Iterator[Spent]:
    """Searches for the phrase that makes the right answers likeliest, and has every item asked with it.

    Each step proposes phrases that differ from the present one in one token and keeps the best, the present one
    included. Candidates are compared as text: what a tokenizer makes of it is what the model reads, so that nothing is
    found that could not be typed.

    Raises:
        Diverged: a loss is not finite.
        ValueError: there is no token to make a phrase of, or no room for one.
    """
    wording, generator = arena.text, seeded(arena.seed, "phrase")
    words = words_of(wording.tokenizer, arena.module)
    items = wording.attack[: params["samples"]]
    drawn = words[torch.randint(len(words), (params["tokens"],), generator=generator)]
    phrase = text_of(wording.tokenizer, drawn.tolist())
    room = count_of(wording.tokenizer, [phrase])[0]
    for _ in range(params["steps"]):
        started = time.perf_counter()
        arena.module.eval()
        chosen = torch.randperm(len(items), generator=generator)[: params["batch_size"]].tolist()
        now = Standing(
            phrase=phrase,
            items=[items[row] for row in chosen],
            place=params["place"],
            room=room,
            words=words,
            width=params["width"],
            generator=generator,
        )
        proposed, differentiated = propose(arena, now)
        losses, data = phrase_losses(arena, now, [phrase, *distinct(wording.tokenizer, proposed, phrase, room)])
        best = min(losses, key=lambda text: losses[text])
        if best != phrase or arena.ledger.spent.steps == 0:
            phrase, wording.rewrite = best, with_phrase(best, now.place)
        arena.ledger.seconds += time.perf_counter() - started
        tokens = int(data.lengths.sum()) + differentiated
        yield arena.ledger.charge_search(
            samples=len(data), tokens=tokens, differentiated=differentiated, loss=losses[best]
        )


def distinct(
    tokenizer: PreTrainedTokenizerBase, proposed: Sequence[Sequence[int]], phrase: str, room: int
) -> list[str]:
    """Returns what the proposals are as text, without repetitions, the present phrase, and what has grown too long."""
    texts = dict.fromkeys(text_of(tokenizer, tokens) for tokens in proposed)
    others = [text for text in texts if text and text != phrase]
    counts = count_of(tokenizer, others) if others else []
    return [text for text, count in zip(others, counts, strict=True) if count <= room]


def count_of(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[int]:
    """Returns how many tokens each text has by itself."""
    return [len(tokens) for tokens in tokens_of(tokenizer, texts)]


def changed(tokens: Sequence[int], place: int, token: int) -> list[int]:
    """Returns the tokens with another one at a place; at the place after the last it is added."""
    return [*tokens[:place], token, *tokens[place + 1 :]]


def with_phrase(phrase: str, place: str) -> Rewrite:
    """Returns what puts a phrase before or after a prompt."""
    return (lambda prompt: f"{phrase} {prompt}") if place == "before" else (lambda prompt: f"{prompt} {phrase}")


def phrase_losses(arena: Arena, now: Standing, phrases: Sequence[str]) -> tuple[dict[str, float], TokenSet]:
    """Returns the mean loss of each phrase on the items, those apart that the model has no room for; and what was read.

    Raises:
        Diverged: a loss is not finite.
        ValueError: there is no room for any.
    """
    wording = arena.text
    rows = [item for phrase in phrases for item in asked(now.items, with_phrase(phrase, now.place))]
    data = wording.encoded(rows, as_it_is)
    lengths = data.lengths.view(len(phrases), -1).amax(dim=1)
    kept = lengths <= wording.positions if wording.positions is not None else torch.ones(len(phrases), dtype=torch.bool)
    if not kept.any():
        raise ValueError(f"the model reads {wording.positions} tokens, too few for a phrase of {now.room}")
    data = data.take(kept.repeat_interleave(len(now.items)))
    losses = row_losses(arena.module, data).view(int(kept.sum()), -1).mean(dim=1)
    if not losses.isfinite().all():
        raise Diverged("the loss of a phrase is not finite")
    left = [phrase for phrase, fits in zip(phrases, kept.tolist(), strict=True) if fits]
    return dict(zip(left, losses.tolist(), strict=True)), data


@torch.no_grad()
def row_losses(module: nn.Module, data: TokenSet) -> Tensor:
    """Returns the mean cross-entropy of each sequence's labelled tokens, float32 [sequences]."""
    losses = []
    for batch in ordered_batches(data, READ):
        said = batch.predictions(module)
        each = functional.cross_entropy(said.logits, said.labels, reduction="none")
        each, owner = each.cpu(), said.owner.cpu()
        losses.append(
            torch.zeros(batch.samples).index_add(0, owner, each) / torch.bincount(owner, minlength=batch.samples)
        )
    return torch.cat(losses)


def words_of(tokenizer: PreTrainedTokenizerBase, module: nn.Module) -> Tensor:
    """Returns the tokens that a phrase may be made of: those that can be printed and are not special. int64 [words].

    Raises:
        ValueError: there is none, or the module has no token embeddings.
    """
    count = min(len(tokenizer), embeddings_of(module).num_embeddings)
    special = set(tokenizer.all_special_ids)
    written = tokenizer.batch_decode([[token] for token in range(count)])
    words = [t for t, text in enumerate(written) if t not in special and text.strip() and text.strip().isprintable()]
    if not words:
        raise ValueError("the tokenizer has no token that can be printed")
    return torch.tensor(words)


def text_of(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    """Returns the tokens as text, without spaces around it."""
    return str(tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()
