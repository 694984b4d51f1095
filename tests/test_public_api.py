"""What is public is declared, explained, shown at work, and depends on what it may."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import drama_torchrl

REPOSITORY = Path(__file__).parents[1]
NAMESPACES = ("modules", "data", "envs", "objectives", "policies")
# These stand in front of other modules, as packages do.
FRONTS = {"drama_torchrl.config"}


def import_all() -> dict[str, ModuleType]:
    found = pkgutil.walk_packages(drama_torchrl.__path__, "drama_torchrl.")
    return {info.name: importlib.import_module(info.name) for info in found}


MODULES = import_all()


def source_of(module: ModuleType) -> ast.Module:
    return ast.parse(inspect.getsource(module))


def is_front(module: ModuleType) -> bool:
    return hasattr(module, "__path__") or module.__name__ in FRONTS


def defined_in(module: ModuleType) -> set[str]:
    """Public functions, classes, constants and type aliases that a module defines."""
    names: set[str] = set()
    for node in source_of(module).body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Assign(targets=targets):
                names |= {
                    target.id for target in targets if isinstance(target, ast.Name)
                }
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
    return {name for name in names if not name.startswith("_")}


def passed_on_by(module: ModuleType) -> set[str]:
    """Public names that a module imports from this package."""
    return {
        alias.asname or alias.name
        for node in source_of(module).body
        if isinstance(node, ast.ImportFrom) and node.module
        if node.module.startswith("drama_torchrl")
        for alias in node.names
    }


def public_objects(module: ModuleType) -> Iterator[tuple[str, Any]]:
    for name in sorted(getattr(module, "__all__", defined_in(module))):
        thing = getattr(module, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            yield name, thing


class TestNames:
    @pytest.mark.parametrize("name", MODULES)
    def test_all_lists_what_is_public(self, name: str) -> None:
        module = MODULES[name]
        declared = getattr(module, "__all__", None)
        assert declared is not None, f"{name} expects an __all__"
        assert len(set(declared)) == len(declared)
        passed_on = set(declared) & passed_on_by(module) if is_front(module) else set()
        assert set(declared) - passed_on == defined_in(module)

    @pytest.mark.parametrize("name", [*NAMESPACES, "record"])
    def test_a_package_exports_what_it_imports(self, name: str) -> None:
        module = MODULES[f"drama_torchrl.{name}"]
        assert set(module.__all__) == passed_on_by(module)


class TestDocumentation:
    @pytest.mark.parametrize("name", MODULES)
    def test_every_module_and_public_object_is_explained(self, name: str) -> None:
        module = MODULES[name]
        assert module.__doc__
        unexplained = [
            each for each, thing in public_objects(module) if not thing.__doc__
        ]
        assert unexplained == []

    @pytest.mark.parametrize("name", NAMESPACES)
    def test_every_exported_object_has_an_example(self, name: str) -> None:
        module = MODULES[f"drama_torchrl.{name}"]
        bare = [
            each
            for each, thing in public_objects(module)
            # What a protocol describes is shown by its implementations.
            if not getattr(thing, "_is_protocol", False)
            and ">>>" not in (thing.__doc__ or "")
        ]
        assert bare == []

    def test_the_world_model_is_made_in_an_example(self) -> None:
        doc = MODULES["drama_torchrl.factories"].make_world_model.__doc__
        assert ">>>" in doc


def parameters(thing: Callable[..., Any]) -> str:
    """A signature without annotations and results."""
    # TorchRL's metaclasses hide the signatures of classes behind (*args, **kwargs).
    signature = inspect.signature(thing.__init__ if inspect.isclass(thing) else thing)
    bare = [
        each.replace(annotation=inspect.Parameter.empty)
        for each in signature.parameters.values()
        if each.name != "self"
    ]
    empty = inspect.Signature.empty
    return str(signature.replace(parameters=bare, return_annotation=empty))


FIXED_NAMES = {
    "modules": """PixelEncoder PixelDecoder Mamba2 WorldModel
        RewardHead TerminationHead Actor Critic""",
    "data": "VisitCounts DFSSampler DFSImaginationSampler",
    "envs": "make_atari_env ImaginationEnv",
    "objectives": "WorldModelLoss ActorLoss CriticLoss",
    "factories": "make_world_model",
    "config": "load_config DramaConfig",
}

FIXED_SIGNATURES = {
    "data.VisitCounts": "()",
    "data.DFSSampler": "(counts, *, window, temperature=10.0)",
    "data.DFSImaginationSampler": ("(counts, *, window, ratio=64.0, temperature=10.0)"),
    "factories.make_world_model": "(config, num_actions)",
    "config.load_config": "(preset='xs', overrides=())",
    "modules.Mamba2.forward": "(x, state=None)",
    "modules.Mamba2.step": "(x, state)",
    "modules.Mamba2.initial_state": "(batch_size)",
}


def look_up(path: str) -> Any:
    where, _, rest = path.partition(".")
    thing: Any = MODULES[f"drama_torchrl.{where}"]
    for name in rest.split("."):
        thing = getattr(thing, name)
    return thing


class TestFixedNames:
    @pytest.mark.parametrize("module", FIXED_NAMES)
    def test_they_are_where_they_were_promised(self, module: str) -> None:
        for name in FIXED_NAMES[module].split():
            assert name in MODULES[f"drama_torchrl.{module}"].__all__
            assert callable(look_up(f"{module}.{name}"))

    @pytest.mark.parametrize("path", FIXED_SIGNATURES)
    def test_they_take_what_was_promised(self, path: str) -> None:
        # Further optional keywords do not break a caller.
        given = parameters(look_up(path)).removesuffix(")")
        assert given.startswith(FIXED_SIGNATURES[path].removesuffix(")"))

    def test_an_environment_takes_a_game_and_a_seed(self) -> None:
        made = parameters(look_up("envs.make_atari_env"))
        assert made.startswith("(game, *, seed, ")

    @pytest.mark.parametrize("method", ["encode", "observe", "step", "decode"])
    def test_the_world_model_can(self, method: str) -> None:
        assert callable(getattr(look_up("modules.WorldModel"), method))


def imports_of(path: Path) -> set[str]:
    """Modules of this package that a file imports, also inside its functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} expects absolute imports"
            assert node.module
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name in MODULES}


IMPORTS = {
    name: imports_of(Path(str(module.__file__))) - {name}
    for name, module in MODULES.items()
}


def within(name: str, *parts: str) -> bool:
    roots = [f"drama_torchrl.{part}" for part in parts]
    return any(name == root or name.startswith(f"{root}.") for root in roots)


COMPONENTS = NAMESPACES
OPTIONS = ("config", "options", "limits")
MAY_READ_OPTIONS = (
    *OPTIONS,
    *(
        "factories",
        "estimate",
        "evaluation",
        "record",
        "agent",
        "learner",
        "report",
        "sweep",
    ),
    "gridworld.options",
)


class TestDependencies:
    @pytest.mark.parametrize("name", IMPORTS)
    def test_options_are_known_to_the_factories_and_above_alone(
        self, name: str
    ) -> None:
        if not within(name, *MAY_READ_OPTIONS):
            assert [each for each in IMPORTS[name] if within(each, *OPTIONS)] == []

    @pytest.mark.parametrize("name", [n for n in IMPORTS if within(n, *COMPONENTS)])
    def test_components_know_nothing_of_what_is_built_from_them(
        self, name: str
    ) -> None:
        known = (*COMPONENTS, "kernels", "parallel", "precision", "streams")
        assert [each for each in IMPORTS[name] if not within(each, *known)] == []

    @pytest.mark.parametrize("name", [n for n in IMPORTS if within(n, "modules")])
    def test_networks_know_networks_and_kernels_alone(self, name: str) -> None:
        known = ("modules", "kernels", "parallel")
        assert [each for each in IMPORTS[name] if not within(each, *known)] == []

    @pytest.mark.parametrize("name", [n for n in IMPORTS if within(n, "kernels")])
    def test_kernels_know_kernels_alone(self, name: str) -> None:
        known = ("kernels", "parallel")
        assert [each for each in IMPORTS[name] if not within(each, *known)] == []

    @pytest.mark.parametrize("name", [n for n in IMPORTS if within(n, "data")])
    def test_replay_knows_replay_and_kernels_alone(self, name: str) -> None:
        known = ("data", "kernels", "parallel")
        assert [each for each in IMPORTS[name] if not within(each, *known)] == []

    @pytest.mark.parametrize("name", [n for n in IMPORTS if within(n, "parallel")])
    def test_what_processes_exchange_hangs_on_nothing(self, name: str) -> None:
        assert [each for each in IMPORTS[name] if not within(each, "parallel")] == []

    def test_nothing_depends_on_itself(self) -> None:
        order = list(TopologicalSorter(IMPORTS).static_order())
        assert order.index("drama_torchrl.modules.ssd") < order.index(
            "drama_torchrl.factories"
        )

    def test_nothing_imports_the_recipes(self) -> None:
        for module in MODULES.values():
            assert "recipes" not in {
                name.partition(".")[0]
                for node in ast.walk(source_of(module))
                if isinstance(node, ast.ImportFrom) and node.module
                for name in [node.module]
            }


def documented_keys() -> set[str]:
    text = (REPOSITORY / "ARCHITECTURE.md").read_text()
    section = text.split("\n## Keys\n")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line[:3] == "| `"]
    return {key for cell in cells for key in cell.split("`")[1::2]}


def written(key: str | tuple[str, ...]) -> str:
    """A key as the documentation writes it: ``pixels``, ``("next", "reward")``."""
    if isinstance(key, str):
        return key
    quoted = ", ".join(f'"{part}"' for part in key)
    return f"({quoted})"


KEYED = {
    f"{namespace}.{name}": thing
    for namespace in NAMESPACES
    for name, thing in public_objects(MODULES[f"drama_torchrl.{namespace}"])
    if is_dataclass(getattr(thing, "_AcceptedKeys", None))
}


class TestKeys:
    def test_the_known_ones_are_found(self) -> None:
        assert set(KEYED) >= {
            "modules.WorldModel",
            "objectives.WorldModelLoss",
            "objectives.ActorLoss",
            "objectives.CriticLoss",
            "objectives.LambdaReturns",
        }

    @pytest.mark.parametrize("name", KEYED)
    def test_every_key_is_in_the_glossary(self, name: str) -> None:
        defaults = vars(KEYED[name]._AcceptedKeys())
        used = {written(key) for key in defaults.values()}
        assert used
        assert used - documented_keys() == set()
