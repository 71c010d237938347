"""The command line as a user meets it: real processes, real exit codes."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import torch
from run_redteam import ENVIRONMENT, ONE_PROBE, redteam, redteam_afresh

import redteam as package
from redteam.evidence.results import Results
from redteam.registry import METHODS

QUICK = Path(__file__).with_name("quick_attack.py")
HEAVY = ("torch", "transformers", "optuna", "sklearn", "scipy", "numpy")


@pytest.mark.parametrize("arguments", [["--help"], ["attack", "--help"], ["list", "attacks"], ["show", "rmu"]])
def test_looking_around_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys, typer.testing\nfrom redteam.cli import app\n"
        f"result = typer.testing.CliRunner().invoke(app, {arguments!r})\n"
        "assert result.exit_code == 0, result.output\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_options_are_frozen() -> None:
    """Adding an option is a decision: it changes this list."""
    import typer

    from redteam.cli import app

    command = typer.main.get_command(app)
    commands = dict(command.commands)  # type: ignore[attr-defined]
    commands |= {f"baseline {name}": sub for name, sub in commands.pop("baseline").commands.items()}
    found = {
        name: sorted(option for p in sub.params for option in p.opts if option.startswith("--"))
        for name, sub in commands.items()
    }
    assert found == {
        "attack": [
            "--access", "--arch", "--attack", "--base", "--budget", "--capability", "--config", "--device",
            "--dry-run", "--extend", "--format", "--original", "--out", "--policy", "--probe", "--reference", "--seed",
        ],
        "bench": [
            "--budget", "--jobs", "--label-fraction", "--method", "--only-write", "--out", "--seed", "--testbed",
        ],
        "unlearn": ["--label-fraction", "--out", "--references", "--seed", "--set", "--testbed", "--then"],
        "inspect": ["--config", "--digest", "--format"],
        "certify": ["--format", "--out", "--policy", "--sign"],
        "verify": ["--identity", "--issuer", "--key", "--model", "--policy", "--run"],
        "score": [
            "--arch", "--base", "--capability", "--config", "--device", "--format", "--original", "--reference",
        ],
        "replay": ["--arch", "--base", "--capability", "--config", "--device"],
        "report": ["--format", "--policy"],
        "compare": ["--format", "--margin", "--policy"],
        "baseline write": ["--out"],
        "init": ["--ci"],
        "list": ["--format"],
        "show": [],
    }  # fmt: skip


def test_list_and_show() -> None:
    rows = json.loads(redteam("list", "methods", "--format", "json").stdout)
    assert [row["name"] for row in rows] == list(METHODS.table)
    assert all(row["version"] >= 1 and row["goal"] and row["paper"] for row in rows)
    method = redteam("show", "rmu").stdout
    for line in (
        "when     post hoc",
        "kinds    language, classifier",
        "touches  ",
        "cost     ",
        "steps=150 ",
        "then.steps=30 ",
    ):
        assert line in method
    shown = redteam("show", "retrain")
    assert shown.returncode == 0
    assert "Deeb & Roger" in shown.stdout
    space = redteam("show", "lora").stdout
    for line in ("access   weights", "rank ", "1 to 64, log scale", "modules ", "all, attention, mlp"):
        assert line in space
    unknown = redteam("show", "retrian")
    assert unknown.returncode == 2
    assert "nothing is named 'retrian'" in unknown.stderr


def test_attack_prints_json_of_the_published_schema(untrained: Path, tmp_path: Path) -> None:
    done = redteam(
        "attack", untrained, "-a", f"{QUICK}:Quick", "--budget", "2", "--format", "json", "--out", tmp_path / "run"
    )
    assert done.returncode == 3, done.stderr  # untrained models: nothing to recover
    printed = json.loads(done.stdout)
    schema = json.loads((Path(package.__file__).parent / "evidence" / "results.schema.json").read_text())
    jsonschema.validate(printed, schema)
    assert printed == json.loads((tmp_path / "run" / "results.json").read_text())
    assert printed["exit_code"] == 3
    assert printed["capabilities"][0]["verdict"] == "INCONCLUSIVE"
    assert printed["capabilities"][0]["budget"]["spent"] == 2


def test_published_schema_is_that_of_the_code() -> None:
    published = (Path(package.__file__).parent / "evidence" / "results.schema.json").read_text()
    assert json.loads(published) == Results.model_json_schema(), "run `make schema`"


@pytest.mark.parametrize("words", ["--version", "show rmu", "list attacks", "attack nothing.pt", "inspect {model}"])
def test_a_forked_process_says_what_a_fresh_interpreter_says(untrained: Path, words: str) -> None:
    arguments = [word.format(model=untrained) for word in words.split()]
    forked, fresh = redteam(*arguments), redteam_afresh(*arguments)
    assert (forked.returncode, forked.stdout, forked.stderr) == (fresh.returncode, fresh.stdout, fresh.stderr)


def test_noop_is_inconclusive(untrained: Path, tmp_path: Path) -> None:
    done = redteam_afresh("attack", untrained, "-a", "noop", *ONE_PROBE, "--budget", "2", "--out", tmp_path / "run")
    assert done.returncode == 3, done.stderr
    assert "INCONCLUSIVE" in done.stdout


def test_an_attack_from_a_users_file(untrained: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from redteam.attacks.noop import NoOp\n"
        "print('imported')\n"
        "class Broken(NoOp):\n"
        "    name = 'broken'\n"
        "    def run(self, arena, params):\n"
        "        print('about to break')\n"
        "        raise ValueError('this attack is broken')\n"
        "        yield\n"
    )
    done = redteam(
        "attack", untrained, "-a", f"{file}:Broken", "--budget", "2", "--format", "json", "--out", tmp_path / "run"
    )
    assert done.returncode == 3, done.stderr
    result = json.loads(done.stdout)["capabilities"][0]  # what the attack prints is not in between
    assert "imported" in done.stderr
    assert "about to break" in done.stderr
    assert result["verdict"] == "INCONCLUSIVE"
    assert result["budget"]["failed"] == 2
    assert "failed-trials" in {flag["name"] for flag in result["flags"]}


def _refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, (done.returncode, done.stderr)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "weights_only" not in done.stderr
    for word in words:
        assert word in lines[0]


class _Pickled:
    pass


def _write_bad(kind: str, path: Path, good: Path) -> None:
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(good.read_bytes()[:-1000])
    elif kind == "html":
        path.write_text("<!DOCTYPE html><html><body>Sign in</body></html>")
    elif kind == "lfs":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    elif kind == "pickled":
        torch.save(_Pickled(), path)
    elif kind == "plain pickle":
        path.write_bytes(pickle.dumps({"a": 1}))
    elif kind in ("misfit", "nan"):
        content = torch.load(good, weights_only=True)
        name = next(iter(content["model"]))
        if kind == "misfit":
            content["model"][name] = torch.zeros(3, 3)
        else:
            content["model"][name][0, 0] = float("nan")
        torch.save(content, path)


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("missing", "model.pt"),
        ("empty", "empty"),
        ("truncated", "model.pt"),
        ("html", "HTML"),
        ("lfs", "LFS"),
        ("pickled", "pickle"),
        ("plain pickle", "pickle"),
        ("misfit", "shape"),
        ("nan", "NaN"),
    ],
)
def test_bad_checkpoints(kind: str, word: str, untrained: Path, tmp_path: Path) -> None:
    """Each is refused with one line; the manifest beside it is rewritten so that only the checkpoint is wrong."""
    for file in untrained.parent.iterdir():
        shutil.copy(file, tmp_path)
    target = tmp_path / "model.pt"
    target.unlink()
    if kind != "missing":
        _write_bad(kind, target, untrained)
        import hashlib

        manifest = tmp_path / "model.redteam.json"
        content = json.loads(manifest.read_text())
        content["target"]["sha256"] = hashlib.sha256(target.read_bytes()).hexdigest()
        manifest.write_text(json.dumps(content))
    _refused(redteam("attack", target, "--budget", "2", "--out", tmp_path / "run"), word)
    assert not (tmp_path / "run" / "results.json").exists()


def test_a_budget_of_zero(untrained: Path, tmp_path: Path) -> None:
    _refused(redteam("attack", untrained, "--budget", "0", "--out", tmp_path / "run"), "budget is 0")


def test_an_unwritable_output_directory(untrained: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    _refused(redteam("attack", untrained, "--budget", "2", "--out", tmp_path / "file" / "run"), "cannot be written")
    _refused(redteam("unlearn", "rmu", "--out", tmp_path / "file" / "model.pt"), "file")


def test_a_run_directory_of_another_plan(untrained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert redteam("attack", untrained, "-a", "noop", *ONE_PROBE, "--budget", "2", "--out", run).returncode == 3
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    _refused(redteam("attack", untrained, "-a", "noop", *ONE_PROBE, "--budget", "3", "--out", run), "budget")
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before


def test_a_changed_target(untrained: Path, tmp_path: Path) -> None:
    for file in untrained.parent.iterdir():
        shutil.copy(file, tmp_path)
    shutil.copy(tmp_path / "model.original.pt", tmp_path / "model.pt")
    _refused(redteam("attack", tmp_path / "model.pt", "--budget", "2"), "model.redteam.json")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rmu", "--label-fraction", "2"], ("the label fraction is 2.0", "between 0 and 1")),
        (["rmu", "--label-fraction", "-0.1"], ("the label fraction is -0.1",)),
        (["rmu", "--set", "nonsense=1"], ("the method rmu has no option 'nonsense'",)),
        (["rmu", "--set", "step=1"], ("Did you mean 'steps'",)),
        (["rmu", "--set", "steps=many"], ("steps of the method rmu is 'many'",)),
        (["rmu", "--set", "steps"], ("--set steps names no value", "NAME=VALUE")),
        (["rmu", "--set", "then.steps=3"], ("then.steps is set, but nothing follows", "--then retain")),
        (["rmu", "--then", "retain", "--set", "then.nonsense=3"], ("the stage after it has no option 'nonsense'",)),
        (["rmu", "--set", "layer=model.layers.9"], ("no module matches 'model.layers.9'", "Names are like model")),
        (["rmu", "--testbed", "fcats"], ("there is no testbed named 'fcats'",)),
    ],
)
def test_what_cannot_be_built_is_refused_before_anything_is_trained(
    arguments: list[str], words: tuple[str, ...], tmp_path: Path
) -> None:
    _refused(redteam("unlearn", *arguments, "--out", tmp_path / "model.pt"), *words)
    assert not list(tmp_path.iterdir())


def test_a_stage_that_there_is_not(tmp_path: Path) -> None:
    done = redteam("unlearn", "rmu", "--then", "nothing", "--out", tmp_path / "model.pt")
    assert done.returncode == 2
    assert "'nothing' is not one of 'retain', 'mixture'" in done.stderr.replace("│", "")
    assert not list(tmp_path.iterdir())


def test_unlearn_prints_what_it_cost_and_where_it_is(tmp_path: Path) -> None:
    out = tmp_path / "model.pt"
    done = redteam(
        "unlearn", "graddiff", "--testbed", "digits", "--label-fraction", "0.5", "--then", "retain", "--out", out,
        "--set", "steps=5", "--set", "then.steps=3",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for word in ("plain training", "graddiff", "then retain", "alignment tax", f"redteam attack {out}"):
        assert word in done.stdout
    manifest = json.loads((tmp_path / "model.redteam.json").read_text())
    assert (manifest["label_fraction"], manifest["then"]) == (0.5, "retain")
    assert (manifest["options"]["steps"], manifest["options"]["then.steps"]) == (5, 3)
    assert set(manifest["costs"]) == {"plain training", "method", "then"}
    assert all(cost["flops"] > 0 for cost in manifest["costs"].values())
    assert manifest["alignment_tax"]["low"] <= manifest["alignment_tax"]["high"]


def test_unknown_names() -> None:
    _refused(redteam("unlearn", "rnu", "--out", "model.pt"), "rnu", "Did you mean 'rmu'")


def test_errors_in_json_keep_stdout_machine_readable(untrained: Path) -> None:
    done = redteam("attack", untrained, "--budget", "0", "--format", "json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["kind"] == "input"


def test_no_capability_is_asked_for(tmp_path: Path, untrained: Path) -> None:
    shutil.copy(untrained, tmp_path / "bare.pt")
    _refused(redteam("attack", tmp_path / "bare.pt", "--budget", "2"), "--capability")


def test_help_costs_little() -> None:
    """CPU time of `--help` against an empty Typer app; the minimum of several runs each, interleaved."""
    import resource

    def cpu_seconds(program: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", program], capture_output=True, env=ENVIRONMENT, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    empty = (
        "import sys, typer\nsys.argv = ['x', '--help']\napp = typer.Typer()\n"
        "@app.command()\ndef f() -> None:\n    pass\napp()"
    )
    ours = "import sys\nsys.argv = ['redteam', '--help']\nfrom redteam.cli import app\napp()"
    times = [(cpu_seconds(ours), cpu_seconds(empty)) for _ in range(5)]
    assert min(t for t, _ in times) <= 2.5 * min(t for _, t in times)


def test_a_dry_run_says_what_it_could_show_and_runs_nothing(untrained: Path, tmp_path: Path) -> None:
    done = redteam("attack", untrained, "--budget", "40", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    for words in ("40 search trials on target and reference", "show differences of", "retrain", "universal-input: it"):
        assert words in said
    assert not list(tmp_path.iterdir())
    printed = redteam(
        "attack", untrained, "--budget", "40", "--dry-run", "--format", "json", "-a", "lora", cwd=tmp_path
    )
    (row,) = json.loads(printed.stdout)["capabilities"]
    assert row["attacks"] == ["lora"]
    assert 0 < row["minimum_detectable_effect"] < 1
    assert not list(tmp_path.iterdir())
    refused = redteam("attack", untrained, "--budget", "0", "--dry-run")
    assert refused.returncode == 2


def test_a_dry_run_says_what_a_policy_makes_of_it(untrained: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("[policy]\nmin_budget = 100\n")
    small = redteam("attack", untrained, "--budget", "40", "--dry-run", "--policy", policy, "-a", "lora")
    said = " ".join(small.stdout.split())
    assert small.returncode == 0, small.stderr
    assert "cannot pass: the target gets 40 search trials, the policy asks for 100" in said
    assert "attacks of the suite were not asked for" in said
    enough = redteam("attack", untrained, "--budget", "100", "--dry-run", "--policy", policy)
    assert enough.returncode == 0
    assert "cannot pass" not in enough.stdout
    policy.write_text("[policy]\n[policy.capability.elsewhere]\nmin_budget = 3\n")
    unfit = redteam("attack", untrained, "--dry-run", "--policy", policy)
    assert unfit.returncode == 2
    assert "'elsewhere'" in unfit.stderr
    no_run = redteam("attack", untrained, "--dry-run", "--extend", tmp_path)
    assert no_run.returncode == 2
    assert "is no run of one capability" in no_run.stderr
