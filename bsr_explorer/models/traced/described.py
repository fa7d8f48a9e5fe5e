"""A model of the user's own: a function that builds it, or a file that says how a model is to be read.

    model = "my_package:build"        # or the name of a model of timm; or, with arguments, 'my_package:build(width=64)'
    blocks = ["stages.*.blocks.*"]    # module paths; * stands for one part of a path
    head = ["classifier"]
    final_norm = ["norm"]
    loss = "my_package:loss"          # of logits (B, classes) and labels (B,); left out: cross-entropy
    labels = "pixels"                 # each pixel has a label, (B, S, S), and not each image

What is left out is found by structure.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bsr_explorer.errors import UserError, nearest, one_line, unknown
from bsr_explorer.naming import Naming

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Described:
    """How a model is to be built and read. Paths are of modules; ``None``: by structure.

    Attributes:
        model: ``package.module:function``, with arguments or without, or a name of timm.
        labels: one of ``models.inputs.LABELS``.
    """

    model: str
    blocks: tuple[str, ...] | None = None
    head: tuple[str, ...] | None = None
    final_norm: tuple[str, ...] | None = None
    below: tuple[str, ...] | None = None
    embeddings: tuple[str, ...] | None = None
    loss: str | None = None
    labels: str | None = None

    def corrected(self, naming: Naming, model: nn.Module, ran: Sequence[str]) -> Naming:
        """What was found by structure, with what is said here instead.

        Args:
            ran: paths of the modules in the order in which they run.

        Raises:
            UserError: a path that is no module of the model, or that never runs.
        """
        there = [path for path, _ in model.named_modules() if path]
        changes: dict[str, Any] = {}
        if self.blocks is not None:
            found = _matching("blocks", self.blocks, there)
            silent = [path for path in found if path not in ran]
            if silent:
                raise UserError(f"--model: blocks: {silent[0]} is not called when the model runs")
            changes["paths"] = tuple(sorted(found, key=list(ran).index))
        for key in ("head", "final_norm"):
            if (said := getattr(self, key)) is not None:
                changes[key] = tuple(f"{path}." for path in _matching(key, said, there))
        for key in ("below", "embeddings"):
            if (said := getattr(self, key)) is not None:
                parameters = [name for name, _ in model.named_parameters()]
                changes[key] = tuple(_matching(key, said, [*there, *parameters]))
        return replace(naming, **changes)


def _matching(key: str, patterns: Iterable[str], there: Sequence[str]) -> list[str]:
    found: dict[str, None] = {}
    for pattern in patterns:
        wanted = re.compile(
            r"\.".join("[^.]+" if part == "*" else re.escape(part) for part in pattern.split("."))
        )
        matching = [path for path in there if wanted.fullmatch(path)]
        if not matching:
            close = nearest(pattern, there)
            hint = f"; nearest are {', '.join(close)}" if close else ""
            raise UserError(f"--model: {key}: the model has no module {pattern!r}{hint}")
        found.update(dict.fromkeys(matching))
    return list(found)


def is_described(model: str) -> bool:
    """Whether a name is not one of timm's: a function, or a file."""
    return model.endswith(".toml") or _FUNCTION.fullmatch(model) is not None


_FUNCTION = re.compile(r"([A-Za-z_][\w.]*:[A-Za-z_][\w.]*)(\(.*\))?")


def _with_arguments(name: str) -> tuple[str, dict[str, Any]]:
    """A function's name, and the arguments that are written behind it, as Python literals.

    Raises:
        UserError: they are written otherwise.
    """
    found = _FUNCTION.fullmatch(name)
    if found is None or found[2] is None:
        return name, {}
    try:
        call = ast.parse(f"f{found[2]}", mode="eval").body
        assert isinstance(call, ast.Call) and not call.args
        return found[1], {str(each.arg): ast.literal_eval(each.value) for each in call.keywords if each.arg}
    except (SyntaxError, ValueError, AssertionError):
        raise UserError(
            f"--model: the arguments of {name} cannot be read; write each with its name and a plain value, as in "
            f'{found[1]}(width=64, kind="small")'
        ) from None


def described(model: str) -> Described:
    """What the name of a model stands for.

    Raises:
        UserError: the file cannot be read, or says something else.
    """
    if not model.endswith(".toml"):
        return Described(model)
    path = Path(model)
    try:
        said = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--model: {model} cannot be read: {error.strerror or error}") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"--model: {model}: not valid TOML: {error}") from None
    allowed = [field.name for field in fields(Described)]
    for key, value in said.items():
        if key not in allowed:
            raise unknown(f"--model: {model}", key, allowed)
        whole = isinstance(value, str) if key in _TEXTS else _are_paths(value)
        if not whole:
            kind = "a text" if key in _TEXTS else "a list of module paths"
            raise UserError(f"--model: {model}: {key} must be {kind}, not {value!r}")
    if "model" not in said:
        raise UserError(f'--model: {model} does not say which: add model = "package.module:function"')
    told: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in said.items()
    }
    return Described(**told)


_TEXTS = ("model", "loss", "labels")


def _are_paths(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def function(name: str, key: str = "--model") -> Callable[..., Any]:
    """A function by ``package.module:function``; what lies in the working directory may be imported.

    Raises:
        UserError: there is no such module or function.
    """
    module, _, attribute = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(import_module(module), attribute)
    except AttributeError:
        names = [each for each in vars(sys.modules[module]) if not each.startswith("_")]
        close = nearest(attribute, names)
        hint = f"; nearest are {', '.join(close)}" if close else ""
        raise UserError(f"{key}: the module {module} has no {attribute!r}{hint}") from None
    except ImportError as error:
        raise UserError(f"{key}: the module of {name!r} cannot be imported: {one_line(error)}") from None
    except Exception as error:
        raise UserError(f"{key}: importing {module} fails: {one_line(error)}") from error
    if not callable(found):
        raise UserError(f"{key}: {name} is no function, but a {type(found).__name__}")
    wanted: Callable[..., Any] = found
    return wanted


def build_by(name: str, image_size: int, num_classes: int) -> nn.Module:
    """Call a function with ``image_size`` and ``num_classes``, as far as it takes them, and with the arguments that
    are written behind its name.

    Raises:
        UserError: it fails, or returns no module.
    """
    from torch import nn

    name, arguments = _with_arguments(name)
    build = function(name)
    offered = {"image_size": image_size, "num_classes": num_classes}
    try:
        takes = inspect.signature(build).parameters
    except (TypeError, ValueError):
        takes = {}  # type: ignore[assignment]
    any_name = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in takes.values())
    given = {
        key: value for key, value in offered.items() if key in takes or (any_name and key == "num_classes")
    } | arguments
    try:
        built = build(**given)
    except UserError:
        raise
    except Exception as error:
        said = ", ".join(f"{key}={value!r}" for key, value in given.items())
        raise UserError(f"--model: {name}({said}) fails: {one_line(error)}") from error
    if not isinstance(built, nn.Module):
        raise UserError(f"--model: {name} returns a {type(built).__name__}; it must return a torch.nn.Module")
    return built
