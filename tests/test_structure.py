"""The house: which module may import which, what lies in the root, and the path a reader
follows."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import networkx
import pytest

import fedsim
from tests.paths import REPOSITORY

PACKAGE = Path(fedsim.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
PACKAGES = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


def imports(path: Path, types: bool = False) -> Iterator[str]:
    """The modules of fedsim that a file imports, in functions too; types: also for type checkers
    alone."""

    def walk(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            if (
                isinstance(child, ast.If)
                and "TYPE_CHECKING" in ast.unparse(child.test)
                and not types
            ):
                continue
            yield child
            yield from walk(child)

    for node in walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name.split(".")[0] == "fedsim")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fedsim":
            for each in node.names:
                whole = f"{node.module}.{each.name}"
                yield whole if whole in MODULES else node.module


def with_parents(name: str) -> Iterator[str]:
    """A module and the packages whose __init__ is run before it."""
    parts = name.split(".")
    yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def circles(edges: set[tuple[str, str]]) -> list[list[str]]:
    graph = networkx.DiGraph((a, b) for a, b in edges if a != b)
    return [
        sorted(found) for found in networkx.strongly_connected_components(graph) if len(found) > 1
    ]


def package_of(name: str) -> str:
    """The room that a module lies in: a package, or itself in the root."""
    return ".".join(name.split(".")[:2])


def test_no_module_imports_itself_through_others():
    edges = set()
    for name, path in MODULES.items():
        for target in imports(path):
            inside = name.rpartition(".")[0]  # its own package has been begun before it
            edges |= {
                (name, each)
                for each in with_parents(target)
                if each in MODULES and each not in (inside, "fedsim")
            }
    assert len(edges) > 300
    assert circles(edges) == []


def test_no_package_imports_itself_through_others():
    """Annotations counted."""
    edges = {
        (package_of(name), package_of(target))
        for name, path in MODULES.items()
        for target in imports(path, types=True)
        if "fedsim" not in (name, target)
    }
    assert len(edges) > 60
    assert circles(edges) == []


def test_the_circles_that_would_be_there_are_found():
    assert circles({("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")}) == [["a", "b", "c"]]


@pytest.mark.parametrize(
    ("room", "others"),
    [
        (
            "algorithms",
            {"engine", "rounds", "simulation", "config", "models", "training", "protocols"},
        ),
        ("engine", {"rounds", "algorithms", "training", "config", "simulation"}),
        ("config", {"analysis", "cli"}),
        ("training", {"kernels", "rounds", "engine"}),
        ("recording", {"analysis", "config", "simulation"}),
        ("network", {"algorithms", "models", "training"}),
    ],
)
def test_what_a_room_must_not_know(room, others):
    known = {
        package_of(target).removeprefix("fedsim.")
        for name, path in MODULES.items()
        if package_of(name) == f"fedsim.{room}"
        for target in imports(path)
    }
    assert not known & others


def test_nothing_imports_the_command_line():
    assert [
        name
        for name, path in MODULES.items()
        if any(t.startswith("fedsim.cli") for t in imports(path))
        and package_of(name) not in ("fedsim.cli", "fedsim.__main__")
    ] == []


@pytest.mark.parametrize(
    ("library", "doors"), [("ray", {"engine"}), ("hydra", {"config"}), ("flwr", {"flower"})]
)
def test_each_large_library_has_one_door(library, doors):
    found = set()
    for name, path in MODULES.items():
        names = [
            n
            for n in ast.walk(ast.parse(path.read_text()))
            if isinstance(n, ast.Import | ast.ImportFrom)
        ]
        roots = {
            (each.module or "") if isinstance(each, ast.ImportFrom) else a.name
            for each in names
            for a in each.names
        }
        if any(root.split(".")[0] == library for root in roots):
            found.add(package_of(name).removeprefix("fedsim."))
    assert found == doors


def test_the_root_has_at_most_nine_modules_and_every_package_says_what_it_is_for():
    assert len(list(PACKAGE.glob("*.py"))) <= 9
    for package in PACKAGES:
        assert 5 <= len((PACKAGE / package / "README.md").read_text().splitlines()) <= 60, package


def test_readmes_of_packages_name_files_that_are_there():
    for package in PACKAGES:
        text = (PACKAGE / package / "README.md").read_text()
        for name in re.findall(r"`([a-z_/]+\.(?:py|pyi|c))`", text):
            places = (PACKAGE / package, PACKAGE, REPOSITORY)
            assert any((place / name).is_file() for place in places), (package, name)


def test_packages_export_what_users_need():
    code = """
from fedsim import Simulation, simulate
from fedsim.algorithms import FedAU, FedSpeed
from fedsim.data import Digits, Dirichlet
from fedsim.engine import InProcess, Ray
from fedsim.evaluation import Evaluation, Objective
from fedsim.network import OwnShare, Ring
from fedsim.participation import Bernoulli
from fedsim.protocols import Gossip
from fedsim.recording import Checkpoint
from fedsim.rounds import Failures
from fedsim.schedules import Linear
from fedsim.training import LocalTraining
import fedsim, importlib, pathlib
for init in pathlib.Path(fedsim.__file__).parent.glob("*/__init__.py"):
    package = importlib.import_module(f"fedsim.{init.parent.name}")
    if init.parent.name != "flower":
        for name in getattr(package, "__all__", []):
            getattr(package, name)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


def loaded(code: str) -> list[str]:
    """The modules that a new process has after running `code`."""
    command = [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=REPOSITORY
    ).stdout.split()


def test_importing_fedsim_or_the_in_process_engine_needs_neither_ray_nor_hydra():
    assert [
        name
        for name in loaded("import fedsim")
        if name.startswith(("fedsim.", "torch", "ray", "hydra"))
    ] == []
    found = loaded("import fedsim.simulation.simulation")
    assert not {"ray", "hydra", "flwr", "matplotlib", "sklearn"} & {
        name.split(".")[0] for name in found
    }


def test_what_a_simulation_imports_stays_small():
    """133 modules and 11,805 lines, of 140 columns, before there were rooms."""
    own = [
        name
        for name in loaded("from fedsim import Simulation; Simulation")
        if name.split(".")[0] == "fedsim"
    ]
    lines = sum(len(MODULES[name].read_text().splitlines()) for name in own if name in MODULES)
    assert len(own) <= 105 and lines <= 11300, (len(own), lines)


def test_the_reading_path_is_short_and_named_in_the_readme():
    """From `Simulation.run` to the steps of FedAU and FedSpeed."""
    text = (REPOSITORY / "README.md").read_text()
    section = text[text.index("**Reading path**") :].split("\n\n")[0]
    files = re.findall(r"`fedsim/([\w/]+\.py)`", section)
    assert 5 <= len(files) == len(set(files)) <= 8
    assert files[0] == "simulation/simulation.py" and {
        "algorithms/fedau.py",
        "algorithms/fedspeed.py",
    } < set(files)
    assert sum(len((PACKAGE / file).read_text().splitlines()) for file in files) <= 2000
