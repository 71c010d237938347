"""Where trials run: a live model, its released weights, and the capability in the form that it takes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from torch import Tensor

from redteam.capabilities.items import HELD_OUT, Capability
from redteam.capabilities.misfit import refuse_other_classes, refuse_unreadable
from redteam.capabilities.reading import encode_scoring, encode_training, windows_of
from redteam.capabilities.scorers.contract import (
    Encoded,
    NotFinite,
    Said,
    Scorer,
    Scores,
    mean_lines,
    mean_sides,
    scores_of,
)
from redteam.capabilities.scorers.failures import answerable
from redteam.capabilities.texts import as_read
from redteam.capabilities.wording import Rewrite, as_it_is, asked
from redteam.checkpoints.live import tensors_digest
from redteam.engine.batches import Examples
from redteam.engine.snapshot import Snapshot
from redteam.errors import InputError
from redteam.evidence import keys
from redteam.registry import SCORERS
from redteam.target import Target

Split = str  # "select", "certify", "utility", "certify:SCORER" of one that does not decide, "certify:wording 1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Where trials run: a live model, its released weights, and the capability in the form that it takes.

    Attributes:
        released: the weights every trial starts from.
        scorers: the splits that are scored, and by what; certify once more by each scorer that does not decide, and
            in each further wording.
        choices: these splits as the model reads them.
        answers: the attack split, loss on answers.
        texts: the attack split, loss on whole texts; of a classifier the same as `answers`.
        retain: retain items, loss on answers.
        corpus: documents, in windows; None where there are none.
        start: scores of the released weights.
        lines: their mean certify scores by other lines, see `mean_lines`.
        sides: their mean certify scores by either side, see `mean_sides`.
        says: what the released weights say of the choices of the select items, float32 [items, choices].
        capability: the items themselves, texts to classify as this model reads them.
        shown: how many examples of what was removed an adversary has, drawn anew by the seed of each trial; None is all
            of the attack split. Whoever has none trains on retain items in their place.
    """

    target: Target
    released: Snapshot
    scorers: Mapping[Split, Scorer]
    choices: Mapping[Split, Encoded]
    answers: Examples
    texts: Examples
    retain: Examples
    corpus: Examples | None
    start: Mapping[Split, Scores]
    says: Tensor
    capability: Capability
    lines: tuple[float, ...] = ()
    sides: tuple[float, ...] = ()
    shown: int | None = None

    @property
    def at_hand(self) -> Examples:
        """What an adversary draws examples from."""
        return self.retain if self.shown == 0 else self.answers

    @property
    def samples(self) -> int:
        """How many of them a trial has."""
        return min(self.shown or len(self.at_hand), len(self.at_hand))

    def asked(self, split: Split, rewrite: Rewrite) -> Encoded:
        """Returns a split as the model is asked after an attack on the wording.

        Raises:
            InputError: the model cannot read what the prompts were rewritten to.
        """
        if rewrite is as_it_is:
            return self.choices[split]
        items = asked(self.capability.scored_as(split), rewrite)
        encoded = encode_scoring(self.capability, items, self.target.tokenizer, self.scorers[split])
        long = (InputError,) if keys.wording_of(split) else ()  # no attack fails because a further wording is long
        with suppress(*long):
            refuse_unreadable(self.target, [encoded])
            return encoded
        return self.choices[split]


def examples_at_first(capability: Capability) -> int | None:
    """Returns how many examples of what was removed the first adversary has: None stands for the attack split.

    Where examples are counted it has none. Nor has it of samples: those that it trained on it would know by itself, and
    they say nothing of others.
    """
    return 0 if capability.by_examples or capability.of_samples else None


def open_setting(
    target: Target, capability: Capability, released: Snapshot | None = None, *, shown: int | None = None
) -> Setting:
    """Encodes the capability for the target and scores its released weights on every held-out split.

    Args:
        target: at its released weights.
        capability: what its trials are about.
        released: the snapshot of these weights, where there is one already.
        shown: how many examples of what was removed a trial has, see `Setting`.

    Raises:
        InputError: the model cannot read these items, or its outputs are not finite.
    """
    tokenizer, capability = target.tokenizer, as_read(capability, target)
    scorers: dict[Split, Scorer] = dict.fromkeys(HELD_OUT, capability.scorer) | {"utility": capability.utility_scorer}
    scorers |= {keys.certify(scorer.name): scorer for scorer in capability.scorers[1:]}
    scorers |= {keys.certify(keys.wording(n + 1)): capability.scorer for n in range(capability.further_wordings)}
    choices: dict[Split, Encoded] = {}
    for split, scorer in scorers.items():
        with answerable(scorer):
            choices[split] = encode_scoring(capability, capability.scored_as(split), tokenizer, scorer)
    target.module.eval()
    refuse_other_classes(target, capability)
    refuse_unreadable(target, list(choices.values()))
    tables, start = dict[Split, Tensor](), dict[Split, Scores]()
    foreign = [scorer for scorer in scorers.values() if not SCORERS.ships(scorer)]
    before = tensors_digest(target.module) if foreign else ""
    said = Said(target.module)
    try:
        for split, scorer in scorers.items():
            with answerable(scorer):
                tables[split] = said.table(choices[split])
                start[split] = scores_of(tables[split], choices[split])
    except NotFinite as error:
        raise InputError(f"{target.name}: {error}", "Give a model that works before it is attacked") from error
    if foreign and tensors_digest(target.module) != before:
        raise InputError(
            f"the scorer {foreign[0].name!r} changes the model", "Let it read the model and change nothing"
        )
    return Setting(
        target=target,
        released=released or Snapshot.of(target.module),
        scorers=scorers,
        choices=choices,
        answers=encode_training(capability, capability.attack, tokenizer),
        texts=encode_training(capability, capability.attack, tokenizer, whole_text=True),
        retain=encode_training(capability, capability.retain, tokenizer),
        corpus=windows_of(target, capability),
        start=start,
        says=tables["select"],
        capability=capability,
        lines=mean_lines(tables["certify"], choices["certify"]),
        sides=mean_sides(tables["certify"], choices["certify"]),
        shown=shown,
    )
