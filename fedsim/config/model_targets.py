"""What may be called to build a model: `model._target_` of the settings, judged before the call.

Any other group has a base class; a model has none, and a call can do anything. Accepted are

* a subclass of `torch.nn.Module`, and a class method of one (`Net.from_config`);
* a Python function, or a method, of the user's own: its code is neither in Python's library nor in
  an installed package, nor in fedsim outside of `fedsim.models`;
* a function of an installed package that belongs to a library of models (LIBRARIES), or that says
  so itself: `def net(...) -> nn.Module`;
* a `functools.partial` of one of these.

So `os.system`, `shutil.rmtree`, `numpy.load` and `torch.load` are refused, whatever module they are
reached through, while `torchvision.models.resnet18` and `timm.create_model` are not.
"""

from __future__ import annotations

import functools
import inspect
import sys
import sysconfig
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

from fedsim.errors import require

LIBRARIES = ("fedsim.models", "timm", "torchaudio.models", "torchvision.models", "transformers")
_INSTALLED = ("site-packages", "dist-packages")  # folders of packages, of an environment and a user


def check_model_target(target: Any, key: str, path: Any) -> None:
    """Raise ConfigError(key, path, ...) unless calling `target` is a way to build a model."""
    accepted = "a model is built by a subclass of torch.nn.Module, or by a function of your own; "
    accepted += "one of an installed package must be declared to return one (-> nn.Module)"
    require(builds_models(target), key, path, accepted)


def builds_models(target: Any) -> bool:
    """Whether a target may be called to build a model; it is not called."""
    if isinstance(target, functools.partial):
        return builds_models(target.func)
    if isinstance(target, type):
        return _is_module(target)
    if isinstance(target, MethodType):
        return _is_module(target.__self__) or builds_models(target.__func__)
    function = inspect.unwrap(target) if hasattr(target, "__wrapped__") else target
    if not isinstance(function, FunctionType):  # compiled, or an object that can be called
        return False
    return _of_the_user(function) or _of_a_library(function) or _says_so(function)


def _of_the_user(function: FunctionType) -> bool:
    home = str(function.__globals__.get("__name__"))  # __module__ can be set by a decorator
    file = Path(function.__code__.co_filename)
    library = Path(sysconfig.get_path("stdlib"))
    known = home.partition(".")[0] in (*sys.stdlib_module_names, "fedsim")
    installed = any(part in _INSTALLED for part in file.parts) or library in file.parents
    return not known and not installed and not str(file).startswith("<frozen")


def _of_a_library(function: FunctionType) -> bool:
    home = f"{function.__globals__.get('__name__')}."
    return any(home.startswith(f"{library}.") for library in LIBRARIES)


def _says_so(function: FunctionType) -> bool:
    try:
        return _is_module(inspect.signature(function, eval_str=True).return_annotation)
    except Exception:  # an annotation that has no meaning here
        return False


def _is_module(kind: Any) -> bool:
    from torch import nn

    return isinstance(kind, type) and issubclass(kind, nn.Module)
