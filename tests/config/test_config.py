"""Composition and building: every option, which choice wins, and the user's own options."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

import fedsim
from fedsim import ConfigError, Simulation, simulate
from fedsim.algorithms import FedAU, FedAvg, FedSpeed, Sgd, VarianceCorrection
from fedsim.component import defaults_of, settings_of
from fedsim.config.building import GROUPS, METRICS, OPTIONAL, PRESETS, PlainKeys, build, locate
from fedsim.config.composition import compose
from fedsim.config.options import OPTIONS, find_options
from fedsim.network.mixing import Metropolis, OwnShare
from fedsim.network.topology import RandomRegular, Ring
from fedsim.protocols import Gossip, Server
from fedsim.training import LocalTraining
from tests.paths import CONF

SHIPPED = [(group, option.name) for group, options in find_options().items() for option in options]
NEEDED = {  # what an option cannot do without
    ("data", "npz"): ["data.file=data.npz"],
    ("participation", "trace"): ["participation.file=trace.csv"],
    ("topology", "graph_file"): ["topology.path=graph.txt"],
}


def parts(*typed: str) -> Simulation:
    """The simulation that overrides give."""
    return build(compose(typed))


# ------------------------------------------------------------------------------------------------
# every option


@pytest.mark.parametrize(("group", "name"), SHIPPED, ids=["=".join(option) for option in SHIPPED])
def test_every_option_can_be_built(group, name):
    simulation = parts(f"{group}={name}", *NEEDED.get((group, name), []))
    part = simulation.loggers[0] if group == "logger" else getattr(simulation, group, None)
    if group == METRICS:
        (part,) = simulation.metrics
    assert (part is None) == (name == "none" and group in OPTIONAL or group in PRESETS)
    base = {**GROUPS, METRICS: "fedsim.evaluation.Metric"}.get(group)
    if part is not None and base is not None:
        assert isinstance(part, locate(base, group))


def test_every_group_has_options_and_every_option_says_what_it_is():
    options = find_options()
    assert set(options) == {*GROUPS, METRICS, *PRESETS}
    assert all(options.values())
    assert all(len(option.text) > 5 for each in options.values() for option in each)


def test_the_values_of_the_only_option_of_a_class_are_the_class_defaults():
    """So that `fedsim run` and the object form agree on what is left out."""
    nodes = {
        (o.group, o.name): yaml.safe_load(o.path.read_text()) or {}
        for each in find_options().values()
        for o in each
    }
    nodes = {place: node.get(place[0]) or node for place, node in nodes.items()}
    targets = [node.get("_target_") for node in nodes.values()]
    checked = 0
    for (group, name), node in nodes.items():
        target = node.get("_target_")
        if target is None or targets.count(target) > 1 or group == "model":
            continue
        defaults = defaults_of(locate(target, group))
        for key, value in node.items():
            if key in defaults and value != "???":
                assert value == defaults[key], f"{group}/{name}.yaml: {key}"
                checked += 1
    assert checked > 40


def test_the_plain_keys_of_the_file_are_the_defaults():
    config = compose([]).config
    assert {key: config[key] for key in ("rounds", "seed", "progress", "plots")} == {
        key: getattr(PlainKeys(), key) for key in ("rounds", "seed", "progress", "plots")
    }
    assert set(config) == {*GROUPS, *settings_of(PlainKeys)}


# ------------------------------------------------------------------------------------------------
# which choice wins


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (
            [],
            {
                "client": Sgd(),
                "aggregator": FedAvg(),
                "protocol": Server(),
                "topology": None,
                "mixing": None,
                "correction": None,
            },
        ),
        (["algorithm=average_participating"], {"aggregator": FedAvg(weighting="uniform")}),
        (["algorithm=average_all"], {"aggregator": FedAvg(weighting="all")}),
        (["algorithm=known_prob"], {"aggregator": FedAvg(weighting="known_prob")}),
        (["algorithm=fedau"], {"client": Sgd(), "aggregator": FedAU()}),
        (["algorithm=fedau", "aggregator.cutoff=50"], {"aggregator": FedAU(cutoff=50)}),
        (["algorithm=fedspeed"], {"client": FedSpeed(), "aggregator": FedAvg(weighting="uniform")}),
        (
            ["algorithm=feddyn"],
            {"client": FedSpeed(radius=0.0), "aggregator": FedAvg(weighting="uniform")},
        ),
        (["algorithm=fedspeed", "aggregator=fedau"], {"client": FedSpeed(), "aggregator": FedAU()}),
        (["client=fedspeed", "aggregator=fedau"], {"client": FedSpeed(), "aggregator": FedAU()}),
        (["aggregator=fedau", "algorithm=fedspeed"], {"client": FedSpeed(), "aggregator": FedAU()}),
        (
            ["client=fedspeed", "client.radius=0.2"],
            {"client": FedSpeed(radius=0.2), "aggregator": FedAvg()},
        ),
        (
            ["protocol=gossip"],
            {"protocol": Gossip(), "topology": RandomRegular(degree=4), "mixing": Metropolis()},
        ),
        (
            ["protocol=gossip", "topology=ring", "mixing=own_share"],
            {"topology": Ring(), "mixing": OwnShare()},
        ),
        (
            ["algorithm=gossip"],
            {
                "aggregator": FedAvg(weighting="uniform"),
                "protocol": Gossip(),
                "topology": RandomRegular(degree=4),
                "mixing": Metropolis(),
            },
        ),
        (["algorithm=gossip", "topology=ring"], {"topology": Ring(), "protocol": Gossip()}),
        (
            ["algorithm=gossip", "protocol=server"],
            {"topology": None, "mixing": None, "protocol": Server()},
        ),
        (["algorithm=gossip", "aggregator=fedau"], {"aggregator": FedAU(), "protocol": Gossip()}),
        (
            ["algorithm=vc_gossip"],
            {
                "correction": VarianceCorrection(),
                "mixing": OwnShare(share=0.5),
                "protocol": Gossip(same_start=False),
                "topology": RandomRegular(degree=4),
            },
        ),
        (
            ["algorithm=vc_gossip", "mixing=metropolis", "protocol.same_start=true"],
            {"mixing": Metropolis(), "protocol": Gossip()},
        ),
        (
            ["algorithm=dpsgd"],
            {"protocol": Gossip(order="combine_then_adapt"), "mixing": Metropolis()},
        ),
        (["experiment=digits_graph"], {"mixing": OwnShare(), "protocol": Gossip(same_start=False)}),
        (
            ["+experiment=digits_graph", "algorithm=gossip"],
            {"mixing": OwnShare(), "aggregator": FedAvg(weighting="uniform")},
        ),
        (
            ["experiment=digits_graph", "mixing=metropolis", "local.rate=0.5"],
            {"mixing": Metropolis()},
        ),
        (["local.groups=3", "topology=ring"], {"local": LocalTraining(groups=3)}),
        (["local={groups: 3, rate: 0.2}"], {"local": LocalTraining(groups=3, rate=0.2)}),
        (["~topology"], {"topology": None}),
    ],
    ids=lambda value: " ".join(value) or "defaults" if isinstance(value, list) else "",
)
def test_typed_wins_over_experiment_over_algorithm_over_protocol_over_defaults(typed, expected):
    simulation = parts(*typed)
    assert {name: getattr(simulation, name) for name in expected} == expected


def test_a_class_in_place_of_an_option_leaves_the_option_s_settings_behind():
    simulation = parts(
        "aggregator=fedau", "aggregator._target_=fedsim.algorithms.FedAvg", "aggregator.rate=0.5"
    )
    assert simulation.aggregator == FedAvg(rate=0.5)
    assert simulation.config["choices"]["aggregator"] == "FedAvg"


def test_what_is_recorded_is_what_was_chosen_and_typed():
    settings = compose(["algorithm=vc_gossip", "local.groups=3", "name=${seed}-x"])
    assert settings.overrides == ["algorithm=vc_gossip", "local.groups=3", "name=${seed}-x"]
    assert (
        settings.choices
        | {
            "algorithm": "vc_gossip",
            "correction": "variance",
            "topology": "random_regular",
        }
        == settings.choices
    )
    assert set(settings.choices) == {*GROUPS, *PRESETS}
    assert settings.config["name"] == "0-x"
    assert settings.config["local"]["groups"] == 3
    assert yaml.safe_load(yaml.safe_dump(settings.recorded)) == settings.recorded


# ------------------------------------------------------------------------------------------------
# the user's own options

RULE = '''
from fedsim.algorithms import FedAvg
from fedsim.component import Positive, component

@component
class Scaled(FedAvg):
    """FedAvg with a factor."""

    factor: Positive = 2.0

    def step(self, base, mixed, state, info):
        return base + self.factor * mixed, state

class Plain(FedAvg):
    def __init__(self, factor):
        if factor < 0:
            raise ValueError("factor is negative")
        super().__init__()
        self.factor = factor
'''


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    """A folder of options, and the module of their classes."""
    (tmp_path / "own_rules_of_a_test.py").write_text(RULE)
    for group, name, text in [
        ("aggregator", "scaled", "# FedAvg with a factor\n_target_: own_rules_of_a_test.Scaled\n"),
        ("aggregator", "fedau", "# mine\n_target_: own_rules_of_a_test.Scaled\nfactor: 3.0\n"),
        (
            "algorithm",
            "mine",
            "# @package _global_\n# my preset\ndefaults:\n  - override /aggregator: scaled\n",
        ),
    ]:
        (tmp_path / "conf" / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / "conf" / group / f"{name}.yaml").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path / "conf"
    sys.modules.pop("own_rules_of_a_test", None)


def test_own_options_are_added_and_come_before_those_shipped(own, monkeypatch):
    assert build(compose(["aggregator=scaled"], own)).aggregator.factor == 2.0
    assert (
        build(compose(["aggregator=scaled", "aggregator.factor=5"], own)).aggregator.factor == 5.0
    )
    assert build(compose(["algorithm=mine"], own)).aggregator.factor == 2.0
    assert build(compose(["algorithm=fedau"], own)).aggregator.factor == 3.0
    assert build(compose(["algorithm=fedau"])).aggregator == FedAU()
    monkeypatch.setenv("FEDSIM_CONFIG_DIR", str(own))
    assert build(compose(["algorithm=mine"])).aggregator.factor == 2.0
    with pytest.raises(ConfigError, match="did you mean scaled"):
        compose(["aggregator=scald"])


def test_an_option_whose_defaults_name_no_file_is_named_in_one_line(tmp_path):
    (tmp_path / "algorithm").mkdir()
    (tmp_path / "algorithm" / "mine.yaml").write_text(
        "# @package _global_\n# Of another.\ndefaults:\n  - ../algorithm/other\n"
    )
    with pytest.raises(
        ConfigError,
        match=(
            r"^algorithm='other': there is no such file, which the defaults of another option name$"
        ),
    ):
        compose(["algorithm=mine"], tmp_path)


def test_of_several_folders_of_own_options_the_first_comes_first(tmp_path, monkeypatch):
    folders = [tmp_path / name for name in ("given", "first", "second")]
    for number, folder in enumerate(folders):
        (folder / "data").mkdir(parents=True)
        for name in ("one", "two", "three")[number:]:
            (folder / "data" / f"{name}.yaml").write_text(
                f"# A.\n_target_: fedsim.data.Synthetic\nclasses: {number + 5}\n"
            )
    monkeypatch.setenv("FEDSIM_CONFIG_DIR", os.pathsep.join(map(str, folders[1:])))
    found = [
        build(compose([f"data={name}"], folders[0])).data.classes
        for name in ("one", "two", "three")
    ]
    assert found == [5, 5, 5]
    assert build(compose(["data=three"])).data.classes == 6


def test_own_rule_changes_the_result(own):
    small = ["partition.clients=8", "participation.cohort=3", "rounds=2"]
    assert not np.array_equal(
        simulate([*small, "aggregator=scaled"], config_dir=own).models, simulate(small).models
    )


def test_a_class_that_is_no_component_is_built_and_its_errors_are_explained(own):
    target = "aggregator._target_=own_rules_of_a_test.Plain"
    assert parts(target, "aggregator.factor=4").aggregator.factor == 4
    for typed, message in [
        ("aggregator.factor=-4", "ValueError: factor is negative"),
        ("aggregator.factr=4", "unknown setting of Plain; did you mean factor"),
        ("seed=1", "TypeError: .*factor"),
    ]:
        with pytest.raises(ConfigError, match=message):
            parts(target, typed)


def test_what_is_no_class_of_the_group_is_refused_without_a_call(monkeypatch):
    called = []
    monkeypatch.setitem(
        sys.modules,
        "calls_of_a_test",
        SimpleNamespace(call=lambda **settings: called.append(settings)),
    )
    for typed in ["failures._target_=calls_of_a_test.call", "client._target_=fedsim.data.Digits"]:
        with pytest.raises(ConfigError, match="accepted is a subclass of fedsim"):
            parts(typed)
    assert not called


def test_a_model_that_would_leave_the_program_is_refused():
    with pytest.raises(
        ConfigError, match=r"^model._target_='sys.exit': a model is built by a subclass"
    ):
        parts("model._target_=sys.exit", "~model.hidden")


# ------------------------------------------------------------------------------------------------
# imports


def test_import_takes_nothing_heavy_and_two_files_import_hydra():
    heavy = [
        "torch",
        "ray",
        "hydra",
        "omegaconf",
        "flwr",
        "pandas",
        "matplotlib",
        "sklearn",
        "networkx",
        "numpy",
    ]
    code = (
        f"import sys, fedsim; fedsim.__version__; dir(fedsim); print([name for name in {heavy} if"
        " name in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )
    sources = Path(fedsim.__file__).parent.rglob("*.py")
    importers = [
        path.name
        for path in sources
        if any(
            word in path.read_text() for word in ("import hydra", "from hydra", "omegaconf import")
        )
    ]
    assert sorted(importers) == ["composition.py", "launching.py"]
    assert OPTIONS == CONF


def test_the_names_a_user_types_are_there():
    assert all(getattr(fedsim, name) is not None for name in fedsim.__all__)
    with pytest.raises(AttributeError, match="no attribute 'simulat'"):
        fedsim.simulat  # noqa: B018
