"""Membership inference: does the model find the right text likelier than the same text with another answer?"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from redteam.capabilities.reading import Chosen
from redteam.capabilities.scorers.choices import EncodedChoices
from redteam.capabilities.scorers.contract import SCORING_BATCH, NotFinite, Scores
from redteam.engine.accumulation import read_in_order
from redteam.probes.contract import ProbeContext, ProbeReading
from redteam.probes.outputs import drawn_answers, encoded_parts

SHARES = {"loss": 100, "min-20%": 20, "min-50%": 50}  # statistic -> percent of the tokens, the unlikeliest first


class Membership:
    """Tells the member, the text with the right answer, from its neighbours, which have the item's other choices.

    An item scores the share of its neighbours that the member beats, a tie counts a half: the area under the ROC curve
    of one member against its neighbours. Chance is 1/2 whatever the number of choices, and a right answer that was
    merely pushed off the top still shows. The statistic of a text is the mean log-likelihood of its tokens ("loss"), of
    the unlikeliest k% of them ("min-k%"), or their sum: neighbours in the literature are as long as their member, so
    that mean and sum agree, but of choices of unequal length the mean prefers those that dilute an unlikely prompt with
    likely tokens, and the sum those that are short. What does best on the select split is reported. Of a classifier the
    neighbours are the other classes, and all statistics are the log-probability of the class.

    Source: Shi et al. 2023 (arXiv 2310.16789) for min-k%; Mattern et al. 2023 (arXiv 2305.18462) for the comparison
    with neighbours, which there come from a masked language model.
    """

    name = "membership"
    version = 1
    goal = "is the text with the right answer likelier than the same text with the item's other choices?"
    paper = "Shi et al. 2023, Min-K% Prob (arXiv 2310.16789); Mattern et al. 2023 (arXiv 2305.18462)"
    kinds = "language, classifier"
    needs = ""
    decides = True

    def read(self, view: ProbeContext) -> ProbeReading:
        """Chooses the statistic on select; `layer` names it.

        Raises:
            NotFinite: a likelihood is NaN or infinite.
        """
        select, certify = encoded_parts(view, "select", "certify")
        found = statistics(view.module, select)
        by_statistic = {name: float(share_beaten(table, select).mean()) for name, table in found.items()}
        chosen = max(by_statistic, key=lambda name: by_statistic[name])  # of equals the first
        table = statistics(view.module, certify)[chosen]
        return ProbeReading(
            layer=chosen,
            correct=tuple(share_beaten(table, certify).tolist()),
            control=tuple(share_beaten(table, drawn_answers(certify, view.seed)).tolist()),
            by_layer=by_statistic,
            chance=0.5,
        )


def share_beaten(table: Tensor, encoded: Chosen) -> Scores:
    """Returns the share of an item's other choices that its right one beats, a tie counts a half: float64 [items].

    Args:
        table: a statistic of every choice, [items, most choices]; whatever stands where an item has none.
        encoded: the items.
    """
    own = table.gather(1, encoded.answers[:, None])
    neighbours = torch.arange(table.shape[1]) < encoded.counts[:, None]
    neighbours.scatter_(1, encoded.answers[:, None], False)
    points = (own > table).double() + 0.5 * (own == table).double()
    return ((points * neighbours).sum(dim=1) / (encoded.counts - 1)).numpy()


def statistics(module: nn.Module, encoded: Chosen) -> dict[str, Tensor]:
    """Returns each statistic of every choice's text, [items, most choices]; more of it is likelier.

    Raises:
        NotFinite: a likelihood is NaN or infinite.
    """
    if encoded.text is None:  # logits are log-probabilities but for one number an item
        return {"loss": encoded.table(module)}
    tokens = token_loglikelihoods(module, encoded.text)
    whole = {"sum": tokens.masked_fill(tokens == torch.inf, 0).sum(dim=-1)}
    return {name: mean_of_lowest(tokens, percent) for name, percent in SHARES.items()} | whole


def mean_of_lowest(tokens: Tensor, percent: int) -> Tensor:
    """Returns the mean of the lowest `percent` of each text's log-likelihoods, rounded down but one token at least.

    Args:
        tokens: [..., longest], +inf where there is no token.
        percent: 1 to 100.
    """
    kept = (tokens.isfinite().sum(dim=-1) * percent // 100).clamp(min=1)
    lowest = tokens.sort(dim=-1).values
    return lowest.masked_fill(torch.arange(tokens.shape[-1]) >= kept[..., None], 0).sum(dim=-1) / kept


@torch.no_grad()
def token_loglikelihoods(module: nn.Module, encoded: EncodedChoices) -> Tensor:
    """Returns log p(token | tokens before it) of the text of every choice, prompt included, without its first token.

    Returns:
        float64 [items, most choices, tokens], in no order that matters; +inf where there is no token.

    Raises:
        NotFinite: one is NaN or infinite.
    """
    texts, answers = [], []
    for text, answer in read_in_order(encoded.rows, SCORING_BATCH, lambda rows: _read(module, encoded, rows)):
        texts.append(text)
        if answer is not None:
            answers.append(answer)
    read = torch.cat(texts).double()  # so that no sum over tokens hides what a choice differs by
    if not (read > -torch.inf).all() or not all((last > -torch.inf).all() for last in answers):  # NaN is not above
        raise NotFinite("the model's likelihoods are not finite")
    if not answers:
        return _by_item(read, encoded)
    prompts = read[:, None].expand(-1, answers[0].shape[1], -1)
    return torch.cat([prompts, torch.cat(answers).double()[..., None]], dim=2)


def _read(module: nn.Module, encoded: EncodedChoices, rows: slice) -> tuple[Tensor, Tensor | None]:
    """Returns log p of the tokens of some rows, +inf where there is none, and where choices are one token, of those."""
    batch, width = encoded.rows.batch(rows), encoded.rows.input_ids.shape[1] - 1
    says = batch.logits(module).float().log_softmax(-1)
    following = batch.input_ids[:, 1:, None].to(says.device)
    known = says[:, :-1].gather(2, following)[..., 0].cpu().masked_fill(~batch.real[:, 1:], torch.inf)
    text = functional.pad(known, (0, width - known.shape[1]), value=torch.inf)
    if encoded.single is None:
        return text, None
    choices = encoded.single[rows]  # the rows are prompts, and each choice is one token more
    last = says[torch.arange(len(says)), encoded.ends[rows]].cpu().gather(1, choices.clamp(min=0))
    return text, last.masked_fill(choices < 0, torch.inf)


def _by_item(texts: Tensor, encoded: EncodedChoices) -> Tensor:
    """Returns the texts of each item side by side, and what they begin with alike with one and the same likelihood.

    In a batch of texts of other lengths the same tokens differ in their last bits, which would break the ties between
    texts whose unlikeliest tokens are those that they share.
    """
    data = encoded.rows
    real = torch.arange(int(encoded.counts.max())) < encoded.counts[:, None]
    ids = torch.full((*real.shape, data.input_ids.shape[1]), -1)
    ids[real] = data.input_ids.masked_fill(torch.arange(ids.shape[2]) >= data.lengths[:, None], -1)
    table = torch.full((*real.shape, texts.shape[1]), torch.inf, dtype=texts.dtype)
    table[real] = texts
    first = torch.zeros(table.shape, dtype=torch.long)
    for choice in reversed(range(real.shape[1])):  # the first choice with the same beginning has the last word
        alike = (ids == ids[:, choice, None]).cumprod(dim=2, dtype=torch.uint8)[..., 1:].bool()
        first.masked_fill_(alike, choice)
    return table.gather(1, first)
