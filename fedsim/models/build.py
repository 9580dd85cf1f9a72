"""Building a model from the data's shape, with keyed initial values, and refusing modules that
cannot be averaged or reproduced."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from fedsim.errors import ConfigError, require
from fedsim.rng import derived_seed

PROBE = 2  # examples in the batch a module is tried on


def build_model(
    factory: Callable[..., nn.Module],
    input_shape: Sequence[int],
    outputs: int,
    seed: int,
    key: int = 0,
    tokens_vocab: int | None = None,
) -> nn.Module:
    """A module whose initial parameters are a function of (seed, key) alone; torch's global
    generator is left as it was.

    factory: any callable that returns a module: a class, a `functools.partial` that holds its
    settings, a function. Of `input_shape` (shape of one input), `outputs` (classes or regression
    targets) and, for tokens, `vocabulary` (number of different tokens) it is given those that its
    signature names, or all where it takes **kwargs, unless they are among its settings. key: 0, or
    the node where nodes start differently. Raises ConfigError for unknown and missing settings, and
    where no module comes out.
    """
    buildable = callable(factory) and not isinstance(factory, nn.Module)
    require(
        buildable,
        "model",
        factory,
        "accepted is a callable that builds a torch module, such as functools.partial(MLP,"
        " hidden=[64])",
    )
    offered: dict[str, Any] = {"input_shape": tuple(input_shape), "outputs": outputs}
    if tokens_vocab is not None:
        offered["vocabulary"] = tokens_vocab
    arguments = _arguments(factory, offered)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            # torch.manual_seed would set the GPUs' generators too
            torch.default_generator.manual_seed(derived_seed(seed, "init", key))
            module = factory(**arguments)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # any callable may stand here
        raise ConfigError(
            "model", _name(factory), f"could not be built ({_first_line(error)})"
        ) from error
    require(
        isinstance(module, nn.Module),
        "model",
        _name(factory),
        f"must give a torch.nn.Module, not {type(module).__name__}",
    )
    return module


def check_model(
    module: nn.Module, input_shape: Sequence[int], outputs: int, tokens: bool = False
) -> None:
    """Raise ConfigError unless the module can be trained as a flat vector, averaged and reproduced,
    and maps inputs [B, *input_shape] (float32, or int64 `tokens`) to [B, outputs]."""
    name = type(module).__name__
    _check_layers(module, name)
    _check_parameters(module, name)
    batch = torch.zeros(PROBE, *input_shape, dtype=torch.int64 if tokens else torch.float32)
    buffers = {key: buffer.clone() for key, buffer in module.named_buffers()}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        before, untouched = torch.get_rng_state(), batch._version
        try:
            result = module(batch)
        except Exception as error:
            kind = "tokens (int64)" if tokens else "float32 inputs"
            raise ConfigError(
                "model",
                name,
                f"must take {kind} of shape {list(batch.shape)}, but fails ({_first_line(error)})",
            ) from error
        drew = not torch.equal(before, torch.get_rng_state())
    shape = list(result.shape) if isinstance(result, torch.Tensor) else type(result).__name__
    wanted = [PROBE, outputs]
    require(
        shape == wanted,
        "model",
        name,
        f"must give outputs of shape {wanted} for inputs of shape {list(batch.shape)}, not {shape}",
    )
    require(
        batch._version == untouched,
        "model",
        name,
        "writes into its inputs, which others read as well; use operations that do not",
    )
    require(
        not drew,
        "model",
        name,
        "draws random numbers while it runs, from a generator that no seed here controls; take"
        " that out",
    )
    for key, buffer in module.named_buffers():
        same = key in buffers and torch.equal(buffers[key], buffer)
        require(
            same,
            "model",
            name,
            f"changes its buffer {key} while it runs, and a running state cannot be averaged; use"
            " GroupNorm",
        )


def _check_layers(module: nn.Module, name: str) -> None:
    for path, layer in module.named_modules():
        where = f"{type(layer).__name__}{f' ({path})' if path else ''}"
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            reason = (
                "its running statistics cannot be averaged and its outputs depend on the rest of"
                " the batch"
            )
            raise ConfigError("model", name, f"contains {where}: {reason}; use GroupNorm")
        dropout = isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0
        dropout = dropout or (
            isinstance(layer, nn.RNNBase | nn.MultiheadAttention) and layer.dropout > 0
        )
        reason = "dropout draws from torch's global generator, so that a run could not be repeated"
        require(
            not dropout,
            "model",
            name,
            f"contains {where} with dropout: {reason}; take it out or set its probability to 0",
        )
    for path, _ in module.named_buffers():
        tracks = path.rsplit(".", 1)[-1] in ("running_mean", "running_var", "num_batches_tracked")
        require(
            not tracks,
            "model",
            name,
            f"tracks running statistics ({path}), which cannot be averaged; use GroupNorm",
        )


def _check_parameters(module: nn.Module, name: str) -> None:
    parameters = dict(module.named_parameters())
    require(bool(parameters), "model", name, "has no parameters to train")
    for path, parameter in parameters.items():
        lazy = isinstance(parameter, nn.parameter.UninitializedParameter)
        require(
            not lazy,
            "model",
            name,
            f"gives {path} its shape at the first batch; use layers that know their sizes, not lazy"
            " ones",
        )
        require(
            parameter.dtype == torch.float32,
            "model",
            name,
            f"holds {path} as {parameter.dtype}; accepted is torch.float32",
        )
        require(
            parameter.requires_grad,
            "model",
            name,
            f"freezes {path}, and all parameters are trained; register it as a buffer",
        )


def _arguments(factory: Callable[..., nn.Module], offered: dict[str, Any]) -> dict[str, Any]:
    """Those of `offered` that `factory` accepts and does not hold yet. Raises ConfigError for
    settings it does not know or lacks."""
    target, positional, settings = factory, (), {}
    if isinstance(factory, functools.partial):
        target, positional, settings = factory.func, factory.args, factory.keywords
    try:
        parameters = inspect.signature(target).parameters
    except (ValueError, TypeError):  # compiled callables may have no signature
        return {}
    kinds = inspect.Parameter
    named = {
        name: p
        for name, p in parameters.items()
        if p.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)
    }
    any_name = any(p.kind is kinds.VAR_KEYWORD for p in parameters.values())
    own = [name for name in named if name not in offered and name != "vocabulary"]
    for name, value in settings.items():
        accepted = f"unknown setting of {_name(target)}; " + (
            f"accepted are {', '.join(own)}" if own else "it has none"
        )
        require(name in named or any_name, f"model.{name}", value, accepted)
    held = {*list(named)[: len(positional)], *settings}
    arguments = {
        name: value
        for name, value in offered.items()
        if name not in held and (name in named or any_name)
    }
    for name, parameter in named.items():
        given = name in held or name in arguments or parameter.default is not kinds.empty
        require(
            given,
            f"model.{name}",
            None,
            f"{_name(target)} needs this setting and has no default for it",
        )
    return arguments


def _name(factory: Any) -> str:
    return (
        _name(factory.func)
        if isinstance(factory, functools.partial)
        else getattr(factory, "__name__", type(factory).__name__)
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
