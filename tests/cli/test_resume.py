"""`fedsim run resume=FOLDER`: what it accepts, and that a run goes on to the same bytes."""

import json
import shutil
from pathlib import Path

import pytest

from fedsim.cli.main import main
from fedsim.rounds.round import Rounds

TINY = [
    "data=synthetic",
    "data.samples=100",
    "data.test=50",
    "data.shape=[4]",
    "data.classes=3",
    "partition.clients=6",
    "model.hidden=[4]",
]
TINY += [
    "participation=bernoulli",
    "participation.probability=0.5",
    "rounds=8",
    "evaluation.every=2",
    "client=fedspeed",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder with a run that failed after its checkpoint of round 4, and one of the same settings
    that did not."""
    folder, typed = tmp_path_factory.mktemp("runs"), [*TINY, "checkpoint.every=2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with pytest.MonkeyPatch.context() as faulty:
            fail_in_round(6, faulty)
            assert main(["run", *typed, "hydra.run.dir=stopped"]) == 1
        assert main(["run", *typed, "hydra.run.dir=whole"]) == 0
    return folder


@pytest.fixture
def here(runs, tmp_path, monkeypatch) -> Path:
    """A copy of these runs, to work in."""
    shutil.copytree(runs, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fail_in_round(number: int, patch: pytest.MonkeyPatch) -> None:
    """Let the rounds of any run work until there have been `number` - 1."""
    run, calls = Rounds.run, []

    def failing(self, *arguments):
        calls.append(1)
        if len(calls) >= number:
            raise OSError("the power is gone")
        return run(self, *arguments)

    patch.setattr(Rounds, "run", failing)


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def test_a_run_goes_on_to_the_same_bytes_and_a_finished_one_says_so(here, capsys):
    assert [path.name for path in sorted((here / "stopped" / "checkpoints").iterdir())] == [
        "round_000002.safetensors",
        "round_000004.safetensors",
    ]
    assert (
        main(["run", "resume=stopped", "checkpoint.every=1", "checkpoint.keep=1", "progress=false"])
        == 0
    )
    assert capsys.readouterr().out.endswith("done: stopped\n")
    assert [path.name for path in (here / "stopped" / "checkpoints").iterdir()] == [
        "round_000008.safetensors"
    ]
    stopped, whole = summary(here / "stopped"), summary(here / "whole")
    assert all(
        stopped[name] == whole[name] for name in ("model_sha256", "metrics_sha256", "rounds")
    )

    before = {path: path.read_bytes() for path in (here / "whole").rglob("*") if path.is_file()}
    assert main(["run", "resume=whole/"]) == 0
    shown = capsys.readouterr()
    assert (
        shown.out.startswith("fedavg: accuracy ")
        and shown.out.endswith("done before: whole\n")
        and shown.err == ""
    )
    assert {
        path: path.read_bytes() for path in (here / "whole").rglob("*") if path.is_file()
    } == before


def test_another_engine_and_logger_give_the_same_bytes(here, ray_session, capsys):
    assert main(["run", "resume=stopped", "engine=ray", "engine.workers=2", "logger=none"]) == 0
    assert summary(here / "stopped")["model_sha256"] == summary(here / "whole")["model_sha256"]


def test_a_setting_of_the_recorded_engine_can_be_changed_alone(here):
    from fedsim.config.resuming import recorded_settings

    settings = recorded_settings(
        here / "stopped", ["engine=ray", "engine.workers=3", "progress=true"]
    )
    assert (
        settings.config["engine"]["workers"],
        settings.config["progress"],
        settings.choices["engine"],
    ) == (3, True, "ray")
    assert settings.config["checkpoint"]["every"] == 2
    settings = recorded_settings(here / "stopped", ["checkpoint.keep=5"])
    assert (settings.config["checkpoint"]["keep"], settings.config["checkpoint"]["every"]) == (5, 2)


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (
            "resume=stopped rounds=9",
            (
                "rounds='9': a run goes on with its own settings; beside resume accepted are"
                " engine, progress"
            ),
        ),
        (
            "resume=stopped engine=ray algorithm=fedau",
            "algorithm='fedau': a run goes on with its own settings",
        ),
        ("-m resume=stopped", "-m='': a run goes on with its own settings"),
        ("resume=stopped --cfg job", "--cfg='': a run goes on with its own settings"),
        ("resume=stopped ~engine", "engine='': a run goes on with its own settings"),
        ("resume=stopped resume=whole", "resume=['stopped', 'whole']: accepted is one folder"),
        ("resume=", "resume='': accepted is the folder of a run"),
        (
            "resume=nowhere",
            "resume='nowhere': accepted is the folder of a run, with its config.yaml",
        ),
        (
            "resume=stopped/config.yaml",
            "resume='stopped/config.yaml': accepted is the folder of a run",
        ),
        ("resume=sweep", "resume='sweep': a sweep goes on when its command is given again"),
        ("resume=broken", "resume='broken': accepted is a readable YAML file"),
        ("resume=empty", "resume='empty': its config.yaml has no settings of a run"),
        ("resume=stopped engine=rai", "engine='rai': unknown option; did you mean ray?"),
        ("resume=stopped engine.worker=3", "engine.worker=3: unknown setting of InProcess"),
        ("resume=stopped checkpoint.every=0", "checkpoint.every=0: "),
    ],
)
def test_what_cannot_be_gone_on_with_is_refused_in_one_line(here, typed, line, capfd):
    for name, content in {
        "sweep/multirun.yaml": "",
        "broken/config.yaml": "a: [",
        "empty/config.yaml": "choices: {}\n",
    }.items():
        (here / name).parent.mkdir()
        (here / name).write_text(content)
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    assert main(["run", *typed.split()]) == 2
    shown = capfd.readouterr()
    assert shown.err.startswith(line) and shown.err.count("\n") == 1 and shown.out == "", shown.err
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


def test_a_run_built_from_objects_goes_on_from_the_command_line(tmp_path, monkeypatch, capsys):
    import functools

    from fedsim import Simulation
    from fedsim.algorithms import FedAU
    from fedsim.data import Synthetic
    from fedsim.data.partition import Dirichlet
    from fedsim.evaluation import Objective
    from fedsim.models import MLP
    from fedsim.recording.checkpoints import Checkpoint

    simulation = Simulation(
        data=Synthetic(samples=200, test=50, shape=[6], classes=4),
        partition=Dirichlet(clients=8, alpha=1.0),
        model=functools.partial(MLP, hidden=[5]),
        aggregator=FedAU(),
        metrics=[Objective()],
        checkpoint=Checkpoint(every=1),
        rounds=6,
        progress=False,
        folder=tmp_path / "run",
    )
    whole = Simulation(**{**vars(simulation), "folder": None}).run()
    with monkeypatch.context() as patch:
        fail_in_round(4, patch)
        with pytest.raises(OSError, match="the power is gone"):
            simulation.run()
    assert main(["run", f"resume={tmp_path / 'run'}"]) == 0
    assert summary(tmp_path / "run")["model_sha256"] == whole.summary["model_sha256"]
    assert summary(tmp_path / "run")["metrics_sha256"] == whole.summary["metrics_sha256"]
