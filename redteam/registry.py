"""Names of attacks, probes, scorers, methods and testbeds, resolved on first use.

A name is a row of a table, an entry point of an installed package (groups `redteam.attacks`, ...), or
`path/to/file.py:Class`, which is code the user chose to run.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from redteam.declared import FACTS, Declared, declared
from redteam.errors import InputError

OPTIONS, SETTINGS = "options", "settings"
USERS = "redteam_user_"  # what modules out of a user's files are called
# What a run asks of anybody's class.
PARTS = {
    "attack": ("name", "version", "access", "kinds", "space", "recipes", "run"),
    "probe": ("name", "version", "kinds", "needs", "decides", "read"),
    "scorer": ("name", "version", "kinds", "needs", "encode", "chance", "constant"),
}


@dataclass(frozen=True, slots=True)
class Registry:
    """One kind of plug-in.

    Attributes:
        kind: "attack", "probe", ...: for messages and for the entry-point group `redteam.<kind>s`.
        table: name -> "module:Class".
    """

    kind: str
    table: Mapping[str, str]

    def rows(self) -> dict[str, str]:
        """Returns name -> "module:Class" of everything known, our own first."""
        found = {point.name: point.value for point in entry_points(group=f"redteam.{self.kind}s")}
        return {**found, **self.table}

    def create(self, name: str) -> Any:
        """Returns a new instance of the class behind `name`.

        Raises:
            InputError: there is no such name or file, or what it names cannot be imported or made.
        """
        try:
            if ".py:" in name:
                return object_in_file(name, "class")()
            module, _, attribute = self.require(name).partition(":")
            return getattr(import_module(module), attribute)()
        except InputError:
            raise
        except (Exception, SystemExit) as error:  # a plug-in is anybody's code
            raise InputError(
                f"the {self.kind} {name} cannot be made ({type(error).__name__}: {error})", "Correct it"
            ) from error

    def whole(self, name: str) -> Any:
        """Returns a new instance as `create` does, with everything that a run asks of it.

        Raises:
            InputError: as `create`; or it lacks a part.
        """
        made = self.create(name)
        lacking = self.lacking(made)
        if lacking:
            found = f"{name} is no {self.kind}: it lacks {', '.join(lacking)}"
            package = next(iter(self.table.values())).partition(":")[0].rpartition(".")[0]
            raise InputError(found, f"Give it what {package.replace('.', '/')}/contract.py describes")
        return made

    def lacking(self, plugin: Any) -> list[str]:
        """Returns what a run asks of this kind and an instance has not."""
        return [part for part in PARTS.get(self.kind, ()) if not hasattr(plugin, part)]

    def own(self, name: str) -> Any:
        """Returns the class behind a name of our own table, never an entry point's or a file's.

        For names that come from files nobody vouches for.

        Raises:
            InputError: the table has no such name.
        """
        if name not in self.table:
            raise InputError(
                f"redteam itself has no {self.kind} named {name[:60]!r}", f"It has: {', '.join(sorted(self.table))}"
            )
        module, _, attribute = self.table[name].partition(":")
        return getattr(import_module(module), attribute)

    def version(self, name: str, plugin: Any) -> int | str:
        """Returns what changes when the plug-in does: its version; of a user's file, the digest of that one file too.

        What the file imports does not count: its author raises the version.
        """
        if ".py:" not in name:
            return int(plugin.version)
        source = Path(name.rpartition(":")[0]).read_bytes()
        return f"{plugin.version}, source {hashlib.sha256(source).hexdigest()[:12]}"

    def ships(self, plugin: Any) -> bool:
        """Returns whether an instance is of a class of our own table."""
        return f"{type(plugin).__module__}:{type(plugin).__qualname__}" in self.table.values()

    def identity(self, plugin: Any) -> str | list[str | int]:
        """Returns what tells an instance from those of all other classes: the name of one of ours, and its fields.

        Of any other name and version, see `version`; where a user's file lies is no part of it.
        """
        if self.ships(plugin):
            set_to = (
                [f"{field.name}={getattr(plugin, field.name)}" for field in fields(plugin)]
                if is_dataclass(plugin)
                else []
            )
            return [plugin.name, *set_to] if set_to else str(plugin.name)
        module = type(plugin).__module__
        file = sys.modules[module].__file__ if module.startswith(USERS) else None
        return [plugin.name, self.version(f"{file}:{type(plugin).__qualname__}" if file else plugin.name, plugin)]

    def require(self, name: str) -> str:
        """Returns the "module:Class" behind `name` without importing it.

        Raises:
            InputError: there is no such name.
        """
        rows = self.rows()
        if name not in rows:
            close = difflib.get_close_matches(name, rows, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"Choose from: {', '.join(sorted(rows))}"
            raise InputError(f"there is no {self.kind} named {name!r}", hint)
        return rows[name]

    def described(self) -> Iterator[dict[str, Any]]:
        """Yields what our own rows say of themselves, without importing them.

        A method says its options too (name -> default), a testbed its settings (method -> option -> value).
        """
        for name in self.table:
            said = self.declared(name)
            parts = {OPTIONS: said.options, SETTINGS: said.settings}
            yield {"name": name, **said.facts, **{part: value for part, value in parts.items() if value}}

    def installed(self) -> dict[str, str]:
        """Returns name -> "module:Class" of what other packages brought."""
        return {name: place for name, place in self.rows().items() if name not in self.table}

    def said(self, name: str) -> Declared:
        """Returns what a class says of itself; one that is not ours is imported for that.

        Raises:
            InputError: as `create`.
        """
        if name in self.table:
            return self.declared(name)
        made = self.create(name)
        return Declared({fact: str(getattr(made, fact)) for fact in FACTS if hasattr(made, fact)}, {}, {}, {})

    def declared(self, name: str) -> Declared:
        """Returns what the source of one of our own rows says of its class."""
        module, _, attribute = self.table[name].partition(":")
        spec = importlib.util.find_spec(module)
        assert spec is not None
        assert spec.origin is not None
        return declared(Path(spec.origin).read_text(encoding="utf-8"), attribute)


def object_in_file(place: str, what: str) -> Any:
    """Runs a file of the user's own and returns what it defines under a name.

    Args:
        place: `path/to/file.py:name`.
        what: "class" or "function", for messages.

    Raises:
        InputError: there is no such file or name, or the file cannot be imported.
    """
    path, _, attribute = place.rpartition(":")
    file = Path(path)
    if not file.is_file():
        raise InputError(f"there is no file {path}", f"Give a {what} of your own as path/to/file.py:name")
    name = f"{USERS}{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their annotations up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise InputError(f"{path} cannot be imported ({type(error).__name__}: {error})", "Correct it") from error
    if not hasattr(module, attribute):
        raise InputError(f"{path} has no {what} {attribute!r}", "Give it as path/to/file.py:name")
    return getattr(module, attribute)


ATTACKS = Registry(
    "attack",
    {
        "retrain": "redteam.attacks.retrain:Retrain",
        "lora": "redteam.attacks.lora:LoRA",
        "partial": "redteam.attacks.partial:Partial",
        "mixture": "redteam.attacks.mixture:Mixture",
        "corpus": "redteam.attacks.corpus:Corpus",
        "benign": "redteam.attacks.benign:Benign",
        "curriculum": "redteam.attacks.curriculum:Curriculum",
        "head": "redteam.attacks.head:Head",
        "imprint": "redteam.attacks.imprint:Imprint",
        "revive": "redteam.attacks.revive:Revive",
        "perturb": "redteam.attacks.perturb:Perturb",
        "quantize": "redteam.attacks.quantize:Quantize",
        "prune": "redteam.attacks.prune:Prune",
        "ablate": "redteam.attacks.ablate:Ablate",
        "steer": "redteam.attacks.steer:Steer",
        "latent": "redteam.attacks.latent:Latent",
        "soft-prompt": "redteam.attacks.soft_prompt:SoftPrompt",
        "universal-input": "redteam.attacks.universal_input:UniversalInput",
        "suffix": "redteam.attacks.suffix:Suffix",
        "word-search": "redteam.attacks.word_search:WordSearch",
        "in-context": "redteam.attacks.in_context:InContext",
        "rephrase": "redteam.attacks.rephrase:Rephrase",
        "reorder": "redteam.attacks.reorder:Reorder",
        "noop": "redteam.attacks.noop:NoOp",
    },
)
PROBES = Registry(
    "probe",
    {
        "linear": "redteam.probes.linear:LinearProbe",
        "means": "redteam.probes.means:MeansProbe",
        "mlp": "redteam.probes.mlp:MLPProbe",
        "mdl": "redteam.probes.mdl:DescriptionLength",
        "logit-lens": "redteam.probes.logit_lens:LogitLens",
        "tuned-lens": "redteam.probes.tuned_lens:TunedLens",
        "membership": "redteam.probes.membership:Membership",
        "sampling": "redteam.probes.sampling:Sampling",
        "patching": "redteam.probes.patching:Patching",
        "connectivity": "redteam.probes.connectivity:Connectivity",
        "spectrum": "redteam.probes.spectrum:Spectrum",
        "decoder": "redteam.probes.decoder:Decoder",
    },
)
SCORERS = Registry(
    "scorer",
    {
        "choice": "redteam.capabilities.scorers.choice:Choice",
        "recall": "redteam.capabilities.scorers.recall:Recall",
        "membership": "redteam.capabilities.scorers.membership:Membership",
        "calibrated": "redteam.capabilities.scorers.calibrated:Calibrated",
        "cloze": "redteam.capabilities.scorers.cloze:Cloze",
        "loss": "redteam.capabilities.scorers.loss:Loss",
        "exact": "redteam.capabilities.scorers.exact:Exact",
        "f1": "redteam.capabilities.scorers.f1:F1",
    },
)
METHODS = Registry(
    "method",
    {
        "original": "redteam.unlearning.original:Original",
        "filtered": "redteam.unlearning.filtered:Filtered",
        "rmu": "redteam.unlearning.rmu:RMU",
        "masked": "redteam.unlearning.masked:Masked",
        "routing": "redteam.unlearning.routing:Routing",
        "routing-rmu": "redteam.unlearning.routing_rmu:RoutingRMU",
        "sgtm": "redteam.unlearning.sgtm:SGTM",
        "tar": "redteam.unlearning.tar:TAR",
        "ga": "redteam.unlearning.gradient_ascent:GradientAscent",
        "graddiff": "redteam.unlearning.graddiff:GradDiff",
        "npo": "redteam.unlearning.npo:NPO",
        "rr": "redteam.unlearning.rerouting:RepresentationRerouting",
        "undo": "redteam.unlearning.undo:UNDO",
        "ssd": "redteam.unlearning.ssd:SSD",
        "nmn": "redteam.unlearning.nmn:NMN",
        "acl": "redteam.unlearning.acl:ACL",
        "potion": "redteam.unlearning.potion:Potion",
    },
)
STAGES = Registry("stage", {"then": "redteam.unlearning.stages:FollowUp"})
ARCHITECTURES = Registry(
    "architecture",
    {
        "mlp": "redteam.architectures.mlp:MLP",
        "nmn": "redteam.architectures.modular:ModuleNetwork",
        "acl": "redteam.architectures.continual:ContinualNetwork",
    },
)
TESTBEDS = Registry(
    "testbed",
    {
        "facts": "redteam.testbeds.facts:Facts",
        "birthdays": "redteam.testbeds.birthdays:Birthdays",
        "digits": "redteam.testbeds.digits:Digits",
        "poison": "redteam.testbeds.poison:Poison",
    },
)


SUITE = "standard-3"  # the protocol, with its version
STANDARD_ATTACKS = tuple(name for name in ATTACKS.table if name != "noop")  # the control does nothing
STANDARD_PROBES = tuple(PROBES.table)
STANDARD_SCORER = "choice"
# Attacks and probes of earlier protocols: what a certificate that was given by one of them asked for.
EARLIER: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "standard-2": (
        (
            *("retrain", "lora", "partial", "mixture", "benign", "curriculum", "perturb", "quantize", "prune"),
            *("ablate", "steer", "latent", "soft-prompt", "universal-input"),
            *("suffix", "word-search", "in-context", "rephrase"),
        ),
        (
            *("linear", "means", "mlp", "mdl", "logit-lens", "tuned-lens"),
            *("membership", "sampling", "patching", "connectivity"),
        ),
    )
}


def suite_of(suite: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the names of the attacks and of the probes of a protocol; of one that is not known those of now."""
    return EARLIER.get(suite, (STANDARD_ATTACKS, STANDARD_PROBES))


def registry_of(kinds: str) -> Registry:
    """Returns the registry of "attacks", "probes", "scorers", "methods" or "testbeds"."""
    return {f"{registry.kind}s": registry for registry in (ATTACKS, PROBES, SCORERS, METHODS, TESTBEDS)}[kinds]
