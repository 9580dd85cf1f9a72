"""The curves of every algorithm are what they were."""

import pytest

from fedsim.analysis.golden import Golden, moved
from tests.convergence.cases import CASES, FOLDER, curves


@pytest.mark.parametrize("name", CASES)
def test_the_curves_are_those_kept(name):
    worst = moved(Golden.read(FOLDER / f"{name}.json"), curves(name))
    lines = [
        f"{m.curve} from round {m.round}: {m.value:.6g}, golden {m.golden:.6g}, off by"
        f" {m.worst:.3g} tolerances"
        for m in worst
    ]
    assert not worst, "\n".join(
        ["`make golden` rewrites the curves, if they are meant to move", *lines]
    )


def test_every_file_belongs_to_a_case():
    assert {path.stem for path in FOLDER.glob("*.json")} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_the_curves_can_tell(name):
    """What is tolerated is a small part of what another seed changes, in the loss and in the
    updates."""
    golden = Golden.read(FOLDER / f"{name}.json")
    main = "server/loss" if "server/loss" in golden.curves else "nodes/loss_mean"
    for curve in (main, "run/update_norm"):
        assert golden.curves[curve]["tolerance"][-1] < 0.25 * golden.curves[curve]["seeds"], curve
