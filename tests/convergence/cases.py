"""The runs whose curves are kept: algorithm x participation x place, on digits, a fraction of a
second each."""

from __future__ import annotations

from pathlib import Path

from fedsim.analysis.golden import Curves, Golden
from fedsim.config.building import build
from fedsim.config.composition import compose

FOLDER = Path(__file__).parent / "golden"
SHORT = [
    "rounds=30",
    "evaluation.every=5",
    "partition.clients=40",
    "model.hidden=[16]",
    "metrics=[objective]",
    "progress=false",
]
PATTERNS = {
    "uniform": ["participation=uniform", "participation.cohort=8"],
    "bernoulli": [
        "participation=bernoulli",
        "participation.correlation=labels",
        "participation.probability=0.3",
    ],
    "markov": ["participation=markov", "participation.probability=0.3"],
    "cyclic": ["participation=cyclic", "participation.probability=0.3", "participation.period=10"],
    "full": ["participation=full"],
}
AT_SERVER = [
    *("fedavg", "average_participating", "average_all", "known_prob", "fedau", "mifa", "fedvarp"),
    *(
        "fedprox",
        "scaffold",
        "feddyn",
        "fedcm",
        "fedsam",
        "mofedsam",
        "fedgamma",
        "fedspeed",
        "fedsmoo",
        "fednova",
    ),
    *(
        "fedavgm",
        "fedadam",
        "fedyogi",
        "fedadagrad",
        "median",
        "trimmed_mean",
        "krum",
        "multi_krum",
        "fisher",
        "greedy_soup",
        "last_average",
    ),
]
OVER_GRAPH = [
    "gossip",
    "dpsgd",
    "vc_gossip",
    "dfedavgm",
    "dsgt",
    "push_sum",
    "el_local",
    "el_oracle",
    "partitioned_gossip",
]
# With every pattern; the others with the first two
CROSSED = ("fedavg", "fedau", "fedspeed", "scaffold", "mifa")
CASES: dict[str, list[str]] = {}
for algorithm in AT_SERVER:
    for pattern in (
        "uniform",
        "bernoulli",
        *(("markov", "cyclic") if algorithm in CROSSED else ()),
    ):
        CASES[f"server-{algorithm}-{pattern}"] = [
            f"algorithm={algorithm}",
            *PATTERNS[pattern],
            *SHORT,
        ]
for algorithm in OVER_GRAPH:
    for pattern in ("full", "bernoulli"):
        CASES[f"graph-{algorithm}-{pattern}"] = [
            f"algorithm={algorithm}",
            *PATTERNS[pattern],
            *SHORT,
        ]
for algorithm in ("fedau", "median", "fedprox", "fedcm"):  # the same definitions over a graph
    CASES[f"graph-{algorithm}-bernoulli"] = [
        f"algorithm={algorithm}",
        "protocol=gossip",
        *PATTERNS["bernoulli"],
        *SHORT,
    ]
for name, overrides in {
    "adam": ["local=adam"],
    "adamw": ["local=adam", "local.optimizer=adamw", "local.weight_decay=0.01"],
    "adahessian": ["local=adahessian"],
}.items():
    CASES[f"server-{name}-uniform"] = [*overrides, *PATTERNS["uniform"], *SHORT]
for algorithm in ("srrw", "srrw_history"):
    CASES[f"walk-{algorithm}-full"] = [
        f"algorithm={algorithm}",
        "protocol.tokens=8",
        *PATTERNS["full"],
        *SHORT,
        "rounds=120",
        "evaluation.every=20",
    ]
for schedule in ("linear", "cosine"):
    CASES[f"server-{schedule}-uniform"] = [f"schedule={schedule}", *PATTERNS["uniform"], *SHORT]

# What another machine may round otherwise
VARIANTS = [["local.execution=looped"], ["local.clients_per_batch=1", "local.groups=3"]]
SEEDS = [["seed=1"], ["seed=2"], ["seed=3"]]


def curves(name: str, more: list[str] = ()) -> Curves:
    """The curves of a case, with more overrides."""
    settings = compose([*CASES[name], *more])
    result = build(settings).run()
    return Curves.of(settings.recorded, result.metrics, result.summary["metrics_sha256"])


def measured(name: str) -> Golden:
    """A case measured anew, with its tolerances."""
    return Golden.measure([curves(name), *(curves(name, more) for more in (*VARIANTS, *SEEDS))])
