"""What a form of file is to the fuzzer: whole files, what damages them, and what opens them."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mutate_bytes import Mutator, mutate_bytes

Files = dict[str, bytes]
Step = Callable[[Path], object]
WHOLE = -1  # the number of what is no mutant
ROUNDS = (1, 1, 1, 2, 3)  # mutations of a mutant


@dataclass(frozen=True, kw_only=True)
class Format:
    """A form of file.

    Attributes:
        name: for people, and part of the seed of every mutant.
        files: a whole one, by name within its folder.
        opened: name of what is opened, "" for the folder itself.
        mutated: which files are damaged, the same one more often if it is named more often, each with what knows it.
        steps: what is called with its path, in this order; the last is not, if the first refuses.
    """

    name: str
    files: Files
    opened: str
    mutated: Sequence[tuple[str, Mutator]]
    steps: Sequence[Step]

    def mutant(self, number: int) -> Files:
        """Returns the files of a mutant; the number alone says which. `WHOLE` is undamaged."""
        draw = random.Random(f"{self.name} {number}")
        files = dict(self.files)
        for _ in range(draw.choice(ROUNDS) if number != WHOLE else 0):
            name, knows = draw.choice(self.mutated)
            others = [held for other, held in files.items() if other != name and len(held) < 10_000]
            mutator = mutate_bytes if draw.random() < 0.25 else knows
            try:
                files[name] = mutator(draw, files[name], others)
            except Exception:
                if files[name] == self.files[name]:
                    raise
                files[name] = mutate_bytes(draw, files[name], others)  # it is damaged already, beyond understanding
        return files


@dataclass(frozen=True, kw_only=True)
class Listed(Format):
    """A form whose mutants were made by hand: each has a name, and a place in a list that is made when it is needed."""

    make: Callable[[], Mapping[str, Files]]

    @functools.cached_property
    def held(self) -> Mapping[str, Files]:
        return self.make()

    def mutant(self, number: int) -> Files:
        return list(self.held.values())[number]


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Makes a folder hold these files and no others."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        if file.name not in files:
            file.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)


def read_files(folder: Path) -> Files:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.is_file()}
