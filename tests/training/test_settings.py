"""Settings of local training: which go together."""

import pytest
import torch

from fedsim.errors import ConfigError
from fedsim.training import LocalTraining


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"steps": 5, "epochs": 1},
            r"^local\.epochs=1\.0: give either steps or epochs, not both \(local\.steps=5\)",
        ),
        ({"steps": None}, r"^local\.epochs=None: give either steps or epochs"),
        (
            {"keep_optimizer": True},
            r"^local\.keep_optimizer=True: needs local\.momentum above 0, or another optimizer",
        ),
        ({"nesterov": True}, r"^local\.nesterov=True: needs local\.momentum above 0"),
        (
            {"optimizer": "rmsprop"},
            (
                r"^LocalTraining\.optimizer='rmsprop': input should be 'sgd', 'adam', 'adamw' or"
                r" 'adahessian'"
            ),
        ),
        (
            {"optimizer": "adam", "momentum": 0.9},
            r"^local\.momentum=0\.9: optimizer=adam has no such setting; it takes betas, epsilon",
        ),
        (
            {"optimizer": "adamw", "hessian_power": 1},
            r"^local\.hessian_power=1\.0: optimizer=adamw has no such setting",
        ),
        (
            {"betas": [0.9, 0.99]},
            (
                r"^local\.betas=\[0\.9, 0\.99\]: optimizer=sgd has no such setting; it takes"
                r" momentum, nesterov"
            ),
        ),
        ({"epsilon": 1e-8}, r"^local\.epsilon=1e-08: optimizer=sgd has no such setting"),
        (
            {"optimizer": "adam", "betas": [0.9]},
            r"^LocalTraining\.betas=\[0\.9\]: list should have at least 2 items",
        ),
        (
            {"optimizer": "adam", "betas": [0.9, 1]},
            r"^LocalTraining\.betas.*: input should be less than 1",
        ),
        ({"optimizer": "adam", "epsilon": 0}, r"^LocalTraining\.epsilon=0: "),
        ({"relaxation": -0.1}, r"^LocalTraining\.relaxation=-0\.1: "),
        ({"momentum": 1}, r"^LocalTraining\.momentum=1: input should be less than 1"),
        ({"batch_size": 0}, r"^LocalTraining\.batch_size=0: "),
        ({"rate": 0}, r"^LocalTraining\.rate=0: "),
        ({"clip_norm": 0}, r"^LocalTraining\.clip_norm=0: "),
        ({"weight_decay": -1}, r"^LocalTraining\.weight_decay=-1: "),
        (
            {"last_batch": "skip"},
            r"^LocalTraining\.last_batch='skip': input should be 'keep' or 'drop'",
        ),
        (
            {"execution": "fast"},
            r"^LocalTraining\.execution='fast': input should be 'auto', 'looped' or 'stacked'",
        ),
        ({"groups": 0}, r"^LocalTraining\.groups=0: "),
    ],
)
def test_refusals(settings, message):
    with pytest.raises(ConfigError, match=message):
        LocalTraining(**settings)


def test_plain_steps_have_no_other_terms():
    assert LocalTraining(rate=3.0, weight_decay=0.1).plain
    for extra in ({"momentum": 0.5}, {"clip_norm": 1.0}, {"optimizer": "adam"}):
        assert not LocalTraining(**extra).plain


def test_only_adamw_and_adahessian_decay_weights_by_themselves():
    coupled = {
        name: LocalTraining(optimizer=name, weight_decay=0.1).coupled
        for name in ("sgd", "adam", "adamw", "adahessian")
    }
    assert coupled == {"sgd": True, "adam": True, "adamw": False, "adahessian": False}


def test_what_clients_keep():
    x = torch.ones(2, 3)
    assert not LocalTraining(momentum=0.5).keeps_state and LocalTraining(momentum=0.5).init(x) == {}
    settings = LocalTraining(optimizer="adam", keep_optimizer=True, relaxation=0.1)
    assert settings.keeps_state and {
        name: value.shape[1] for name, value in settings.init(x).items()
    } == {
        "trained": 3,
        "first": 3,
        "second": 3,
        "steps": 1,
    }
    assert list(LocalTraining(optimizer="adam", relaxation=0.1).init(x)) == ["trained"]
