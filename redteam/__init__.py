"""How easily does an unlearned capability come back? See `redteam --help`, the README and ARCHITECTURE.md.

An attack, a probe or a method of one's own needs no other module than this one; `redteam.testing` tests it. Names are
resolved on first use, so that `import redteam` stays free of torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # the same names for type checkers and editors, which run nothing
    from redteam.access import Access as Access
    from redteam.api import certify as certify
    from redteam.api import compare as compare
    from redteam.api import inspect as inspect
    from redteam.attacks.contract import Arena as Arena
    from redteam.attacks.contract import Attack as Attack
    from redteam.attacks.contract import Params as Params
    from redteam.attacks.contract import Suggest as Suggest
    from redteam.capabilities.items import Capability as Capability
    from redteam.capabilities.items import Item as Item
    from redteam.capabilities.scorers.answers import best_constant as best_constant
    from redteam.capabilities.scorers.answers import commonest_answer as commonest_answer
    from redteam.capabilities.scorers.answers import words_of as words_of
    from redteam.capabilities.scorers.choice import Choice as Choice
    from redteam.capabilities.scorers.choices import chance_of_choices as chance_of_choices
    from redteam.capabilities.scorers.choices import encode_choices as encode_choices
    from redteam.capabilities.scorers.class_inputs import encode_inputs as encode_inputs
    from redteam.capabilities.scorers.contract import Encoded as Encoded
    from redteam.capabilities.scorers.contract import NotFinite as NotFinite
    from redteam.capabilities.scorers.contract import Scorer as Scorer
    from redteam.capabilities.scorers.likelihood import encode_likelihood as encode_likelihood
    from redteam.capabilities.scorers.written import encode_questions as encode_questions
    from redteam.checkpoints.load import open_target as open_target
    from redteam.engine.batches import AnyBatch as AnyBatch
    from redteam.engine.batches import Examples as Examples
    from redteam.engine.batches import LabelledSet as LabelledSet
    from redteam.engine.batches import TokenSet as TokenSet
    from redteam.engine.batches import shuffled_batches as shuffled_batches
    from redteam.engine.cost import Spent as Spent
    from redteam.engine.loop import train as train
    from redteam.engine.optimizers import Tuning as Tuning
    from redteam.engine.seeding import derive_seed as derive_seed
    from redteam.engine.seeding import seeded as seeded
    from redteam.engine.training import Training as Training
    from redteam.errors import InputError as InputError
    from redteam.evidence.certificate import Certificate as Certificate
    from redteam.evidence.results import Results as Results
    from redteam.probes.contract import Layers as Layers
    from redteam.probes.contract import Probe as Probe
    from redteam.probes.contract import ProbeContext as ProbeContext
    from redteam.probes.contract import ProbeReading as ProbeReading
    from redteam.suite.attack import attack as attack
    from redteam.target import TargetInfo as TargetInfo
    from redteam.testbeds.build import build_target as build_target
    from redteam.unlearning.contract import Method as Method
    from redteam.unlearning.contract import UnlearningTask as UnlearningTask
    from redteam.unlearning.own import unlearn as unlearn

__version__ = "0.1.0"
_HOMES = {  # public name -> the module that it is defined in
    "Access": "redteam.access",
    "AnyBatch": "redteam.engine.batches",
    "Arena": "redteam.attacks.contract",
    "Attack": "redteam.attacks.contract",
    "attack": "redteam.suite.attack",
    "best_constant": "redteam.capabilities.scorers.answers",
    "build_target": "redteam.testbeds.build",
    "Capability": "redteam.capabilities.items",
    "Certificate": "redteam.evidence.certificate",
    "certify": "redteam.api",
    "chance_of_choices": "redteam.capabilities.scorers.choices",
    "Choice": "redteam.capabilities.scorers.choice",
    "commonest_answer": "redteam.capabilities.scorers.answers",
    "compare": "redteam.api",
    "derive_seed": "redteam.engine.seeding",
    "encode_choices": "redteam.capabilities.scorers.choices",
    "encode_inputs": "redteam.capabilities.scorers.class_inputs",
    "encode_likelihood": "redteam.capabilities.scorers.likelihood",
    "encode_questions": "redteam.capabilities.scorers.written",
    "Encoded": "redteam.capabilities.scorers.contract",
    "Examples": "redteam.engine.batches",
    "InputError": "redteam.errors",
    "inspect": "redteam.api",
    "Item": "redteam.capabilities.items",
    "LabelledSet": "redteam.engine.batches",
    "Layers": "redteam.probes.contract",
    "Method": "redteam.unlearning.contract",
    "NotFinite": "redteam.capabilities.scorers.contract",
    "open_target": "redteam.checkpoints.load",
    "Params": "redteam.attacks.contract",
    "Probe": "redteam.probes.contract",
    "ProbeContext": "redteam.probes.contract",
    "ProbeReading": "redteam.probes.contract",
    "Results": "redteam.evidence.results",
    "Scorer": "redteam.capabilities.scorers.contract",
    "seeded": "redteam.engine.seeding",
    "shuffled_batches": "redteam.engine.batches",
    "Spent": "redteam.engine.cost",
    "Suggest": "redteam.attacks.contract",
    "TargetInfo": "redteam.target",
    "TokenSet": "redteam.engine.batches",
    "train": "redteam.engine.loop",
    "Training": "redteam.engine.training",
    "Tuning": "redteam.engine.optimizers",
    "unlearn": "redteam.unlearning.own",
    "UnlearningTask": "redteam.unlearning.contract",
    "words_of": "redteam.capabilities.scorers.answers",
}
__all__ = tuple(_HOMES)


if not TYPE_CHECKING:  # a type checker would take every name for one that this resolves

    def __getattr__(name: str) -> Any:
        """Resolves a public name on first use."""
        if name in _HOMES:
            return getattr(import_module(_HOMES[name]), name)
        raise AttributeError(f"module 'redteam' has no attribute {name!r}{_hint(name)}")


def __dir__() -> list[str]:
    """Lists the public names."""
    return [*_HOMES, "__version__"]


def _hint(name: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, _HOMES, n=1)
    return f". Did you mean {near[0]!r}?" if near else ". See dir(redteam)"
