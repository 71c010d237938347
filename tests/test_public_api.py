"""What `import redteam` offers: cheap, complete, the same for type checkers, and enough for an author."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from recorded_runs import MASKED, NEVER_TRAINED, PLAN, record
from tiny_models import tiny_target

import redteam
from redteam.checkpoints.save import save_checkpoint
from redteam.errors import InputError

ROOT = Path(__file__).parent.parent
INIT = Path(redteam.__file__)
AUTHORS = {
    *("Access", "Arena", "Attack", "Params", "Spent", "Suggest", "TargetInfo", "Tuning"),
    *("Layers", "Probe", "ProbeContext", "ProbeReading"),
    *("AnyBatch", "Examples", "LabelledSet", "TokenSet", "Method", "Training", "UnlearningTask"),
    *("derive_seed", "seeded", "shuffled_batches", "train"),
    *("Choice", "Encoded", "NotFinite", "Scorer"),
    *("best_constant", "chance_of_choices", "commonest_answer", "encode_choices", "encode_inputs", "encode_likelihood"),
    *("encode_questions", "words_of"),
}
USERS = {
    *("Capability", "Certificate", "InputError", "Item", "Results"),
    *("attack", "build_target", "certify", "compare", "inspect", "open_target", "unlearn"),
}


def test_the_public_names_are_these() -> None:
    assert set(redteam.__all__) == AUTHORS | USERS
    assert set(dir(redteam)) == {*redteam.__all__, "__version__"}


@pytest.mark.parametrize("name", redteam.__all__)
def test_every_name_resolves_to_what_its_module_holds(name: str) -> None:
    found = getattr(redteam, name)
    assert found is getattr(import_module(redteam._HOMES[name]), name)
    if isinstance(found, type) or callable(found):
        assert found.__doc__


def test_type_checkers_see_the_same_names() -> None:
    (twin,) = (
        node for node in ast.parse(INIT.read_text(encoding="utf-8")).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )  # fmt: skip
    seen = {}
    for statement in twin.body:
        assert isinstance(statement, ast.ImportFrom)
        for alias in statement.names:
            assert alias.asname == alias.name  # as PEP 484 wants it of a name that others may import from here
            seen[alias.name] = statement.module
    assert seen == redteam._HOMES


def test_no_public_name_is_that_of_a_module() -> None:
    """Importing the module would put it in the place of the name."""
    modules = {path.stem for path in INIT.parent.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert not modules & set(redteam.__all__)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("atack", "Did you mean 'attack'?"), ("ProbeContex", "Did you mean 'ProbeContext'?"), ("zzz", "See dir(redteam)")],
)
def test_an_unknown_name_is_told_with_a_hint(name: str, hint: str) -> None:
    with pytest.raises(AttributeError) as refused:
        getattr(redteam, name)
    assert str(refused.value) == f"module 'redteam' has no attribute {name!r}. {hint}"


# Judging and inspecting from Python.

POLICY = "[policy]\nmax_excess_recovery = 0.1\n"
WAIVING = """
[[policy.waiver]]
capability = "birthdays"
reason = "will be replaced in spring"
expires = 2099-01-01
"""


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    (tmp_path / "policy.toml").write_text(POLICY)
    return tmp_path / "policy.toml"


@pytest.mark.parametrize("form", [str, Path])
def test_certify_writes_and_returns_the_certificate(tmp_path: Path, policy: Path, form: type) -> None:
    run = record(tmp_path / "run", NEVER_TRAINED, whole=True)
    made = redteam.certify(form(run), form(policy))
    assert (made.predicate.decision, made.predicate.exit_code) == ("passed", 0)
    assert (run / "certificate.json").read_text() == made.as_text()
    elsewhere = redteam.certify(form(run), form(policy), out=form(tmp_path / "new" / "c.json"))
    assert (tmp_path / "new" / "c.json").read_text() == elsewhere.as_text() == made.as_text()


@pytest.mark.parametrize("form", [str, Path])
def test_compare_says_what_the_command_says(tmp_path: Path, policy: Path, form: type) -> None:
    other = PLAN.model_copy(update={"target": "u"})
    old, new = record(tmp_path / "a", NEVER_TRAINED, whole=True), record(tmp_path / "b", MASKED, other, whole=True)
    (worse,) = redteam.compare(form(old), form(new))
    assert worse.change == "worse"
    policy.write_text(WAIVING)
    (waived,) = redteam.compare(form(old), form(new), policy=form(policy))
    assert waived.waiver is not None
    like = record(tmp_path / "c", MASKED, PLAN.model_copy(update={"target": "v"}), whole=True)
    (wide,), (narrow,) = (redteam.compare(form(new), form(like), margin=margin) for margin in (1.0, 0.0))
    assert (wide.change, narrow.change) == ("no worse", "undecided")


@pytest.mark.parametrize("form", [str, Path])
def test_inspect_says_what_a_checkpoint_is(tmp_path: Path, form: type) -> None:
    target = tiny_target()
    digest = save_checkpoint(tmp_path / "model.pt", target.module, target.tokenizer)
    found = redteam.inspect(form(tmp_path / "model.pt"), digest=True)
    assert (found.language, found.sha256) == (True, digest)
    assert any("no manifest" in what for what, _ in found.missing)


def test_bad_input_is_refused_as_on_the_command_line(tmp_path: Path, policy: Path) -> None:
    with pytest.raises(InputError, match="run"):
        redteam.certify(tmp_path / "nowhere", policy)
    with pytest.raises(InputError, match=r"policy\.toml|cannot be read"):
        redteam.certify(tmp_path, tmp_path / "no.toml")
    with pytest.raises(InputError):
        redteam.compare(tmp_path / "nowhere", tmp_path)
    with pytest.raises(InputError):
        redteam.inspect(tmp_path / "nowhere.pt")


@pytest.mark.parametrize("call", ["certify(sys.argv[1], sys.argv[2])", "compare(sys.argv[1], sys.argv[1])"])
def test_judging_needs_no_torch(tmp_path: Path, policy: Path, call: str) -> None:
    """In a process of its own, so that nothing another test has loaded counts."""
    run = record(tmp_path / "run", NEVER_TRAINED, whole=True)
    program = f"import sys, redteam\nredteam.{call}\nprint(sorted({{'torch', 'transformers'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program, run, policy], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


# What an author writes.


def authored() -> Iterator[tuple[str, str]]:
    """Yields examples and the Python blocks of CONTRIBUTING, by name."""
    for file in sorted((ROOT / "examples").glob("my_*/*.py")):
        yield str(file.relative_to(ROOT)), file.read_text(encoding="utf-8")
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        yield f"CONTRIBUTING.md: {block.splitlines()[0]}", block


AUTHORED = dict(authored())


def test_there_is_something_to_hold_to_it() -> None:
    assert {"examples/my_attack/my_attack.py", "examples/my_attack/test_my_attack.py"} < AUTHORED.keys()
    assert sum(name.startswith("CONTRIBUTING") for name in AUTHORED) == 4


@pytest.mark.parametrize("name", AUTHORED)
def test_what_is_ones_own_imports_redteam_alone(name: str) -> None:
    tree = ast.parse(AUTHORED[name])
    dotted = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    dotted += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    ours = [module for module in dotted if module.split(".")[0] == "redteam"]
    assert ours
    for module in ours:
        assert module == "redteam" or module.startswith("redteam.testing"), f"{name} imports {module}"
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "redteam":
            assert {alias.name for alias in node.names} <= AUTHORS | USERS


@pytest.mark.parametrize("margin", [float("nan"), float("inf"), 5.0, -0.1])
def test_a_margin_that_would_let_anything_pass_is_refused(margin: float, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the margin is"):
        redteam.compare(tmp_path, tmp_path, margin=margin)
