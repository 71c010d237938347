"""SGTM: selective gradient masking throughout training, with a slice of each layer that only forget data teach."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from redteam.engine.batches import AnyBatch, Batch, shuffled_batches
from redteam.engine.blocks import Block, ablate, attention_blocks, expand, last_units, mlp_blocks, zero_units
from redteam.engine.freezing import block_gradients, frozen
from redteam.engine.loop import Around, train
from redteam.engine.routing import silenced
from redteam.engine.seeding import derive_seed, seeded
from redteam.errors import InputError
from redteam.unlearning.contract import Training, UnlearningTask
from redteam.unlearning.stages import FollowUp

Turn = Literal["forget", "retain", "default"]
Slices = Sequence[tuple[Sequence[Block], int]]  # blocks, and how many of their last units are reserved
PLACES, UPDATES = ("extra", "inside"), ("split", "joint")


@dataclass(frozen=True, kw_only=True, slots=True)
class SGTM:
    """Trains from nothing in batches of one kind; only the reserved slice learns from labelled forget examples.

    The slice is the last units of every MLP block, and the last heads where asked for. A *forget* step updates
    nothing else. A share of all other steps, the *retain* steps, runs with the slice silenced, so that the rest
    learns to do without it; the *default* steps train everything. Undiscovered forget examples are among the last
    two. At the end the slice is cut off. With `retain_share=1`, "split" and `mask_rest` what stays has been trained on
    unlabelled data alone: that is data filtering, in as many steps fewer as there are forget steps.

    Source: Shilov et al. 2025, Beyond Data Filtering: Knowledge Localization for Capability Removal in LLMs (arXiv
    2512.05648), and safety-research/selective-gradient-masking. There the slice lies inside the model, masking
    embeddings and norms is an option that is off, and one AdamW with weight decay moves masked weights by momentum
    ("joint"); with "split" what a step does not train keeps weights and moments bit for bit.

    Attributes:
        units: MLP units of each block that are reserved.
        heads: key-value heads of each attention block, with their queries; of language models only.
        place: "extra" adds them and cuts them off at the end; "inside" takes them from the model's own and sets
            them to zero.
        update: "split" or "joint".
        mask_rest: whether forget steps leave alone what lies outside the blocks too: embeddings, norms, head.
        retain_share: of the steps without labelled examples, those with the slice silenced. Published: 0.25 and 0.1.
        retain_steps: of fine-tuning on retain data at the end.
        retain_learning_rate: of AdamW.
    """

    units: int = 64
    heads: int = 0
    place: str = "extra"
    update: str = "split"
    mask_rest: bool = True
    retain_share: float = 0.25
    retain_steps: int = 0
    retain_learning_rate: float = 3e-4

    name = "sgtm"
    version = 1
    goal = "lets labelled forget examples update a slice of each layer only, then cuts it off"
    paper = "Shilov et al. 2025, Beyond Data Filtering: Knowledge Localization (arXiv 2512.05648)"
    when = "training"
    kinds = "language, classifier"
    touches = "every weight, from nothing"
    cost = "one plain training of a slightly wider model"

    def apply(self, task: UnlearningTask) -> nn.Module:
        """Trains a new model.

        Raises:
            InputError: no recipe of the original is known, the model has no MLP block, or an option is none.
        """
        training = task.require_training()
        seed = derive_seed(task.seed, "sgtm")
        module = training.new(seed)
        slices = self._reserve(module, training, seed)
        turns = Turns(training, self.retain_share, seed)
        steps = training.tuning.steps
        with torch.random.fork_rng(devices=()):  # dropout draws from the global generator
            torch.manual_seed(derive_seed(seed, "dropout"))
            train(
                module,
                turns,
                training.tuning,
                loss=lambda live, batch: self._loss(live, batch, slices, turns),
                around=self._around(module, slices, turns),
                on_step=lambda done: task.progress("training with masked gradients", done, steps),
            )
        for blocks, count in slices:
            (ablate if self.place == "extra" else zero_units)(module, blocks, count)
        if self.retain_steps == 0 or len(task.retain) < 2:
            return module
        stage = FollowUp(steps=self.retain_steps, learning_rate=self.retain_learning_rate)
        return stage.apply(module, task.retain, seed=seed, progress=task.progress)

    def look_up(self, module: nn.Module, batch: AnyBatch) -> Slices:
        """Returns the blocks and how many of their last units are reserved.

        Raises:
            InputError: an option is none, or the model has no such blocks.
        """
        for option, value, known in (("place", self.place, PLACES), ("update", self.update, UPDATES)):
            if value not in known:
                raise InputError(f"{option} of the method sgtm is {value!r}", f"Give {' or '.join(known)}")
        if not 0 <= self.retain_share <= 1:
            raise InputError(f"retain_share of the method sgtm is {self.retain_share}", "Give a share between 0 and 1")
        wanted = ((mlp_blocks(module), self.units), (attention_blocks(module), self.heads))
        if self.heads > 0 and isinstance(batch, Batch) and not wanted[1][0]:
            raise InputError("no attention block with projections of its own was found", "Set heads=0")
        slices = [(blocks, count) for blocks, count in wanted if blocks and count > 0]
        if self.place == "extra":
            return slices
        for blocks, count in slices:
            for block in blocks:
                if block.width <= count:
                    raise InputError(
                        f"{block.name} has {block.width} units, {count} are to be reserved", "Reserve fewer"
                    )
        return slices

    def _reserve(self, module: nn.Module, training: Training, seed: int) -> Slices:
        """Returns the blocks, widened if the reserved units are extra ones, and how many units are reserved."""
        slices = self.look_up(module, training.data.batch(slice(0, 2)))
        if self.place != "extra":
            return slices
        generator = seeded(seed, "extra units")
        return [(expand(module, blocks, count, generator), count) for blocks, count in slices]

    def _loss(self, live: nn.Module, batch: AnyBatch, slices: Slices, turns: Turns) -> Tensor:
        if turns.current != "retain":
            return batch.loss(live)
        with silent_slices(live, slices):
            return batch.loss(live)

    def _around(self, module: nn.Module, slices: Slices, turns: Turns) -> Around:
        """Returns what keeps a step to what it may train."""
        reserved = slice_entries(module, slices)
        projections = {name.rpartition(".")[0] for name in reserved}
        inside, others = {}, {}
        for name, parameter in module.named_parameters():
            own = reserved.get(name)
            if own is not None:
                inside[parameter] = own
                others[parameter] = ~own
            elif self.mask_rest or name.rpartition(".")[0] in projections:
                others[parameter] = torch.ones(parameter.shape, dtype=torch.bool)
        untouched: dict[Turn, Mapping[nn.Parameter, Tensor]] = {"forget": others, "retain": inside, "default": {}}

        def around(optimizer: torch.optim.Optimizer) -> AbstractContextManager[None]:
            entries = untouched[turns.current]
            if self.update == "split":
                return frozen(optimizer, entries)
            block_gradients(entries)
            return nullcontext()

        return around


class Turns(Iterator[AnyBatch]):
    """Batches of one kind each, in a random order of kinds.

    The steps are divided so that each labelled example is seen as often as each other one; where there are fewer
    than a batch, their batches are smaller and there are more of them. Of the steps without labelled examples a random
    share are retain steps.

    Attributes:
        kinds: the kind of each step.
        current: the kind of the batch that was given out last.
    """

    def __init__(self, training: Training, retain_share: float, seed: int) -> None:
        steps, labelled = training.tuning.steps, int(training.labelled.sum())
        forget = self._forget_steps(training, labelled)
        retain = round((steps - forget) * retain_share)
        kinds: list[Turn] = []
        shares: dict[Turn, int] = {"forget": forget, "retain": retain, "default": steps - forget - retain}
        for kind, count in shares.items():
            kinds += [kind] * count
        order = torch.randperm(steps, generator=seeded(seed, "turns")).tolist()
        self.kinds = tuple(kinds[place] for place in order)
        self.current: Turn = "default"
        self._left = iter(self.kinds)
        size = training.batch_size
        self._forget = shuffled_batches(training.forget, size, seeded(seed, "order", "forget"))
        self._rest = shuffled_batches(training.rest, size, seeded(seed, "order"))

    @staticmethod
    def _forget_steps(training: Training, labelled: int) -> int:
        """Returns L / b of L / b + (N - L) / B shares of all steps, b the labelled examples that a batch holds."""
        if labelled == 0:
            return 0
        passes = labelled / min(training.batch_size, labelled)
        others = (len(training.data) - labelled) / training.batch_size
        return max(1, round(training.tuning.steps * passes / (passes + others)))

    def __next__(self) -> AnyBatch:
        """Returns the next batch; there are as many as steps."""
        self.current = next(self._left)
        return next(self._forget if self.current == "forget" else self._rest)


@contextmanager
def silent_slices(module: nn.Module, slices: Slices) -> Iterator[None]:
    """While open, the reserved units output zero: the module computes what it will once they are cut off."""
    with ExitStack() as stack:
        for blocks, count in slices:
            stack.enter_context(silenced(module, blocks, count))
        yield


def slice_entries(module: nn.Module, slices: Slices) -> dict[str, Tensor]:
    """Returns which entries belong to the reserved units, bool, by the name of the parameter."""
    found: dict[str, Tensor] = {}
    for blocks, count in slices:
        found |= last_units(module, blocks, count)
    return found
