"""Settings: as typed, as nested plain values, and as arguments of components in Python; composed
and prepared, not run."""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from fedsim import Simulation
from fedsim.config.building import GROUPS, METRICS, Settings, build, in_settings
from fedsim.config.composition import compose
from fedsim.data import Synthetic
from fedsim.data.partition import Iid
from fedsim.errors import ConfigError
from fedsim.models import LogisticRegression
from fedsim.network.topology import Ring
from fedsim.protocols import Gossip
from fedsim.recording.descriptions import describe
from tests.fuzz.fitting import settings_for
from tests.fuzz.harness import Target
from tests.fuzz.options import TINY, classes, options, settings
from tests.fuzz.values import NUMBERS, TOKENS, plain_values, python_values

OPTIONS, SETTINGS, CLASSES = options(), settings(), classes()
PLAIN = ["rounds", "seed", "name", "progress", "plots"]
_GRAMMAR = [
    *"[1,2] [1,[2]] [] {} {a:1} [[ { 1,2 range(3) choice(1,2)".split(),
    *"glob(*) sort(2,1) int(3) cast ( )".split(),
    *"${seed} ${nobody} ${data} ${oc.env:NOBODY} ${oc.env:HOME} ${ ${} ${now:%Y} ${hydra:run.dir}"
    " ${.x} \\${a} ${seed:${seed}}".split(),
    *"' \" '' \"\" 'a' a=b = \\ a:b * & % @ ! ? ~ _here_ _global_ ??? a#b".split(),
    *("- a", "{a: 1}", "{a: {b: [1]}}"),
]
_PATHS = [
    *"nowhere.X fedsim fedsim.data fedsim.nothing fedsim.algorithms.FedAvg fedsim.models.MLP"
    " fedsim.data.Digits math.sqrt math.pi".split(),
    *"builtins.print builtins.dict builtins.type os.getcwd sys.exit a..b .a a. 3 null [1]"
    " json.loads typing.Any tests".split(),
    *"torch.nn.Identity torch.nn.Linear collections.OrderedDict fedsim.data.dataset.DataSource"
    " fedsim.network.topology.Topology".split(),
    "",
]
_KEYS = [
    *PLAIN,
    *sorted(GROUPS),
    METRICS,
    *"hydra hydra.job.name hydra/launcher hydra.nothing nothing a.b.c . data/ data@x @".split(),
    "",
]
TYPED = st.sampled_from([*_GRAMMAR, *NUMBERS, *TOKENS]) | plain_values().map(json.dumps)
_paths = st.sampled_from(_PATHS)
_group = st.sampled_from(sorted(OPTIONS))
_setting = st.sampled_from(SETTINGS)
_key = st.one_of(
    _setting,
    _setting,
    st.sampled_from(_KEYS),
    _setting.map(lambda key: key + ".more"),
    _setting.map(lambda key: key[:-1]),
)


def _joined(*parts: st.SearchStrategy) -> st.SearchStrategy:
    return st.tuples(*parts).map("".join)


_equals = st.just("=")
override = st.one_of(
    _group.flatmap(
        lambda group: st.sampled_from(OPTIONS[group]).map(lambda name: f"{group}={name}")
    ),
    _joined(_key, _equals, TYPED),
    _joined(_key, _equals, TYPED),
    _joined(st.sampled_from(["+", "++", "~", "-", "--", " "]), _key, _equals, TYPED),
    _joined(st.sampled_from(sorted(GROUPS)), st.just("._target_="), _paths),
    _joined(_group, _equals, TYPED),
    TYPED,
)


def tiny(**more: str) -> list[str]:
    """Overrides of a simulation of a few milliseconds."""
    return [f"{key}={value}" for key, value in {**TINY, **more}.items()]


def _compose(case: list[str], folder: Path) -> None:
    _prepare(compose([*tiny(), *case]))


def _prepare(settings: Settings) -> None:
    try:
        build(settings, None, False).prepare()
    except ConfigError as error:
        raise in_settings(error, settings) from error.__cause__ or error.__context__


_BASES = {
    "server": [],
    "graph": ["protocol=gossip", "topology=ring"],
    "random graph": [
        "protocol=gossip",
        "topology=erdos_renyi",
        "topology.probability=0.5",
        "topology.allow_disconnected=true",
    ],
    "probabilities": ["participation=bernoulli", "participation.correlation=labels"],
    "memory": ["algorithm=fedspeed", "participation=markov"],
    "skew": ["partition=pathological", "model=mlp", "schedule=exponential", "participation=cyclic"],
}


@functools.cache
def _base(name: str) -> Settings:
    return compose([*tiny(), *_BASES[name]])


_parts = st.sampled_from(
    [(group, cls, known) for group, listed in sorted(CLASSES.items()) for cls, known in listed]
)
_chosen = _parts.filter(lambda part: part[0] != METRICS).flatmap(
    lambda part: st.tuples(
        st.just(part[0]),
        st.just(f"{part[1].__module__}.{part[1].__qualname__}"),
        settings_for(part[1], part[2]),
    )
)
_groups = st.sampled_from([*GROUPS, *GROUPS, *PLAIN, METRICS, "new"])
_place = st.tuples(_groups, st.integers(0, 20) | st.sampled_from(["_target_", "new", None]))
_plain_cases = st.tuples(
    st.sampled_from(sorted(_BASES)),
    st.lists(_chosen, max_size=4),
    st.lists(st.tuples(_place, plain_values() | _paths), max_size=1),
)


def _changed(
    case: tuple[str, list[tuple[str, str, dict[str, Any]]], list[tuple[tuple[str, Any], Any]]],
    folder: Path,
) -> None:
    """Composed settings with some parts replaced, and some values. A value's place is a group and
    the number of one of its settings, a name, or None: all of it."""
    config = copy.deepcopy(_base(case[0]).config)
    config |= {group: {"_target_": path, **named} for group, path, named in case[1]}
    for (group, which), value in case[2]:
        node = config.get(group)
        names = [name for name in node if name != "_target_"] if isinstance(node, dict) else []
        if which is None or not isinstance(node, dict) or (isinstance(which, int) and not names):
            config[group] = value
        else:
            node[names[which % len(names)] if isinstance(which, int) else which] = value
    _prepare(Settings(config))


_arguments = _parts.flatmap(
    lambda part: st.tuples(
        st.just(part[0]),
        st.just(part[1]),
        st.one_of(
            settings_for(part[1], part[2]),
            settings_for(part[1], part[2]),
            st.dictionaries(st.sampled_from([*part[2], "unknown"]), python_values(), max_size=2),
        ),
        st.lists(python_values(), max_size=1) if part[0] != "model" else st.just([]),
    )
)


def _components(case: tuple[str, Any, dict[str, Any], list[Any]], folder: Path) -> None:
    """Build a component of these arguments, by name and by position, and a simulation of it."""
    group, cls, named, positional = case
    parts: dict[str, Any] = {
        "data": Synthetic(samples=48, test=8, shape=[4], classes=3, validation=0.2),
        "partition": Iid(clients=6),
        "model": LogisticRegression,
        "progress": False,
        "rounds": 2,
    }
    if group == "model":
        part = functools.partial(cls, **named)
    else:
        first = list(getattr(cls, "__pydantic_fields__", {}))[: len(positional)]
        part = cls(*([] if set(first) & set(named) else positional), **named)
        json.dumps(describe(part), default=str)
    if group in ("topology", "mixing"):
        parts |= {"protocol": Gossip(), "topology": Ring()}
    listed = {METRICS: "metrics", "logger": "loggers"}
    parts |= {listed[group]: [part]} if group in listed else {group: part}
    Simulation(**parts).prepare()


TARGETS = [
    Target(
        "overrides", st.lists(override, min_size=1, max_size=4), _compose, settings=True, share=1.5
    ),
    Target("settings", _plain_cases, _changed, settings=True, share=3),
    Target("components", _arguments, _components, settings=True, share=4),
]
