"""Settings of participation: how probabilities are made, traces, refusals, and the configuration
files."""

import numpy as np
import pytest
import yaml

import fedsim.participation as participation
from fedsim.errors import ConfigError
from fedsim.participation import Bernoulli, Cyclic, Markov, Population, Trace, Uniform
from tests.paths import CONF


def population(size, empty=(), labels=None):
    eligible = np.ones(size, dtype=bool)
    eligible[list(empty)] = False
    return Population(size, eligible, labels)


def written(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    return str(path)


def test_fedau_generator_has_its_known_numbers():
    """ALGORITHMS 1.4: 250 clients, alpha 0.1, mean 0.1, floor 0.02, over 300 draws."""
    numbers = {10: [], 100: []}
    for classes, kept in numbers.items():
        for seed in range(300):
            q = np.random.default_rng(seed).dirichlet(np.full(classes, 0.1), 250)
            kept.append(
                Bernoulli(correlation="labels").client_probabilities(
                    population(250, labels=q), seed
                )
            )
    ten, hundred = np.array(numbers[10]), np.array(numbers[100])
    assert ten.mean() == pytest.approx(0.106, abs=0.003)
    assert (ten == 0.02).mean() == pytest.approx(0.39, abs=0.03)
    assert ten.max(1).mean() == pytest.approx(0.63, abs=0.05)
    assert hundred.mean() == pytest.approx(0.100, abs=0.003)
    assert (hundred == 0.02).mean() == pytest.approx(0.06, abs=0.02)
    assert hundred.max() == 1.0  # clipped: the authors' code has p > 1 here


def test_label_probabilities_follow_the_formula_and_skip_empty_clients():
    q = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [np.nan, np.nan]])
    people = population(4, empty=(3,), labels=q)
    p = Bernoulli(
        correlation="labels", probability=0.2, alpha=1.0, minimum=0.0
    ).client_probabilities(people, 7)
    assert (
        p[0] + p[1] == pytest.approx(0.2 * 2)
        and p[2] == pytest.approx(0.2)
        and p[3] == 0
        and p[0] != pytest.approx(p[1])
    )
    same = Markov(
        correlation="labels", probability=0.2, alpha=1.0, minimum=0.0
    ).client_probabilities(people, 7)
    np.testing.assert_array_equal(p, same)  # one population, whatever the pattern


def test_given_probabilities_from_a_file_in_any_order(tmp_path):
    path = written(tmp_path, "p.csv", "probability, client\n0.5,2\n0.25,0\n0,1\n")
    assert Bernoulli(given=path).bind(population(3), 0).probabilities.tolist() == [0.25, 0.0, 0.5]


# --- Trace
# --------------------------------------------------------------------------------------------------


def test_trace_by_hand(tmp_path):
    path = written(tmp_path, "t.csv", "round,client\n3,1\n0,4\n0,2\n0,2\n3,0\n")
    once = Trace(file=path).bind(population(5, empty=(4,)), 0)
    assert [once.cohort(t).tolist() for t in range(6)] == [[2], [], [], [0, 1], [], []]
    np.testing.assert_allclose(once.probabilities, [0.25, 0.25, 0.25, 0, 0])
    again = Trace(file=path, repeat=True).bind(population(5), 0)
    assert [again.cohort(t).tolist() for t in range(3, 9)] == [
        [0, 1],
        [2, 4],
        [],
        [],
        [0, 1],
        [2, 4],
    ]


# --- Refusals
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "build, key",
    [
        (lambda: Uniform(cohort=0), "Uniform.cohort"),
        (lambda: Uniform(cohort=10).bind(population(10, empty=(1,)), 0), "participation.cohort"),
        (lambda: Bernoulli(probability=0), "Bernoulli.probability"),
        (lambda: Bernoulli(probability=1.5), "Bernoulli.probability"),
        (lambda: Bernoulli(probability=float("nan")), "Bernoulli.probability"),
        (lambda: Bernoulli(probabilty=0.5), "Bernoulli.probabilty"),
        (lambda: Bernoulli(correlation="label"), "Bernoulli.correlation"),
        (lambda: Bernoulli(given=[0.5, 2.0]), "Bernoulli.given"),
        (lambda: Bernoulli(given=[0.5], correlation="labels"), "Bernoulli.given"),
        (lambda: Cyclic(correlation="labels", probability=0.01), "Cyclic.minimum"),
        (lambda: Bernoulli(given=[0.5, 0.5]).bind(population(3), 0), "participation.given"),
        (
            lambda: Bernoulli(correlation="labels").bind(population(3), 0),
            "participation.correlation",
        ),
        (lambda: Markov(max_on=0), "Markov.max_on"),
        (lambda: Cyclic(period=0), "Cyclic.period"),
        (lambda: Trace(), "Trace.file"),
        (lambda: population(2, empty=(0, 1)), "partition.clients"),
    ],
)
def test_refused_settings(build, key):
    with pytest.raises(ConfigError) as caught:
        build()
    assert caught.value.key == key and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name, text, says",
    [
        ("missing.csv", None, "No such file"),
        ("t.csv", "", "readable"),
        ("t.csv", "round,who\n0,1\n", "client is missing"),
        ("t.csv", "round,client\n", "at least one row"),
        ("t.csv", "round,client\n0,bob\n", "numbers"),
        ("t.csv", "round,client\n0,\n", "empty"),
        ("t.csv", "round,client\n-1,0\n", "column round .* not -1"),
        ("t.csv", "round,client\n0,5\n", "column client .* from 0 to 4, not 5"),
        ("t.csv", "round,client\n0,1.5\n", "not 1.5"),
        ("t.csv", 'round,client\n0,"1\n', "readable"),
        ("t.parquet", "PAR1 but not really", "readable"),
        ("t.csv.gz", "no gzip", "readable"),
    ],
)
def test_refused_trace_files(tmp_path, name, text, says):
    path = str(tmp_path / name) if text is None else written(tmp_path, name, text)
    with pytest.raises(ConfigError, match=says) as caught:
        Trace(file=path).bind(population(5), 0)
    assert caught.value.key == "participation.file" and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "rows", ["0,0.5\n0,0.5\n", "0,0.5\n", "0,0.5\n1,1.2\n", "0,0.5\n2,0.5\n", "0,0.5\n1,nan\n"]
)
def test_refused_probability_files(tmp_path, rows):
    with pytest.raises(ConfigError, match="participation.given"):
        Bernoulli(given=written(tmp_path, "p.csv", "client,probability\n" + rows)).bind(
            population(2), 0
        )


@pytest.mark.parametrize("path", sorted(CONF.glob("participation/*.yaml")), ids=lambda p: p.stem)
def test_configuration_repeats_the_defaults(path):
    settings = yaml.safe_load(path.read_text())
    required = {
        name: settings.pop(name) for name, value in list(settings.items()) if value == "???"
    }
    cls = getattr(participation, settings.pop("_target_").removeprefix("fedsim.participation."))
    assert path.read_text().startswith("# ") and cls(**settings, **required) == cls(**required)
