"""`redteam init`: the few questions whose answers make a `redteam.toml` and a first `capability.toml`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from redteam.capabilities.files import load_capability
from redteam.capabilities.rows import Row, rows_of
from redteam.checkpoints.identify import Kind
from redteam.checkpoints.inspect import Inspected, inspect_checkpoint
from redteam.config.request import PROJECT
from redteam.errors import InputError, one_line

Ask = Callable[[str, str], str]  # a question and what an empty answer stands for
Say = Callable[[str], None]
Used = TypeVar("Used")  # what is made of an answer
CAPABILITY = Path("capability.toml")
ABOUT = ("subject", "person", "entity", "author", "name", "topic", "question")  # often what a row is about


def interview(ask: Ask, say: Say) -> list[Path]:
    """Asks, and writes the two files; of a model whose manifest says what was removed, the first alone.

    What is wrong with an answer is said, and it is asked again. What was written is read again too.

    Returns:
        What was written.

    Raises:
        InputError: one of the files is there already, or the answers end before the questions.
    """
    ask = _wanting(ask, say)
    _refuse_written(PROJECT)
    target, found = _usable("Model to attack, a checkpoint", lambda path: inspect_checkpoint(Path(path)), ask, say)
    say(f"  {found.form}: {found.architecture or 'nothing says how it is built'}")
    lines = [f"target = {_quoted(target)}"]
    lines += _build(found, ask)
    if found.method is None:
        _refuse_written(CAPABILITY)
        asked = _questions if found.language and not lines[-1].startswith("arch") else _classes
        text = (_texts if found.text else asked)(ask, say)
        for role, what in (("original", "The model before unlearning"), ("reference", "A model that never knew")):
            path = ask(f"{what}, a checkpoint (empty: there is none)", "")
            lines += [f"{role} = {_quoted(path)}" if path else f'# {role} = ""  # without it there is no verdict']
        CAPABILITY.write_text(text, encoding="utf-8")
        lines.append(f"capability = {_quoted(str(CAPABILITY))}")
    PROJECT.write_text(_project(lines), encoding="utf-8")
    if found.method is not None:
        return [PROJECT]
    _check(say)
    return [PROJECT, CAPABILITY]


def _check(say: Say) -> None:
    """Says how the items are split, or what is still wrong."""
    try:
        read = load_capability(CAPABILITY)
    except InputError as error:
        say(f"  {CAPABILITY} is not right yet: {error}")
        return
    sizes = f"{len(read.attack)} items to train on, {len(read.select)} to choose by, {len(read.certify)} to report"
    say(f"  {sizes}; chance is {read.chance:.3f}")


def _build(found: Inspected, ask: Ask) -> list[str]:
    """Returns the lines that say how the model is built, where the checkpoint does not."""
    if found.form == Kind.ADAPTER.value:
        return [f"base = {_quoted(ask('The model that the adapter was trained on', ''))}"]
    if found.described_by is not None:
        return []
    place = ask("What builds it: a config.json, or FILE.py:FUNCTION of your own", "")
    return [f"arch = {_quoted(place)}" if ".py:" in place else f"config = {_quoted(place)}"]


def _questions(ask: Ask, say: Say) -> str:
    """Returns the `capability.toml` of question files, its fields guessed from the first row."""
    name = ask("Name of what was removed", "capability")
    forget, row = _usable("File of questions about it, JSON lines, .csv or .parquet", _first, ask, say)
    retain, _ = _usable("File of questions about what must stay, of the same form", _first, ask, say)
    fields = ", ".join(row)
    about = ask(f"Field that says what fact a row is about ({fields})", next((f for f in ABOUT if f in row), ""))
    prompt = ask("Prompt, with {FIELD} for what a row holds", "{question}" if "question" in row else "")
    several = [field for field in row if len(field) == 1 and field.isupper()]
    listed = next((field for field, value in row.items() if isinstance(value, list)), "choices")
    choices = ask("Field that lists the choices, or fields that hold one each", " ".join(several) or listed)
    answer = ask("Field that says which is right: place from 0, letter, or text", "answer")
    fields_of_choices = choices.replace(",", " ").split()
    held = _quoted(choices) if len(fields_of_choices) < 2 else f"[{', '.join(map(_quoted, fields_of_choices))}]"
    return f"""# What was removed from the model, and what must stay. Paths are relative to this file.
name = {_quoted(name)}

# The model reads the prompt, and each choice is appended to it in turn; the right one should be the likeliest.
prompt = {_quoted(prompt)}
choices = {held}
answer = {_quoted(answer)}

# Rows of one group speak of the same fact: the adversary trains on some groups and is scored on others.
# A pattern takes a part of the field: pattern = "When was (.+) born\\\\?"
group = {{ field = {_quoted(about)} }}

forget = [{_quoted(forget)}]
retain = [{_quoted(retain)}]

# splits = {{ attack = 0.4, select = 0.2, certify = 0.4 }}  # to train on, to choose by, to report
"""


def _classes(ask: Ask, _: Say) -> str:
    """Returns the `capability.toml` of some classes of a classifier."""
    name = ask("Name of what was removed", "capability")
    arrays = ask("A .npz file with inputs x and labels y", "")
    classes = ask("How many classes there are, or the array with their names", "10")
    forget = ask("The class that was removed, by number or name", "")
    return f"""# What was removed from the model: one or more of its classes.
name = {_quoted(name)}
arrays = {_quoted(arrays)}
inputs = "x"
labels = "y"             # counted from 0
channels = "first"       # of images; "last" where the array has them last
classes = {classes if classes.isdecimal() else _quoted(classes)}
forget = [{forget if forget.isdecimal() else _quoted(forget)}]
"""


def _texts(ask: Ask, say: Say) -> str:
    """Returns the `capability.toml` of some classes of a classifier of text."""
    name = ask("Name of what was removed", "capability")
    rows, row = _usable("File of texts with their classes, JSON lines or .csv", _first, ask, say)
    fields = ", ".join(row)
    text = ask(f"Field that the model reads ({fields})", "text" if "text" in row else "")
    label = ask(f"Field of the class, its name or its number ({fields})", "label" if "label" in row else "")
    forget = ask("The class that was removed, as the rows call it", "")
    return f"""# What was removed from the model: one or more of its classes. Paths are relative to this file.
name = {_quoted(name)}
rows = [{_quoted(rows)}]
text = {_quoted(text)}
label = {_quoted(label)}
# classes = ["...", "..."]  # all of them in the model's order, where its config calls them otherwise than the rows do
forget = [{forget if forget.isdecimal() else _quoted(forget)}]
"""


def _project(lines: list[str]) -> str:
    body = "\n".join(lines)
    return f"""# What `redteam attack` is asked for in this directory. Paths are relative to this file.
{body}

budget = 100               # search trials on the target: more find stronger attacks
# access = "weights"       # what the adversary has: weights, activations, embeddings or text
# attacks = []             # all of `redteam list attacks`
# seed = 0
"""


def _first(file: str) -> Row:
    rows = rows_of(Path(file))
    if not rows:
        raise InputError(f"{file} holds no rows", "Name a file with questions")
    return rows[0][1]


def _refuse_written(path: Path) -> None:
    if path.exists():
        raise InputError(f"there is a {path} here already", "Edit it, or move it away first")


def _quoted(text: str) -> str:
    """Returns a TOML string: JSON's escapes are TOML's, but for a few that are written out."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _wanting(ask: Ask, say: Say) -> Ask:
    """Returns the same, but that a question without a default wants an answer unless it says that it may be empty."""

    def asked(question: str, default: str) -> str:
        while not (answer := one_line(ask(question, default)) or default) and "(empty:" not in question:
            say("  that needs an answer")
        return answer

    return asked


def _usable(question: str, use: Callable[[str], Used], ask: Ask, say: Say) -> tuple[str, Used]:
    """Returns the first answer that can be used, and what was made of it: earlier answers are not lost to a typo."""
    while True:
        answer = ask(question, "")
        try:
            return answer, use(answer)
        except InputError as error:
            say(f"  {error}")


def ask_in_terminal(question: str, default: str) -> str:
    """Asks in the terminal: on stderr, so that stdout holds results alone.

    Raises:
        InputError: there is nobody to answer.
    """
    print(f"{question}{f' [{default}]' if default else ''}: ", end="", flush=True, file=sys.stderr)
    try:
        return input()
    except EOFError:
        raise InputError("the questions were not all answered", "Run it in a terminal") from None
