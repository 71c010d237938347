"""Every scorer keeps the promises of all, says itself what it needs, and may be anybody's own."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_redteam import redteam
from tiny_models import tiny_capability, tiny_target
from tiny_views import text_capability

import redteam as package
from redteam import registry
from redteam.attacks.noop import NoOp
from redteam.capabilities.files import load_capability
from redteam.capabilities.items import Capability, Item, Texts
from redteam.capabilities.scorers.cloze import Cloze
from redteam.capabilities.scorers.contract import UnusableScores, item_scores
from redteam.config.capability import code_in
from redteam.config.request import RunRequest
from redteam.errors import InputError
from redteam.registry import SCORERS
from redteam.setting import open_setting
from redteam.suite.inputs import resolve_one
from redteam.testing import check_scorer
from redteam.trial import TrialSpec, run_trial

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "my_scorer" / "my_scorer.py"
MINE = EXAMPLE.read_text(encoding="utf-8")
TOML = """
name = "authors"
prompt = "{question}"
group = { field = "question" }
forget = ["forget.jsonl"]
retain = ["retain.jsonl"]
"""


@pytest.mark.parametrize("name", SCORERS.table)
def test_it_keeps_every_promise(name: str) -> None:
    check_scorer(SCORERS.create(name))


# What identifies a capability. These digests are of the time when scorers were names, and no release may change them.


@pytest.mark.parametrize(
    ("names", "digest"),
    [
        ("choice", "8840964f1c071b9279b72d1d01fd2ab38318d317443f6e6183cb075443f61efe"),
        ("calibrated", "bb69790f5a43ace4ec9d84fc4a8aba186d8139bdb58e5ffb26f491f07e6c8345"),
        ("cloze", "1801faa9485142babc16bb845d4713f3abe0755b0a179e84a43c3b6f4e976145"),
        ("loss", "9ed6edcf186a49e0ad60d06019ba79d335f797312200a9135926d492ba8572fe"),
        ("exact", "98160e4df1898c0807d7f288f7c32cc88e38e8c9172a4a609089eb6a60a8dc7f"),
        ("f1", "4d550efc9bb297a6326215c157aa2d2850f7e0e0453db977fd36aba6dff5802f"),
        ("choice+cloze", "2a309519ca36a8a15cd6c26224cb2ea4dc3adab7df572fe23ea85abcd0dc55c7"),
        ("f1+exact+loss", "77599d81b3253fb3545ddc430a92bf23672d03c0a485faff8aa86702b6cbf367"),
    ],
)  # fmt: skip
def test_digests_with_our_own_scorers_stay(names: str, digest: str) -> None:
    scorers = tuple(map(SCORERS.create, names.split("+")))
    premise = "w7 w8" if "calibrated" in names else None
    assert replace(text_capability(many=True), scorers=scorers, premise=premise).sha256 == digest


def points(**changes: Any) -> Capability:
    def items(first: int, last: int) -> tuple[Item, ...]:
        return tuple(
            Item(id=f"i{n}", group=f"g{n}", prompt="p", choices=("a", "b", "c"), answer=n * 7 // 3 % 3, row=n)
            for n in range(first, last)
        )

    inputs = np.random.default_rng(0).normal(size=(30, 2, 3)).astype(np.float32)
    parts = {"attack": items(0, 8), "select": items(8, 14), "certify": items(14, 22), "retain": items(22, 26)}
    return Capability(name="points", **parts, utility=items(26, 30), **{"inputs": inputs, **changes})


def test_digests_of_classifiers_stay() -> None:
    texts = Texts(tuple(f"text {n}" for n in range(30)), True)
    assert points().sha256 == "401e78582a9940f937e1074b992d64b3ad39c13a6ebb8a65a16deceee3f1a21a"
    assert points(inputs=None, texts=texts).sha256 == "1baef711003970808cef96e126d58fe76d094966fc8093d9a2af79c26d2fbd32"


def test_a_classifier_is_scored_by_what_scores_classifiers() -> None:
    with pytest.raises(ValueError, match="the scorer 'cloze' scores: language; this is of a classifier"):
        points(scorers=(Cloze(),))


# Nobody asks for a scorer by its name, nor for what it encodes by its class.


SCORED = ("capabilities", "config", "probes", "suite", "testbeds", "bench", "testing", "trial.py")  # know scorers


def test_adding_a_scorer_is_a_file_and_a_line_of_the_registry() -> None:
    house = Path(package.__file__).parent
    encoded = {"Encoded", "EncodedChoices", "EncodedInputs", "EncodedCalibrated", "EncodedAnswers", "EncodedQuestions"}
    for file in house.rglob("*.py"):
        place, tree = file.relative_to(house), ast.parse(file.read_text(encoding="utf-8"))
        compared = [part for node in ast.walk(tree) if isinstance(node, ast.Compare) for part in ast.walk(node)]
        names = {part.value for part in compared if isinstance(part, ast.Constant)} & SCORERS.table.keys()
        assert not names or place.parts[0] not in SCORED, place
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
                assert not encoded & {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}, place


# A user's own.


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a capability file with a scorer, its questions, and `mine.py`."""

    def wrote(scorer: str, source: str = MINE, toml: str = TOML, folder: str = "here") -> Path:
        place = tmp_path / folder
        place.mkdir(exist_ok=True)
        for side in ("forget", "retain"):
            rows = [{"question": f"Who {side} {n} ?", "answer": f"w{n % 9} w{n % 7}"} for n in range(20)]
            (place / f"{side}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (place / "mine.py").write_text(source)
        (place / "capability.toml").write_text(f"scorer = {scorer}\n{toml}")
        return place / "capability.toml"

    return wrote


def test_a_file_beside_the_capability_scores_it(write: Callable[..., Path]) -> None:
    capability = load_capability(write('["mine.py:RougeL", "cloze"]'))
    assert [scorer.name for scorer in capability.scorers] == ["rouge-l", "cloze"]
    setting = open_setting(tiny_target(), capability)
    assert list(setting.start) == ["select", "certify", "utility", "certify:cloze"]
    result = run_trial(setting, NoOp(), TrialSpec(key="t", attack="noop", params={"steps": 1}, seed=0, certify=True))
    assert (result.state, result.error) == ("complete", None)
    assert result.points[-1].scores.keys() == setting.start.keys()


def test_it_is_identified_by_its_name_its_version_and_its_source_and_not_by_its_place(
    write: Callable[..., Path],
) -> None:
    def digest(scorer: str = '"mine.py:RougeL"', **more: str) -> str:
        return load_capability(write(scorer, **more)).sha256

    mine = digest()
    assert digest(folder="elsewhere") == mine
    sources = [
        MINE.replace("version = 1", "version = 2"),
        MINE.replace('"rouge-l"', '"rouge"'),
        MINE.replace("longest[-1] / len(wanted)", "1 - longest[-1] / len(wanted)"),
    ]
    others = [digest(source=source) for source in sources]
    assert len({mine, *others, digest('"f1"'), digest('["mine.py:RougeL", "f1"]')}) == 6


def test_one_that_is_installed_is_identified_by_its_version(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write('"theirs"')
    monkeypatch.syspath_prepend(EXAMPLE.parent)
    point = EntryPoint("theirs", "my_scorer:RougeL", "redteam.scorers")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == point.group else [])
    capability = load_capability(path)
    assert capability.scorer.name == "rouge-l"
    assert SCORERS.identity(capability.scorer) == ["rouge-l", 1]
    assert SCORERS.identity(SCORERS.create("f1")) == "f1"


CLASS = "class Mine:\n    name, version, kinds, needs = 'mine', 1, 'language', 'answer'\n"
PARTS = "    def encode(self, *_): ...\n    def chance(self, items): ...\n    def constant(self, *_): ...\n"


@pytest.mark.parametrize(
    ("scorer", "source", "found", "remedy"),
    [
        ('"clozee"', MINE, "capability.toml: there is no scorer named 'clozee'", "Did you mean 'cloze'?"),
        ('"bleu"', MINE, "there is no scorer named 'bleu'", "calibrated, choice, cloze, exact, f1, loss"),
        ('"none.py:Mine"', MINE, "there is no file", "FILE"),
        ('"mine.py:Other"', MINE, "has no class 'Other'", ""),
        ('"mine.py:Mine"', "1 / 0", "cannot be imported (ZeroDivisionError", "Correct it"),
        ('"mine.py:Mine"', CLASS, "it lacks encode, chance, constant", "redteam/capabilities/scorers/contract.py"),
        ('"mine.py:Mine"', CLASS.replace("'answer'", "3") + PARTS, "name, kinds and needs as texts", "check_scorer"),
        ('"mine.py:RougeL"', MINE.replace('"rouge-l"', '"f1"'), "calls itself 'f1', as one of", "another name"),
        ('"mine.py:RougeL"', MINE.replace('"language"', '"classifier"'), "scores: classifier; these are", ""),
        ('["mine.py:RougeL", "./mine.py:RougeL"]', MINE, "two scorers have the name 'rouge-l'", "name of its own"),
        ('["f1", "f1"]', MINE, "a scorer is named twice", ""),
        ('"mine.py:RougeL"', MINE.replace('"answer"', '"choices"'), "has no field 'choices'", ""),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(
    write: Callable[..., Path], scorer: str, source: str, found: str, remedy: str
) -> None:
    with pytest.raises(InputError) as caught:
        load_capability(write(scorer, source))
    assert str(caught.value).isprintable()
    assert found in caught.value.found
    assert remedy.replace("FILE", "file.py") in caught.value.remedy


@pytest.mark.parametrize("needs", ["answer", "answer, premise", "choices, premise"])
def test_tasks_are_scored_by_what_compares_their_choices_and_needs_no_more(
    write: Callable[..., Path], needs: str
) -> None:
    toml = 'name = "t"\nforget = ["lm_eval:x"]\nretain = ["lm_eval:y"]\n'
    path = write('["choice", "mine.py:RougeL"]', MINE.replace('needs = "answer"', f'needs = "{needs}"'), toml)
    with pytest.raises(InputError, match=f"tasks are scored by comparing their choices, 'rouge-l' needs: {needs}"):
        load_capability(path)


def test_a_premise_is_made_for_whatever_needs_one(write: Callable[..., Path]) -> None:
    asking = MINE.replace('needs = "answer"', 'needs = "answer, premise"')
    assert load_capability(write('["f1", "mine.py:RougeL"]', asking)).premise == "N/A"
    assert load_capability(write('["f1", "mine.py:RougeL"]', MINE)).premise is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("return encode_questions", "return 1 / 0 and encode_questions"), "fails (ZeroDivisionError"),
        (("return longest[-1] / len(wanted)", "return 1.5"), "it gives a score of 1.5, which is not between 0 and 1"),
        (("longest[-1] / len(wanted)", "float('nan')"), "it gives a score of nan"),
    ],
)
def test_one_that_fails_ends_in_one_line(write: Callable[..., Path], change: tuple[str, str], says: str) -> None:
    assert change[0] in MINE
    capability = load_capability(write('"mine.py:RougeL"', MINE.replace(*change)))
    with pytest.raises(InputError) as caught:
        open_setting(tiny_target(), capability)
    assert "the scorer 'rouge-l' fails (" in caught.value.found
    assert says in caught.value.found


def test_one_of_ours_that_fails_is_a_fault_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cloze, "encode", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        open_setting(tiny_target(), replace(tiny_capability(), scorers=(Cloze(),)))


@pytest.mark.parametrize("chance", ["1.5", "-0.5", "float('nan')"])
def test_a_chance_that_is_none_is_refused(write: Callable[..., Path], chance: str) -> None:
    capability = load_capability(write('"mine.py:RougeL"', MINE.replace("[0.0]", f"[{chance}]")))
    with pytest.raises(InputError, match="the scorer 'rouge-l' puts chance at"):
        assert capability.chance


@pytest.mark.parametrize(
    ("scores", "says"),
    [
        (np.zeros(3), r"shape \(3,\) to 8 items"),
        (np.zeros((8, 1)), r"shape \(8, 1\)"),
        (np.zeros(8, dtype=np.float32), "float32, not float64"),
        (np.full(8, -1e-9), "a score of -1e-09"),
    ],
)
def test_scores_that_are_none_are_refused(scores: Any, says: str) -> None:
    class Wrong:
        def __len__(self) -> int:
            return 8

        def table(self, module: Any) -> Any:
            return None

        def scores(self, table: Any) -> Any:
            return scores

    with pytest.raises(UnusableScores, match=says):
        item_scores(tiny_target().module, Wrong())  # type: ignore[arg-type]


# A file is code.


def test_it_is_said_to_be_run_before_it_is(write: Callable[..., Path], untrained: Path) -> None:
    rules = write('"mine.py:Mine"', "import sys\nsys.exit(print('ran', file=sys.stderr))\n")
    assert code_in(rules) == {rules.parent / "mine.py": "is code of yours and is run to score"}
    done = redteam("attack", untrained, "--capability", rules, "--capability", rules, "--budget", "1")
    assert done.returncode == 2
    said = done.stderr.splitlines()
    assert said[0].endswith("/mine.py is code of yours and is run to score")
    assert said[1] == "ran"
    assert "cannot be imported (SystemExit" in said[2]
    assert len(said) == 3


def test_one_that_a_manifest_leads_to_is_not_run(write: Callable[..., Path], untrained: Path, tmp_path: Path) -> None:
    """Whoever made a checkpoint chose what its manifest names; what --capability names, its user did."""
    rules = write('"mine.py:RougeL"', f"{MINE}\nopen({str(tmp_path / 'ran')!r}, 'w')\n")
    for file in untrained.parent.glob("model*"):
        (rules.parent / file.name).write_bytes(file.read_bytes())
    with pytest.raises(InputError) as caught:
        resolve_one(RunRequest(target=rules.parent / "model.pt", budget=3))
    assert "capability.toml brings code that would be run" in caught.value.found
    assert "mine.py" in caught.value.found
    assert not (tmp_path / "ran").exists()
    resolve_one(RunRequest(target=rules.parent / "model.pt", budget=3, capability=rules))
    assert (tmp_path / "ran").exists()


def test_list_and_show(tmp_path: Path) -> None:
    listed = redteam("list", "scorers")
    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(SCORERS.table)
    assert "Holtzman et al. 2021" in redteam("show", "calibrated").stdout
    own = redteam("show", f"{EXAMPLE}:RougeL")
    assert own.returncode == 0, own.stderr
    assert "scorer" in own.stdout
    assert "Lin 2004" in own.stdout
