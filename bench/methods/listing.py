"""What ``bench methods`` lists. A method of this package is not imported for it, and torch with it.

Its name, family and summary stand at the head of its class, from where they are read as text.
"""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import NamedTuple

import bench
from bench.errors import BenchError
from bench.merging.registry import MERGERS, merging_name
from bench.methods import registry
from bench.methods.base import Family
from bench.registry import BUILT_IN, Problem

__all__ = ["Listing", "listings"]


class Listing(NamedTuple):
    """A method in one line.

    Attributes:
        name, family: as declared by the class.
        summary: first line of the class's docstring.
    """

    name: str
    family: Family
    summary: str


def listings() -> tuple[list[Listing], list[Problem]]:
    """Every method but RecBole's further models, sorted by name, and the plugins that cannot be used.

    Plugins are imported; what one of them lacks is a problem of that one.
    """
    merges = {merging_name(merger): merger for merger in MERGERS}
    found, problems = [], list(registry.problems())
    for name in registry.names(recbole=False):
        origin = registry.METHODS.origin(name)
        try:
            if origin != BUILT_IN:
                info = registry.describe(name)
                found.append(Listing(name, info.family, info.summary))
            elif name in merges:
                options = MERGERS.load(merges[name])
                found.append(Listing(name, Family.MERGING, _first_line(options.__doc__)))
            else:
                found.append(_head(name, registry.METHODS.target(name)))
        except BenchError as error:
            problems.append(Problem(name, origin, str(error)))
    return found, problems


def _head(name: str, target: str) -> Listing:
    """Read the class that ``module:Class`` names, which states ``family = Family.MEMBER`` itself."""
    module, _, wanted = target.partition(":")
    file = Path(bench.__file__).parent.joinpath(*module.split(".")[1:]).with_suffix(".py")
    body = ast.parse(file.read_bytes()).body
    (cls,) = (node for node in body if isinstance(node, ast.ClassDef) and node.name == wanted)
    (family,) = (
        node.value.attr
        for node in cls.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and ast.unparse(node).startswith("family")
        and isinstance(node.value, ast.Attribute)
    )
    return Listing(name, Family[family], _first_line(ast.get_docstring(cls)))


def _first_line(docstring: str | None) -> str:
    return inspect.cleandoc(docstring or "").split("\n", 1)[0]
