"""The one error a user of redteam sees.

Everything that is wrong with what was *given* (a file, an option, a directory) ends in an `InputError`: one
line that says what was found and one clause that says what to do about it. The command line prints it and
leaves with exit code 2. Errors of our own making stay ordinary exceptions.
"""

from __future__ import annotations

MAX_FOUND = MAX_REMEDY = 600  # characters: what a message quotes may be out of a file, and of any length


class InputError(Exception):
    """Something given to redteam cannot be used.

    Attributes:
        found: what was found, as a clause: "model.pt is an HTML page".
        remedy: what to do about it, as a sentence in the imperative: "Download the file itself."
    """

    def __init__(self, found: str, remedy: str) -> None:
        self.found = one_line(clipped(found, MAX_FOUND))
        self.remedy = one_line(clipped(remedy, MAX_REMEDY))
        super().__init__(f"{self.found.rstrip('.')}. {self.remedy}")

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str]]:
        """Lets it cross from one process to another."""
        return type(self), (self.found, self.remedy)


def one_line(text: str) -> str:
    """Returns `text` on one line without control characters: it may quote a file that nobody vouches for."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def clipped(text: str, most: int) -> str:
    """Returns a text of `most` characters at most: of a longer one the beginning and the end."""
    return text if len(text) <= most else f"{text[: most * 2 // 3]} ... {text[len(text) - most // 3 + 5 :]}"
