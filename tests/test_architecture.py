"""Who may import whom. The table is the architecture; a change here is a change of design."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = {"handler", "gateway", "training", "launcher", "bench", "examples", "tests"}


@dataclass(frozen=True)
class Rule:
    """What the files of `of` (less those of a longer rule) may import of ours, and of others."""

    of: str
    ours: tuple[str, ...]
    others: tuple[str, ...] | None = ()
    """None: any; otherwise the only packages beside the standard library."""
    never: tuple[str, ...] = ()


RULES = [
    Rule("handler/contract", ours=("handler.contract",)),
    Rule(
        "handler/scheduler.py",
        ours=("handler.contract", "handler.drafting", "handler.engines.base", "handler.sampling"),
    ),
    Rule("handler/engine_thread.py", ours=("handler.contract", "handler.scheduler")),
    Rule("handler/torch_stub.py", ours=()),
    Rule("handler/drafting.py", ours=()),
    Rule("handler/sampling.py", ours=("handler.contract",), others=("numpy",)),
    Rule("handler/tokenization.py", ours=("handler.engines.base",), others=("tokenizers",)),
    Rule("handler/engines", ours=("handler.contract", "handler.engines"), others=("numpy",)),
    Rule("handler/engines/onnx_engine.py", ours=("handler.engines",), others=("numpy", "onnxruntime")),
    Rule("handler/engines/torch_engine.py", ours=("handler.engines",), others=("numpy", "torch")),
    Rule("handler/engines/torch_weights.py", ours=("handler.engines",), others=("torch", "safetensors")),
    Rule("handler/engines/static_step.py", ours=("handler.engines",), others=("numpy", "torch")),
    Rule("handler/engines/t5_layers.py", ours=("handler.engines.torch_weights",), others=("torch",)),
    Rule("handler/engines/row_blocks.py", ours=(), others=("torch",)),
    Rule("handler/godel_handler.py", ours=("handler",), others=("ts",)),
    Rule("gateway", ours=("gateway", "handler.contract"), others=None, never=("torch", "transformers", "numpy", "ts")),
    Rule(
        "training",
        # Scheduler and tokenization: a stage is evaluated by what serves it, not by a second loop of its own.
        ours=("training", "handler.contract", "handler.engines", "handler.scheduler", "handler.tokenization"),
        others=None,
        never=("ts", "fastapi"),
    ),
    # The launcher stands above both sides and knows of each only the settings and the archive.
    Rule(
        "launcher",
        ours=("launcher", "gateway.settings", "handler.contract"),
        others=None,
        never=("torch", "transformers", "fastapi"),
    ),
]


def files_of(rule: Rule) -> list[Path]:
    place = ROOT / rule.of
    found = [place] if place.is_file() else sorted(place.rglob("*.py"))
    narrower = [ROOT / other.of for other in RULES if other.of.startswith(rule.of) and other.of != rule.of]
    return [file for file in found if not any(file == place or place in file.parents for place in narrower)]


def imports_of(file: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno} imports relatively: write the whole name"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.of)
def test_imports_stay_within_the_table(rule: Rule) -> None:
    files = files_of(rule)
    assert files, f"{rule.of} has no Python file: mend the table"
    offences = []
    for file in files:
        for line, name in imports_of(file):
            top = name.split(".")[0]
            if top in OURS:
                allowed = within(name, rule.ours)
            elif top in sys.stdlib_module_names:
                allowed = True
            else:
                allowed = (rule.others is None or within(name, rule.others)) and not within(name, rule.never)
            if not allowed:
                offences.append(f"{file.relative_to(ROOT)}:{line} imports {name}")
    assert offences == []


def test_the_handler_module_defines_exactly_one_class() -> None:
    tree = ast.parse((ROOT / "handler/godel_handler.py").read_text(encoding="utf-8"))
    assert len([node for node in tree.body if isinstance(node, ast.ClassDef)]) == 1


def test_no_file_is_called_by_what_it_is_not() -> None:
    vague = {"utils", "util", "helpers", "helper", "misc"}
    assert [file for top in OURS for file in (ROOT / top).rglob("*.py") if file.stem in vague] == []
