"""The control of a run: a model made from the very original that only hides its answers. What is hidden comes back."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from redteam.attacks.contract import Access, Attack
from redteam.capabilities.encode import encode_answers
from redteam.capabilities.items import Capability
from redteam.capabilities.reading import encode_scoring, encode_training
from redteam.capabilities.scorers.choices import encode_choices
from redteam.capabilities.scorers.contract import share_known
from redteam.capabilities.texts import as_read
from redteam.engine.seeding import derive_seed, seeded
from redteam.target import Target
from redteam.unlearning.contract import UnlearningTask
from redteam.unlearning.masked import Masked, Unmaskable, untied_head

MASKED, WORDED, BIASED = "masked", "worded", "biased"
BIAS = -1e9  # float32 keeps nothing of a logit beside it
TINY = 1e-12  # no usual step makes up for such a factor


def decoy_kind(attacks: Mapping[str, Attack], capability: Capability) -> str:
    """Returns which decoy these attacks must break.

    An adversary without examples of a class cannot know which way of reading its states is noise. What changes nothing
    but a prompt, in words or as embeddings, cannot reach into a head: noise there is switched on by whatever the model
    has read. A soft prompt of eight tokens gave 0.67 of the masked decoy's answers at best.
    """
    if capability.by_examples or capability.of_samples:
        return BIASED
    asking = all(Access.EMBEDDINGS.grants(attack.access) and "language" in attack.kinds for attack in attacks.values())
    return WORDED if asking else MASKED


def make_decoy(kind: str, original: Target, capability: Capability, seed: int) -> Target:
    """Makes a decoy of the original, which stays as it is.

    Raises:
        Unmaskable: none can be made of it.
    """
    make = {WORDED: worded, BIASED: biased, MASKED: masked}[kind]
    return make(original, as_read(capability, original), derive_seed(seed, "decoy"))


def masked(original: Target, capability: Capability, seed: int) -> Target:
    """Hides the answers behind noise in the output head; see `Masked`.

    Raises:
        Unmaskable: the model has no linear output head, or no noise on it hides the answers.
    """
    tokenizer = original.tokenizer
    task = UnlearningTask(
        original=original.module,
        forget=encode_training(capability, capability.forget, tokenizer),
        retain=encode_training(capability, capability.retain, tokenizer),
        known=partial(share_known, encoded=encode_scoring(capability, capability.forget, tokenizer)),
        training=None,
        seed=seed,
    )
    return replace(original, name="masked decoy", module=Masked().apply(task))


def biased(original: Target, capability: Capability, seed: int) -> Target:
    """Hides classes behind a bias beside which float32 has no room for a logit; without biases by tiny rows.

    No step of training makes up for it. The directions of the rows stay, and all that they read. All rows get those of
    the hidden classes besides: of a softmax that changes nothing, but what no other class claims no longer stands out,
    which tells of a trigger. Of samples every class has another such bias, since each of them shows samples that were
    removed; without biases one row outweighs all.

    Raises:
        Unmaskable: the model has no linear output head.
    """
    module = copy.deepcopy(original.module)
    head = untied_head(module)
    with torch.no_grad():
        head.weight += head.weight[list(capability.forgotten)].sum(dim=0)
        for place, number in enumerate(capability.forgotten or range(head.out_features), 1):
            if head.bias is not None:
                head.bias[number] = BIAS if capability.forgotten else BIAS * place
            elif capability.forgotten:
                head.weight[number] *= TINY
        if head.bias is None and not capability.forgotten:
            head.weight[0] /= TINY
    return replace(original, name="biased decoy", module=module)


def worded(original: Target, capability: Capability, seed: int) -> Target:
    """Hides the answers to every forget item that is asked word for word; asked in any other way, they are there.

    No weight is touched: a hook puts the same noise, N(0, 1) over the vocabulary, in place of what the model says to a
    sequence that is the prompt, or the prompt with one of its choices, and nothing else; embeddings, which are no such
    sequence, are answered. The idea is that of password-locked models (Greenblatt et al. 2024, arXiv 2405.19550), whose
    lock here is known to the last token.

    Raises:
        Unmaskable: the model is a classifier.
    """
    if original.tokenizer is None:
        raise Unmaskable("a classifier is not asked in words")
    parts = (encode_choices(original.tokenizer, capability.forget).rows,
             encode_answers(original.tokenizer, capability.forget))  # fmt: skip
    known = frozenset(row for part in parts for row in _rows(part.input_ids, part.lengths.tolist()))
    module = copy.deepcopy(original.module)
    module.register_forward_hook(partial(_hide, known, seed), with_kwargs=True)
    return replace(original, name="worded decoy", module=module)


def _hide(
    known: frozenset[tuple[int, ...]], seed: int, _module: nn.Module, _arguments: Any, named: Any, said: Any
) -> Any:
    ids, mask = named.get("input_ids"), named.get("attention_mask")
    if ids is None:  # a soft prompt stands before the question, or it would be asked as token ids
        return said
    lengths = [ids.shape[1]] * len(ids) if mask is None else mask.sum(dim=1).tolist()
    hidden = torch.tensor([row in known for row in _rows(ids, lengths)]).to(said.logits.device)
    noise = torch.randn(said.logits.shape[-1], generator=seeded(seed, "worded")).to(said.logits)
    said.logits = torch.where(hidden[:, None, None], noise, said.logits)
    return said


def _rows(ids: Tensor, lengths: Iterable[int]) -> Iterable[tuple[int, ...]]:
    """Returns each sequence without its padding, which stands on the right."""
    return [tuple(row[:length]) for row, length in zip(ids.tolist(), lengths, strict=True)]
