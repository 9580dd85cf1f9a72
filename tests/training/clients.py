"""Four clients with data and models of their own, trained by fedsim or by a plain loop."""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F

from fedsim.algorithms import ClientRule, Sgd
from fedsim.data.shards import Shards
from fedsim.models import CNN, MLP, LeNet, LogisticRegression
from fedsim.parameters import Layout, flat_parameters
from fedsim.training.batches import draw_batches
from fedsim.training.execution import gradient_kernel
from fedsim.training.fisher_diagonal import diagonal_fisher
from fedsim.training.loop import Chunk, Kernel, train
from fedsim.training.settings import LocalTraining

# With batches of 4: short batches, unequal steps, the client with most steps not first
SIZES = np.array([3, 14, 8, 1])
SHARDS = Shards.from_owners(np.arange(SIZES.sum()), np.repeat(np.arange(4), SIZES), 4)
MODELS = {
    "logistic": (LogisticRegression, (5,)),
    "relu": (functools.partial(MLP, hidden=[6]), (5,)),
    "tanh": (functools.partial(MLP, hidden=[6, 4], activation="tanh"), (5,)),
    "lenet": (LeNet, (1, 12, 12)),
    "cnn": (functools.partial(CNN, channels=3, dense=[6]), (2, 8, 8)),
}


def local(**settings) -> LocalTraining:
    return LocalTraining(**{"steps": None, "epochs": 2, "batch_size": 4, "rate": 0.2, **settings})


class Clients:
    """Four clients with data and models of their own; trains them with fedsim or with a plain
    loop."""

    def __init__(
        self, model: str, classification: bool = True, dtype: torch.dtype = torch.float64
    ) -> None:
        factory, shape = MODELS[model]
        generator = torch.Generator().manual_seed(1)
        self.classification = classification
        self.x = torch.randn(SIZES.sum(), *shape, generator=generator, dtype=torch.float64).to(
            dtype
        )
        self.y = torch.randint(3, (len(self.x),), generator=generator)
        if not classification:
            self.y = torch.randn(len(self.x), 3, generator=generator, dtype=torch.float64).to(dtype)
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.module = factory(shape, 3).to(dtype)
        self.layout = Layout.of(self.module)
        noise = torch.randn(4, self.layout.size, generator=generator, dtype=torch.float64)
        self.anchor = (flat_parameters(self.module) + 0.03 * noise).to(dtype)

    def chunk(
        self,
        settings: LocalTraining,
        clients=(0, 1, 2, 3),
        state=None,
        kept=None,
        shared=None,
        round: int = 0,
    ) -> Chunk:
        """state: the rule's; kept: of local training."""
        rows = np.array(clients)
        state, kept = (
            {name: value[rows] for name, value in (part or {}).items()} for part in (state, kept)
        )
        batches = draw_batches(SHARDS, rows, settings, 7, round)
        return Chunk(
            7, round, rows, batches, SIZES[rows], self.anchor[rows], state, kept, shared or {}
        )

    def examples(self, index: np.ndarray):
        return self.x[index], self.y[index]

    def fisher(self, x: torch.Tensor, clients: np.ndarray) -> torch.Tensor:
        inputs = [self.x[SHARDS.shard(client)] for client in clients]
        return torch.stack(
            [
                diagonal_fisher(self.module, self.layout, *each)
                for each in zip(x, inputs, strict=True)
            ]
        )

    def kernel(self, settings: LocalTraining) -> Kernel:
        gradient = gradient_kernel(self.module, settings, "cpu")(
            self.module, self.layout, self.classification
        )
        return Kernel(gradient, self.examples, self.fisher)

    def train(self, settings: LocalTraining, rule: ClientRule | None = None, **chunk):
        with torch.no_grad():
            return train(
                self.chunk(settings, **chunk),
                rule or Sgd(),
                settings,
                self.kernel(settings),
                settings.rate,
            )

    def optimizers(self, settings: LocalTraining) -> list[torch.optim.Optimizer]:
        """An optimizer of torch for each client, with parameters of its own."""
        rate, decay, first = (
            settings.rate,
            settings.weight_decay,
            [list(self.module.parameters()) for _ in SIZES],
        )
        copies = [[p.detach().clone().requires_grad_() for p in parameters] for parameters in first]
        adaptive = {
            "betas": settings.betas or (0.9, 0.999),
            "eps": settings.epsilon or 1e-8,
            "weight_decay": decay,
        }
        make = {
            "sgd": lambda p: torch.optim.SGD(
                p, rate, momentum=settings.momentum, nesterov=settings.nesterov, weight_decay=decay
            ),
            "adam": lambda p: torch.optim.Adam(p, rate, **adaptive),
            "adamw": lambda p: torch.optim.AdamW(p, rate, **adaptive),
        }[settings.optimizer]
        return [make(copy) for copy in copies]

    def plain(
        self,
        settings: LocalTraining,
        optimizers: list | None = None,
        anchor: torch.Tensor | None = None,
        round: int = 0,
    ):
        """The trained models [4, P] by a loop of torch modules and optimizers."""
        rows, batches = [], draw_batches(SHARDS, np.arange(4), settings, 7, round)
        for client, optimizer in enumerate(optimizers or self.optimizers(settings)):
            model = dict(zip(self.layout.names, optimizer.param_groups[0]["params"], strict=True))
            for name, view in self.layout.views(
                (self.anchor if anchor is None else anchor)[client]
            ).items():
                model[name].data.copy_(view)
            for step in range(batches.steps[client]):
                index = batches.index[client, step, : batches.count[client, step]]
                optimizer.zero_grad()
                outputs = torch.func.functional_call(self.module, model, (self.x[index],))
                (F.cross_entropy if self.classification else F.mse_loss)(
                    outputs, self.y[index]
                ).backward()
                if settings.clip_norm:
                    torch.nn.utils.clip_grad_norm_(model.values(), settings.clip_norm)
                optimizer.step()
            flat = torch.empty_like(self.anchor[client])
            for name, view in self.layout.views(flat).items():
                view.copy_(model[name].detach())
            rows.append(flat)
        return torch.stack(rows)
