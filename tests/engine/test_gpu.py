"""What runs on a GPU, on one that is pretended: every tensor is where it has to be, and results are
those of the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fedsim
from fedsim.algorithms import FedAvg, Sgd
from fedsim.config.building import build
from fedsim.config.composition import compose
from fedsim.data import Synthetic
from fedsim.data.partition import Iid
from fedsim.engine.inprocess import InProcess
from fedsim.evaluation import ClientSpread
from fedsim.models import LeNet, ResNet18
from fedsim.participation import Full
from fedsim.training import LocalTraining
from tests.helpers import blobs_simulation, mostly_long
from tests.paths import CONF
from tests.pretended_gpu import pretended_gpu

PRESETS = sorted(path.stem for path in (CONF / "algorithm").glob("*.yaml"))
SMALL = [
    "data=synthetic",
    "data.samples=400",
    "data.test=40",
    "partition=iid",
    "partition.clients=12",
    "rounds=2",
]
SMALL += ["model=mlp", "model.hidden=[8]", "local.batch_size=4"]
GPU = InProcess(device="cuda:0")


def on_gpu(simulation: fedsim.Simulation) -> np.ndarray:
    """Models of a run on the pretended GPU."""
    with pretended_gpu() as gpu:
        models = simulation.run().models
    assert gpu.operations > 100
    return models


@pytest.mark.parametrize("execution", ["looped", "stacked"])
@pytest.mark.parametrize(
    "preset", mostly_long(PRESETS, "fedau", "fedspeed", "krum", "vc_gossip", "srrw")
)
def test_every_algorithm_gives_what_it_gives_on_a_cpu(preset, execution):
    settings = [*SMALL, f"algorithm={preset}", f"local.execution={execution}"]
    expected = build(compose(settings), None, False).run().models
    np.testing.assert_array_equal(
        on_gpu(build(compose([*settings, "engine.device=cuda:0"]), None, False)), expected
    )


@pytest.mark.parametrize(
    "local",
    [
        {"optimizer": "adam", "keep_optimizer": True},
        {"optimizer": "adamw", "weight_decay": 0.01},
        {"optimizer": "adahessian", "rate": 0.01},
        {"momentum": 0.9, "nesterov": True},
        {"clip_norm": 0.1, "weight_decay": 0.01},
        {"relaxation": 0.5},
        {"epochs": 1.5, "last_batch": "drop"},
    ],
    ids=str,
)
def test_local_training_gives_what_it_gives_on_a_cpu(local):
    local = LocalTraining(
        **{
            "steps": None if "epochs" in local else 2,
            "batch_size": 4,
            "execution": "stacked",
            **local,
        }
    )
    parts = {"rounds": 2, "local": local, "model": WithSkip, "metrics": [ClientSpread()]}
    expected = blobs_simulation(**parts).run().models
    np.testing.assert_array_equal(on_gpu(blobs_simulation(**parts, engine=GPU)), expected)


class WithSkip(torch.nn.Module):
    """No plain sequence, so that autograd is used."""

    def __init__(self, input_shape, outputs) -> None:
        super().__init__()
        self.first, self.last = torch.nn.Linear(*input_shape, 6), torch.nn.Linear(6, outputs)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.first(inputs).tanh()
        return self.last(hidden + hidden.square())


@pytest.mark.parametrize(
    ("model", "shape", "execution"),
    [(LeNet, [1, 14, 14], "looped"), (LeNet, [1, 14, 14], "auto"), (ResNet18, [3, 8, 8], "auto")],
)
def test_images_give_what_they_give_on_a_cpu(model, shape, execution):
    def simulation(**parts) -> fedsim.Simulation:
        data = {
            "data": Synthetic(samples=24, shape=shape, test=5),
            "partition": Iid(clients=3),
            "participation": Full(),
        }
        return blobs_simulation(rounds=1, model=model, **data, **parts)

    def local(execution: str) -> LocalTraining:
        return LocalTraining(steps=2, batch_size=4, rate=0.01, execution=execution)

    expected = simulation(local=local("looped")).run().models
    np.testing.assert_allclose(
        on_gpu(simulation(local=local(execution), engine=GPU)), expected, atol=1e-4
    )


class Forgetful(Sgd):
    """Adds a vector that it never moves to the device."""

    def direction(self, grad, x, anchor, state, shared):
        return grad(x) + torch.ones(x.shape[-1])


def test_a_tensor_that_is_left_on_the_cpu_is_found_out():
    with pretended_gpu(), pytest.raises(RuntimeError, match="at least two devices, cuda:0 and cpu"):
        blobs_simulation(
            client=Forgetful(), aggregator=FedAvg(weighting="uniform"), engine=GPU
        ).run()


def test_the_pretended_gpu_keeps_tensors_apart_as_a_gpu_does():
    with pretended_gpu():
        there = torch.ones(3, device="cuda:0")
        assert (there.device.type, there.cpu().tolist()) == ("cuda", [1.0] * 3)
        with pytest.raises(RuntimeError, match="at least two devices"):
            there + torch.ones(3)
        with pytest.raises(RuntimeError, match="at least two devices"):
            torch.ones(3)[there.long()]
        with pytest.raises(RuntimeError, match="at least two devices"):
            there[torch.tensor([0, 1])] = torch.ones(2)
        assert there[torch.tensor([0, 1])].sum().item() == 2
        with pytest.raises(RuntimeError):
            there.numpy()
        there[1:].add_(torch.ones(2).to(there))
        assert (there * 2).cpu().tolist() == [2.0, 4.0, 4.0]
    assert not torch.cuda.is_available()
