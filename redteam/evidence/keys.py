"""Keys of events and names of scores. They are made, and taken apart, in this module alone.

- `capability`, `models`, `unfit`, `uncounted`, `finished`: one event a run.
- `ROLE/before`: the released weights of one model.
- `ROLE/probe/NAME`, `ROLE/unprobed/NAME`: what a probe read of it, or why it read nothing.
- `ROLE/search/0007`: a trial of the search, by its number.
- `ROLE/again/02-0`, `ROLE/longer/02-0`, `ROLE/confirm/02-1`: a trial on a fresh seed, by configuration and repeat.
- `ROLE/choice`: which configurations are confirmed, and where they stop.
- `ROLE/none`: why there is no such model.

The role of a model is followed by `:4` where the adversary has four examples of what was removed, see `shown`.
"""

from __future__ import annotations

from typing import Literal

Stage = Literal["search", "again", "longer", "confirm"]

ROLES = ("original", "taught", "target", "reference", "canary", "decoy", "masked")
REFERENCE = "reference"  # of several the first; see `reference`
CAPABILITY, MODELS, UNFIT, FINISHED = "capability", "models", "unfit", "finished"
UNCOUNTED = "uncounted"  # why no adversary was given examples of a class

# Names of scores that belong to an event: the splits of the released weights (a trial's with the step, `at`) and these.
NEAREST = "nearest"  # of the capability: what the most similar attack item answers of each certify item
CORRECT, CONTROL, ERASED = "correct", "control", "erased"  # of a probe, see `ProbeReading`
CERTIFY = "certify"
MEMBERSHIP = "membership"  # the scorer of samples
FURTHER = r"^certify:."  # the certify split by a scorer that does not decide, or asked in a further wording
WORDING = "wording "


def reference(number: int) -> str:
    """Returns the role of a reference, counted from 0: `reference`, `reference-2`, `reference-3`, ..."""
    return f"{REFERENCE}-{number + 1}" if number else REFERENCE


def is_reference(role: str) -> bool:
    """Whether a role is that of a reference, however it is attacked."""
    model = model_of(role)
    return model == REFERENCE or model.startswith(f"{REFERENCE}-")


def shown(role: str, examples: int) -> str:
    """Returns what a model is called where the adversary has so many examples of what was removed: `target:4`."""
    return f"{role}:{examples}"


def model_of(role: str) -> str:
    """Returns which model a role is of, however many examples the adversary has."""
    return role.partition(":")[0]


def with_examples(key: str) -> bool:
    """Whether a key is of an adversary who has a few examples of what was removed."""
    return ":" in key.partition("/")[0]


def before(role: str) -> str:
    """Returns the key of the released weights of a model, however many examples an adversary has."""
    return f"{model_of(role)}/before"


def probe(role: str, name: str) -> str:
    """Returns the key of what a probe read of a model."""
    return f"{role}/probe/{name}"


def unprobed(role: str, name: str = "") -> str:
    """Returns the key of the note that a probe read nothing of a model; without a name, how all such keys begin."""
    return f"{role}/unprobed/{name}"


def choice(role: str) -> str:
    """Returns the key of what is confirmed on a model."""
    return f"{role}/choice"


def none(role: str) -> str:
    """Returns the key of the note that there is no such model."""
    return f"{role}/none"


def trials(role: str, stage: Stage) -> str:
    """Returns how the keys of all trials of one stage begin."""
    return f"{role}/{stage}/"


def search(role: str, index: int) -> str:
    """Returns the key of a trial of the search."""
    return f"{trials(role, 'search')}{index:04d}"


def repeat(role: str, stage: Stage, configuration: int, number: int) -> str:
    """Returns the key of a trial that runs a configuration on a fresh seed."""
    return f"{trials(role, stage)}{configuration:02d}-{number}"


def is_repeat(key: str) -> bool:
    """Whether a key is of a trial that runs a configuration again."""
    return key.partition("/")[2].startswith(("again/", "longer/", "confirm/"))


def certify(scorer: str = "") -> str:
    """Returns the name of the certify split as it is scored by a scorer; "" is the one that decides."""
    return f"{CERTIFY}:{scorer}" if scorer else CERTIFY


def wording(number: int) -> str:
    """Returns what stands for the scorer that decides, asked in a further wording, counted from 1; see `certify`.

    No scorer is called so: names of scorers hold no space.
    """
    return f"{WORDING}{number}"


def further(name: str) -> str:
    """Returns the scorer, or the further wording, that a name of scores is of; "" of the one that decides."""
    return name.partition(":")[2]


def wording_of(name: str) -> int | None:
    """Returns the number of the further wording that a name of scores is of; None if they are of the prompt."""
    about = further(name)
    return int(about.removeprefix(WORDING)) if about.startswith(WORDING) else None


def worded(probe: str, number: int) -> str:
    """Returns what a probe is called that reads at a further wording."""
    return f"{probe} ({wording(number)})"


def split_of(name: str) -> str:
    """Returns the split that a name of scores is about, whichever scorer they are of."""
    return name.partition(":")[0]


def at(split: str, step: int) -> str:
    """Returns the name of a trial's scores at a step."""
    return f"{split}@{step}"


def is_at(name: str, split: str) -> bool:
    """Whether a name is of a trial's scores on a split, at whatever step."""
    return name.startswith(f"{split}@")
