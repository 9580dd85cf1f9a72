"""What may be called to build a model."""

import os
import sys

import pytest

from fedsim.config.model_targets import builds_models
from tests.cli.test_resume import TINY
from tests.config.sent_folders import refused


@pytest.mark.parametrize(
    "typed",
    [
        "model._target_=os.system +model.command=echo",
        "model._target_=shutil.rmtree +model.path=precious",
        "model._target_=numpy.load +model.file=a.npy",
        "model._target_=torch.load +model.f=a.pt",
        "model._target_=subprocess.Popen +model.args=[touch,marker]",
        "model._target_=os.makedirs +model.name=marker",
        "model._target_=builtins.exec",
        "model._target_=fedsim.cli.main.main",
        "model._target_=fedsim.cli.main.os.system",
        "model._target_=rmtree_of_a_test.rmtree +model.path=precious",
        "model._target_=joblib.load",
    ],
)
def test_a_model_is_built_by_what_builds_models(here, typed, capfd, monkeypatch):
    (here / "precious").mkdir()
    (here / "rmtree_of_a_test.py").write_text("from shutil import rmtree\n")
    line = refused(capfd, *TINY[:5], *typed.split(), "hydra.run.dir=new")
    assert line.startswith("model._target_=") and "subclass of torch.nn.Module" in line
    assert (
        (here / "precious").is_dir()
        and not (here / "marker").exists()
        and not (here / "new").exists()
    )


def test_functions_of_the_user_s_own_and_of_libraries_of_models_build_models(tmp_path, monkeypatch):
    import functools

    from torch import nn

    from fedsim.models import MLP

    code = (
        "from torch import nn\ndef plain():\n    pass\n\ndef told() -> nn.Module:\n    pass\n\ndef"
        " number() -> int:\n    pass\n"
    )
    code += "\nclass Net(nn.Module):\n    @classmethod\n    def from_config(cls):\n        pass\n"
    names = [
        "lab_of_a_test.py",
        "timm/models/factory.py",
        "torchvision/__init__.py",
        "torchvision/models/resnet.py",
        "timm/__init__.py",
    ]
    for name in (*names, "torchvision/models/__init__.py", "timm/models/__init__.py"):
        path = tmp_path / "site-packages" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("" if name.endswith("__init__.py") else code)
    monkeypatch.syspath_prepend(str(tmp_path / "site-packages"))
    for name in [name for name in sys.modules if name.partition(".")[0] in ("timm", "torchvision")]:
        monkeypatch.delitem(sys.modules, name)
    import importlib

    lab = importlib.import_module("lab_of_a_test")
    for library in ("timm.models.factory", "torchvision.models.resnet"):
        assert builds_models(importlib.import_module(library).plain)
    for name in [
        name
        for name in sys.modules
        if name.partition(".")[0] in ("timm", "torchvision", "lab_of_a_test")
    ]:
        sys.modules.pop(name)
    assert builds_models(lab.told) and builds_models(lab.Net) and builds_models(lab.Net.from_config)
    assert not builds_models(lab.plain) and not builds_models(lab.number)

    def own():
        pass

    for good in (
        own,
        functools.cache(own),
        functools.partial(own),
        functools.partial(MLP, hidden=[3]),
        MLP,
        nn.Linear,
        lambda: None,
    ):
        assert builds_models(good)
    for bad in (
        int,
        object,
        len,
        os.system,
        functools.partial(os.system),
        nn.Linear(1, 1),
        "own",
        None,
    ):
        assert not builds_models(bad)
