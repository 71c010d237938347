"""Items of a capability: text, or an array of inputs. No torch here but what a scorer brings."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from math import fsum
from typing import TYPE_CHECKING, Any, Literal

from redteam.capabilities.scorers.failures import answerable
from redteam.errors import InputError
from redteam.evidence import keys
from redteam.registry import SCORERS, STANDARD_SCORER

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from redteam.capabilities.scorers.contract import Scorer
    from redteam.capabilities.typical import Typical

NAMED = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")  # names of scorers are parts of the keys of evidence
LUCK = 2.5  # standard deviations: a half per cent of capabilities are above by chance
SPLITS = ("attack", "select", "certify", "retain", "utility", "negatives")
HELD_OUT = ("select", "certify", "utility")  # what is scored


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A question about one fact.

    Attributes:
        id: unique within its capability.
        group: which fact (or entity) it is about; splits never divide a group.
        prompt: what a language model reads; of an image, a description for people.
        choices: distinct continuations, without the leading space; the right one alone if wrong ones are not known; for
            a classifier the names of all its classes.
        answer: index of the right one.
        row: of a classifier's item, the row of its capability's `inputs` or `texts` that the model sees.
        chat: whether the prompt is what a user says, in the model's own chat template, and the answer its reply.
        wordings: further prompts that ask the same in other words.
    """

    id: str
    group: str
    prompt: str
    choices: tuple[str, ...]
    answer: int
    row: int | None = None
    chat: bool = False
    wordings: tuple[str, ...] = ()

    @property
    def completion(self) -> str:
        """The right continuation."""
        return self.choices[self.answer]


@dataclass(frozen=True, slots=True)
class Texts:
    """What a classifier of text reads.

    Attributes:
        rows: the texts; each item names its row.
        by_name: whether the classes are known by their names alone, in no order: the model says which number each has.
    """

    rows: tuple[str, ...]
    by_name: bool = False


def _standard() -> tuple[Scorer, ...]:
    return (SCORERS.create(STANDARD_SCORER),)


@dataclass(frozen=True, kw_only=True, slots=True)
class Capability:
    """What was removed, and what must stay.

    Attributes:
        name: for people and records.
        attack: forget items that the adversary may train on.
        select: forget items that pick the best trial.
        certify: forget items that are scored for confirmed configurations only, and reported.
        retain: items of what must stay, for methods and attacks to train on.
        utility: items of what must stay, disjoint from `retain`; they measure utility.
        negatives: of a classifier, examples of what must stay that nothing else is chosen or measured by: the certify
            split is held against them, where the scorer needs that. Select is held against `utility`.
        inputs: what a classifier sees, float32 [rows, ...]; each item names its row. None where items are text. Of
            `texts` their token ids, int64 [rows, longest], once a model has read them.
        texts: of a classifier of text, what it reads.
        scorers: how an item is scored. The first decides; what the others say of the same models is told beside it. By
            default `STANDARD_SCORER`.
        premise: a prompt that asks nothing, for scorers that need one.
        corpus: of a language model, documents of the topic, or related and public, for attacks to train on.
        typical: of removed samples, what models that never saw them say of them: it depends on the models of a run, and
            not on what was removed.
    """

    name: str
    attack: tuple[Item, ...]
    select: tuple[Item, ...]
    certify: tuple[Item, ...]
    retain: tuple[Item, ...]
    utility: tuple[Item, ...]
    negatives: tuple[Item, ...] = ()
    inputs: NDArray[Any] | None = field(default=None, compare=False, repr=False)  # arrays have no one ==
    texts: Texts | None = field(default=None, repr=False)
    scorers: tuple[Scorer, ...] = field(default_factory=_standard)
    premise: str | None = None
    corpus: tuple[str, ...] = field(default=(), repr=False)
    typical: Typical | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Checks that the items and the inputs belong together.

        Raises:
            ValueError: an item names a row that is not there, or none although there are inputs; the inputs are not
                float32, tokens not int64; there is no scorer, or one twice, or one of other items than these; not all
                forget items have as many further wordings; there are documents for a classifier, or empty ones.
        """
        self._refuse_unfit_scorers()
        wanted = "float32" if self.texts is None else "int64"
        if self.inputs is not None and self.inputs.dtype.name != wanted:
            raise ValueError(f"inputs are {self.inputs.dtype.name}, not {wanted}")
        if self.corpus and (self.kind != "language" or not all(text.strip() for text in self.corpus)):
            raise ValueError("a corpus is for language models, and none of its documents is empty")
        rows = 0 if self.inputs is None else len(self.inputs)
        if self.texts is not None:
            rows = len(self.texts.rows) if self.inputs is None else min(rows, len(self.texts.rows))
        for item in (item for split in SPLITS for item in getattr(self, split)):
            if (item.row is None) != (self.kind == "language") or not 0 <= (item.row or 0) < max(rows, 1):
                raise ValueError(f"{item.id} is about row {item.row} of {rows} rows of inputs")

        counts = {len(item.wordings) for item in self.forget}
        if len(counts) > 1 or (self.further_wordings and self.kind != "language"):
            raise ValueError(f"forget items have {sorted(counts)} further wordings: all have as many, images none")

    def _refuse_unfit_scorers(self) -> None:
        names = [scorer.name for scorer in self.scorers]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"scorers are {names}: there must be one, and none twice")
        for scorer in self.scorers:
            if not NAMED.fullmatch(scorer.name):
                raise ValueError(f"{scorer.name!r} is no name of a scorer: lower-case letters, digits and hyphens are")
            if scorer.name in SCORERS.table and not SCORERS.ships(scorer):
                raise ValueError(f"a scorer calls itself {scorer.name!r}, as one of redteam's own")
            if self.kind not in scorer.kinds:
                raise ValueError(f"the scorer {scorer.name!r} scores: {scorer.kinds}; this is of a {self.kind}")
            if "premise" in scorer.needs and self.premise is None:
                raise ValueError(f"the scorer {scorer.name!r} needs a premise")
            if "negatives" in scorer.needs and not self.negatives:
                raise ValueError(f"the scorer {scorer.name!r} needs negatives: held-out items of what must stay")

    @property
    def kind(self) -> Literal["language", "classifier"]:
        """What kind of model it is of."""
        return "language" if self.inputs is None and self.texts is None else "classifier"

    @property
    def forget(self) -> tuple[Item, ...]:
        """All forget items: what an unlearning method is given."""
        return self.attack + self.select + self.certify

    @property
    def further_wordings(self) -> int:
        """In how many wordings beside its prompt every forget item can be asked."""
        return len(self.forget[0].wordings) if self.forget else 0

    def worded(self, number: int) -> Capability:
        """Returns the capability asked in a further wording, counted from 1; an item without it is asked as it is."""
        parts: dict[str, Any] = {
            split: tuple(_worded(item, number) for item in getattr(self, split)) for split in SPLITS
        }
        return replace(self, **parts)

    def scored_as(self, name: str) -> tuple[Item, ...]:
        """Returns the items that a name of scores is about, as they are asked; see `keys.certify`."""
        number = keys.wording_of(name)
        items: tuple[Item, ...] = getattr(self, keys.split_of(name))
        return items if number is None else tuple(_worded(item, number) for item in items)

    @property
    def scorer(self) -> Scorer:
        """The one that decides."""
        return self.scorers[0]

    @property
    def forgotten(self) -> tuple[int, ...]:
        """Numbers of the classes that were removed, or that a trigger asks for; () of samples and language models."""
        by_class = self.kind == "classifier" and not self.of_samples
        return tuple(sorted({item.answer for item in self.forget})) if by_class else ()

    @property
    def of_samples(self) -> bool:
        """Whether samples of the training data were removed, and not what they show."""
        return "references" in self.scorer.needs

    @property
    def by_examples(self) -> bool:
        """Whether a few examples teach any model what was removed, so that it counts how few a model takes."""
        return "negatives" in self.scorer.needs and not self.of_samples

    @property
    def utility_scorer(self) -> Scorer:
        """The one by which items of what must stay are scored: the same, unless it scores forgotten ones alone."""
        return getattr(self.scorer, "utility", self.scorer)

    @property
    def chance(self) -> float:
        """Expected score on `certify` of a model that knows nothing, by the scorer that decides; see `chance_by`."""
        return self.chance_by(self.scorer)

    def chance_by(self, scorer: Scorer) -> float:
        """Expected score on `certify` of a model that knows nothing: it draws one of the choices blindly.

        Or it always says what is most often right in the other forget splits, where that is right more often than blind
        draws would be by luck. Of a classifier's class the answers are all one by design, and that is not counted.

        Raises:
            InputError: a scorer of the user's own gives numbers that are no chance.
        """
        blind = blind_score(scorer, self.certify)
        known = [item.completion for item in (*self.attack, *self.select)]
        asked = [item.completion for item in self.certify]
        with answerable(scorer):
            constant = float(scorer.constant(known, asked)) if self.kind == "language" else 0.0
        if not (0 <= blind <= 1 and 0 <= constant <= 1):
            raise InputError(
                f"the scorer {scorer.name!r} puts chance at {blind:g} and a constant answer at {constant:g}",
                "Let both lie between 0 and 1",
            )
        lucky = blind + LUCK * (blind * (1 - blind) / len(self.certify)) ** 0.5
        return constant if constant > lucky else blind

    @property
    def sha256(self) -> str:
        """Digest of every item of every split, and of documents, texts or inputs where there are some.

        And of its scorers: the names of our own; of any other its version too, and the source of a user's file.
        """
        splits = [split for split in SPLITS if split != "negatives" or self.negatives]
        content = {split: [_content(item) for item in getattr(self, split)] for split in splits}
        about: dict[str, Any] = {"name": self.name, **content}
        scorers = [SCORERS.identity(scorer) for scorer in self.scorers]
        if scorers != [STANDARD_SCORER]:  # these keep the digest that they had before there were others
            about |= {"scorers": scorers, "premise": self.premise}
        if self.corpus:
            about |= {"corpus": self.corpus}
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
        if self.texts is not None:
            digest.update(json.dumps(asdict(self.texts), sort_keys=True).encode())
        elif self.inputs is not None:
            digest.update(json.dumps(list(self.inputs.shape)).encode())
            digest.update(self.inputs.astype("<f4").tobytes())
        return digest.hexdigest()


def _content(item: Item) -> dict[str, Any]:
    """Returns an item's fields; those that came later are left out where they say nothing: digests stay the same."""
    left_out = {"row": item.row is None, "chat": not item.chat, "wordings": not item.wordings}
    return {name: value for name, value in asdict(item).items() if not left_out.get(name, False)}


def _worded(item: Item, number: int) -> Item:
    return replace(item, prompt=item.wordings[number - 1], wordings=()) if item.wordings else item


def blind_score(scorer: Scorer, items: Sequence[Item]) -> float:
    """Returns the expected score of blind draws; where nothing is drawn, 0.

    Raises:
        InputError: a scorer of the user's own fails, or does not say one chance for every item.
    """
    with answerable(scorer):
        chances = [float(chance) for chance in scorer.chance(items)]
    if len(chances) != len(items):
        raise InputError(
            f"the scorer {scorer.name!r} says {len(chances)} chances for {len(items)} items", "Let it say one for each"
        )
    return fsum(chances) / len(items)


def group_numbers(items: Sequence[Item]) -> tuple[int, ...]:
    """Returns the group of each item, counted from 0 in the order in which they occur."""
    numbers: dict[str, int] = {}
    return tuple(numbers.setdefault(item.group, len(numbers)) for item in items)


def overlapping_groups(parts: Sequence[Sequence[Item]]) -> set[str]:
    """Returns the groups that occur in more than one part: leaks between splits."""
    return _overlap([{item.group for item in part} for part in parts])


def overlapping_prompts(parts: Sequence[Sequence[Item]]) -> set[str]:
    """Returns the prompts that occur in more than one part: the same question under two groups leaks as well.

    Further wordings are prompts too.
    """
    return _overlap([{text for item in part for text in (item.prompt, *item.wordings)} for part in parts])


def overlapping_inputs(capability: Capability, parts: Sequence[Sequence[Item]]) -> set[str]:
    """Returns the ids of items whose input occurs, byte for byte, in more than one part; none where items are text."""
    if capability.kind == "language":
        return set()
    content = {item.id: hashlib.sha256(_input(capability, item)).hexdigest() for part in parts for item in part}
    shared = _overlap([{content[item.id] for item in part} for part in parts])
    return {name for name, digest in content.items() if digest in shared}


def _input(capability: Capability, item: Item) -> bytes:
    assert item.row is not None
    if capability.texts is not None:
        return capability.texts.rows[item.row].encode("utf-8", "surrogatepass")
    assert capability.inputs is not None
    return bytes(capability.inputs[item.row].tobytes())


def _overlap(parts: Sequence[set[str]]) -> set[str]:
    seen: set[str] = set()
    shared: set[str] = set()
    for part in parts:
        shared |= part & seen
        seen |= part
    return shared
