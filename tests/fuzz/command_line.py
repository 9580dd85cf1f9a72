"""The command line: real runs of one round, wrong arguments of every command, and names of runs and
sweeps."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
from pathlib import Path

import matplotlib.pyplot  # noqa: F401 - makes its list of fonts now, when nothing is watched
from hypothesis import strategies as st

from fedsim.cli.main import main
from tests.fuzz.configurations import OPTIONS, SETTINGS, TYPED, override, tiny
from tests.fuzz.harness import Failure, Target, check_line
from tests.fuzz.options import TINY
from tests.fuzz.values import NAMES

IMAGE_MODELS = ("lenet", "cnn", "mcmahan_cnn")


def command(arguments: list[str]) -> str:
    """ "" if the command did what it should, the line of a refusal, or Failure."""
    path, root = list(sys.path), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()) as errors,
    ):
        code = main(arguments)
    sys.path[:], root.handlers[:], text = path, handlers, errors.getvalue()
    root.setLevel(level)
    if code == 0:
        return ""
    if code != 2:
        raise Failure(
            f"exit code {code}: {(text.strip().splitlines() or [''])[-1][:60]}", text[-3000:]
        )
    # Of what was set right on the way
    told = [each for each in text.split("\n") if not each.startswith("fedsim: ")]
    return check_line("\n".join(told).removesuffix("\n"))


_small = st.sampled_from(
    "0 1 2 3 0.5 0.1 1e-3 1e-320 -1 nan inf null true false [] [2] none '' a é all".split()
)
# 11 million parameters
_SMALL_OPTIONS = {
    group: [name for name in names if name != "resnet18"] for group, names in OPTIONS.items()
}
_chosen = st.sampled_from(sorted(OPTIONS)).flatmap(
    lambda group: st.sampled_from(_SMALL_OPTIONS[group]).map(lambda name: (group, name))
)
_settings = st.sampled_from(
    [key for key in SETTINGS if key.split(".")[0] not in ("engine", "logger")]
)
_runs = st.tuples(
    st.lists(_chosen, max_size=5, unique_by=lambda pair: pair[0]),
    st.lists(st.tuples(_settings, _small), max_size=2),
)


def _run(case: tuple[list[tuple[str, str]], list[tuple[str, str]]], folder: Path) -> str:
    """Really run one round of a tiny simulation with these options and settings."""
    chosen = dict(case[0]) | {"engine": "inprocess", "logger": "none", "experiment": "none"}
    usual = {**TINY, "data.shape": "[1,16,16]"} if chosen.get("model") in IMAGE_MODELS else TINY
    other_data, epochs = (
        chosen.get("data", "synthetic") != "synthetic",
        chosen.get("local") == "epochs",
    )
    unfit = [
        key
        for key in usual
        if (other_data and key.startswith("data.")) or (epochs and key == "local.steps")
    ]
    given = (
        {key: value for key, value in usual.items() if key not in unfit} | chosen | dict(case[1])
    )
    refused = command(
        ["run", *(f"{key}={value}" for key, value in given.items()), "hydra.run.dir=run"]
    )
    if not refused:
        state = json.loads((folder / "run" / "status.json").read_text())
        if state["status"] not in ("done", "diverged"):
            raise Failure(f"a run that ends as {state['status']}", str(state))
    return refused


_ARGUMENTS = [
    *"--help --hydra-help --version --cfg --cfg=job -c job all hydra --resolve --package -p data"
    " --info --info=searchpath --run".split(),
    *"--config-dir --config-dir=. --config-dir=.. -cd --config-name --config-name=x"
    " --config-path=x -cn --shell-completion".split(),
    *"--what -z --experimental-rerun --experimental-rerun=x.pickle -sc install=bash list run"
    " resume= resume=nowhere resume=. -- -".split(),
    *("", " "),
]
_typed = st.sampled_from(_ARGUMENTS) | TYPED
_compared = (
    st.sampled_from(
        [*_ARGUMENTS, *"--metric --by --panel --target --last --baseline --band .".split()]
    )
    | TYPED
)
_commands = st.one_of(
    st.tuples(st.just("list"), st.lists(st.sampled_from(sorted(OPTIONS)) | _typed, max_size=2)),
    st.tuples(
        st.just("compare"),
        st.lists(
            _compared.filter(lambda text: text[:1] not in ("/", "~") and ".." not in text),
            max_size=3,
        ),
    ),
    st.tuples(TYPED, st.lists(TYPED, max_size=1)),
    st.tuples(
        st.just("run"), st.lists(st.sampled_from(_ARGUMENTS) | override, min_size=1, max_size=3)
    ),
).filter(
    lambda case: (
        case[0] not in ("demo", "tune")
        and not any("-m" in each or "multirun" in each for each in case[1])
    )
)


def _commanded(case: tuple[str, list[str]], folder: Path) -> str:
    """Any arguments. A run among them is of a tiny simulation, and stopped before its first round
    by a cohort that cannot be."""
    name, arguments = case
    if name != "run":
        return command([name, *arguments])
    return command(
        [name, *tiny(), *arguments, "participation=uniform", "participation.cohort=1000"]
    )


_ODD = [
    "a/../b",
    "a//b",
    "a/",
    "../../../tmp/fuzz",
    "..\\x",
    "a\nb",
    "con",
    "*",
    "a,b",
    "%s",
    "{x}",
]
_names = st.tuples(st.sampled_from(["name", "name", "sweep"]), st.sampled_from([*NAMES, *_ODD]))


def _named(case: tuple[str, str], folder: Path) -> str:
    """A run or a sweep of that name records below its folder, or is refused."""
    key, name = case
    quoted = name.replace("\\", "\\\\").replace("'", "\\'")
    refused = command(
        ["run", f"{key}='{quoted}'", *tiny(), *(["-m", "seed=1"] if key == "sweep" else [])]
    )
    made = [path.relative_to(folder).parts[0] for path in folder.iterdir()]
    if not refused and made != ["multirun" if key == "sweep" else "outputs"]:
        raise Failure("records elsewhere", str(made))
    return refused


TARGETS = [
    Target("runs", _runs, _run, records=True, settings=True, share=0.5),
    Target("command line", _commands, _commanded, settings=True),
    Target("names of runs and sweeps", _names, _named, records=True, settings=True, share=0.15),
]
