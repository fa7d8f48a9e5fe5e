"""Finding blocks, head and norms of a model by its structure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from torch import nn

from bsr_explorer.models.traced.calls import Trace
from bsr_explorer.naming import Naming

_LEAST = 3
"""Layers with parameters in a block, at least: one of two is a layer and its norm."""

_NORMS = ("norm", "batch_norm", "layer_norm", "group_norm", "rms_norm", "instance_norm")


def naming_by_structure(model: nn.Module, trace: Trace, head: tuple[str, ...] = ()) -> Naming:
    """How the parameters of a model are named, as far as its structure shows it.

    Blocks are the children of lists (``Sequential``, ``ModuleList``) that have several layers with parameters and no
    such list of their own, in the order in which they run. The head is the last layer with parameters that runs; the
    final norm, norms that run after the last block.

    Args:
        head: the module paths of the head, where they are known.
    """
    ran = order(trace)
    blocks = [path for path in _blocks(model) if path in ran]
    blocks.sort(key=ran.__getitem__)
    used = _used(trace)
    last = max((index for path, index in used if _within(path, blocks)), default=-1)
    first = min((index for path, index in used if _within(path, blocks)), default=len(trace.calls))
    head = head or (_layer(used[-1][0]),)
    above = [path for path, index in used if index > last and not _within(path, [*blocks, *head])]
    functions = {
        given.name: call.name for call in trace.calls for given in call.given if given.kind == "parameter"
    }
    norms = dict.fromkeys(_layer(path) for path in above if functions[path] in _NORMS)
    below = dict.fromkeys(path.split(".")[0] for path, index in used if index < first)
    inside = {name for name, module in model.named_modules() if next(module.children(), None) is None}
    embeddings = [path for path, _ in used if _layer(path) not in inside or path == _layer(path)]
    return Naming(
        blocks="",
        head=tuple(f"{path}." for path in head),
        final_norm=tuple(f"{path}." for path in norms),
        below=tuple(below),
        embeddings=tuple(dict.fromkeys(embeddings)),
        paths=tuple(blocks),
    )


def _blocks(model: nn.Module) -> Iterator[str]:
    """Paths of the blocks of a model, in the order in which they stand."""
    stages = {type(module) for module in model.modules() if any(_in_a_row(module).values())}
    return _blocks_in(model, "", stages)


def _blocks_in(module: nn.Module, path: str, stages: set[type]) -> Iterator[str]:
    listed = isinstance(module, _LISTS)
    row = _in_a_row(module) if type(module) in stages else {}
    for name, child in module.named_children():
        here = f"{path}.{name}" if path else name
        inner = list(_blocks_in(child, here, stages))
        if (
            len(inner) > 1
            or type(child) in stages
            or not (listed or name in row)
            or isinstance(child, _LISTS)
        ):
            yield from inner
        elif _layers(child) >= _LEAST:
            yield here


def heads_by_structure(naming: Naming, trace: Trace) -> tuple[int, ...]:
    """The heads of the attention of each block: the second dimension of four of its first softmax, or fused attention;
    0, if it has none."""
    found: dict[int, int] = {}
    for call in trace.calls:
        block, shape = naming.block_of(call.path), call.given[0].spec.shape if call.given else ()
        if block is not None and call.name in ("softmax", "scaled_dot_product_attention") and len(shape) == 4:
            found.setdefault(block, shape[1])
    return tuple(found.get(block, 0) for block in range(len(naming.paths)))


_LISTS = (nn.Sequential, nn.ModuleList)

_NUMBERED = re.compile(r"[a-z_]+\d+")


def _in_a_row(module: nn.Module) -> dict[str, bool]:
    """Children of a module that are numbered (``b1``, ``b2``) and large enough for blocks, by name; true, if there is
    another of the same class."""
    found = {
        name: child
        for name, child in module.named_children()
        if _NUMBERED.fullmatch(name) and not isinstance(child, _LISTS) and _layers(child) >= _LEAST
    }
    classes = Counter(type(child) for child in found.values())
    return {name: classes[type(child)] > 1 for name, child in found.items()}


def _layers(module: nn.Module) -> int:
    """How many of its modules have parameters of their own."""
    return sum(1 for each in module.modules() if next(each.parameters(recurse=False), None) is not None)


def order(trace: Trace) -> dict[str, int]:
    """When each module first runs: the paths in that order, with the number of the call."""
    ran: dict[str, int] = {}
    for index, call in enumerate(trace.calls):
        parts = call.path.split(".")
        for end in range(1, len(parts) + 1):
            ran.setdefault(".".join(parts[:end]), index)
    return ran


def _used(trace: Trace) -> list[tuple[str, int]]:
    """Each parameter with the last call that uses it, in the order of these."""
    last: dict[str, int] = {}
    for index, call in enumerate(trace.calls):
        for given in call.given:
            if given.kind == "parameter":
                last[given.name] = index
    return sorted(last.items(), key=lambda item: item[1])


def _within(path: str, modules: Any) -> bool:
    return any(path == each or path.startswith(f"{each}.") for each in modules)


def _layer(parameter: str) -> str:
    """The module that has a parameter; of the model's own, the parameter itself."""
    return parameter.rpartition(".")[0] or parameter
