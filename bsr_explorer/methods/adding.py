"""Methods that bring parameters of their own: these and the head train, and nothing else."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

from bsr_explorer.errors import UserError, unknown
from bsr_explorer.methods.base import PARAMETERS, Method
from bsr_explorer.naming import blocks_of, naming_of
from bsr_explorer.tape import Op, Tape

if TYPE_CHECKING:
    from torch import nn

LAYERS = {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
"""The linear layers of a block, by the names that ``on=`` takes, with their paths within the block."""

BEFORE_HEAD = "head_drop"
"""The module of timm's vision transformers that is called between pooling and the head. (A place for dropout, of which
there is none.)"""


@dataclass(frozen=True, eq=False, repr=False)
class Adding(Method):
    """A method whose own parameters train, and the head; all that the model had before is frozen."""

    chooses: ClassVar[tuple[str, ...]] = (PARAMETERS,)

    @abstractmethod
    def is_own(self, parameter: str) -> bool:
        """Whether a state-dict name is that of a parameter that the method brings, and that trains."""

    def brings(self, parameter: str) -> bool:
        """Whether the method brings it, though it may be frozen."""
        return self.is_own(parameter)

    def train_own(self, tape: Tape) -> Tape:
        """The tape with exactly its own parameters and the head training, in the order in which a model has them (which
        an optimiser's step goes by): what it brings behind the others of its block, before all blocks, or, within
        ``BEFORE_HEAD``, before the head.
        """
        order = {name: place for place, name in enumerate(tape.parameters)}
        last = {p.block: order[name] for name, p in tape.parameters.items() if not self.brings(name)}
        head = min((order[name] for name in order if tape.naming.is_head(name)), default=-1)

        def place(name: str) -> tuple[int, int]:
            block = tape.parameters[name].block
            if not self.brings(name):
                return order[name], 0
            if name.startswith(f"{BEFORE_HEAD}."):
                return head - 1, order[name]
            return (-1, order[name]) if block is None else (last[block], order[name])

        parameters = {name: tape.parameters[name] for name in sorted(tape.parameters, key=place)}
        return replace(tape, parameters=parameters).train_only(
            lambda p: self.is_own(p.name) or tape.naming.is_head(p.name)
        )

    def train_own_in(self, model: nn.Module) -> nn.Module:
        """The same of a model, in place."""
        naming = naming_of(model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(self.is_own(name) or naming.is_head(name))
        return model

    @property
    def at_inference(self) -> Method | None:
        """Nothing: what it brings is merged."""
        return None


def whole_number(method: Method, argument: str, least: int = 1) -> None:
    """Refuse an argument that must be a whole number and is not.

    Raises:
        UserError: with the argument and its value.
    """
    value = getattr(method, argument)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(
            f"--method: {method.name}({argument}={value!r}): {argument} must be a whole number of at least {least}"
        )


def checked_layers(method: str, on: object) -> tuple[str, ...]:
    """Names of linear layers, in the order of ``LAYERS``.

    Args:
        on: one name, or several.

    Raises:
        UserError: there is no such layer, none is named, or one is named twice.
    """
    names: list[Any] = [on] if isinstance(on, str) else list(on) if isinstance(on, (tuple, list)) else []
    if not names:
        raise UserError(
            f"--method: {method}(on={on!r}): on must name at least one layer of {', '.join(LAYERS)}, such as "
            "on=('qkv',)"
        )
    for name in names:
        if name not in LAYERS:
            raise unknown(f"--method: {method}(on=…)", name, LAYERS)
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"--method: {method}(on=…): {twice[0]} stands twice; name each layer once")
    return tuple(name for name in LAYERS if name in names)


def linears(method: Method, tape: Tape, on: tuple[str, ...]) -> Iterator[Op]:
    """The operations of chosen linear layers of all blocks, in order.

    Raises:
        UserError: blocks of this architecture do not have one of them.
    """
    by_name = {op.name: op for op in tape if op.kind == "linear"}
    for block in tape.blocks:
        for name in on:
            path = f"{tape.naming.path(block)}.{LAYERS[name]}"
            if path not in by_name:
                raise UserError(
                    f"--method: {method} needs the layer {LAYERS[name]} of each block, and models of the architecture "
                    f"{tape.architecture} have none of this name; leave it out"
                )
            yield by_name[path]


def linears_in(model: nn.Module, on: tuple[str, ...]) -> Iterator[nn.Linear]:
    """The same layers of a model."""
    for block in blocks_of(model):
        for name in on:
            yield cast("nn.Linear", block.get_submodule(LAYERS[name]))


def check_rank(method: Method, layer: str, r: int, most: int, of: str) -> None:
    """Refuse a rank, or a number of rows or columns, that a matrix does not have.

    Args:
        layer: path of its layer.
        most: what it has.
        of: of what, in words.

    Raises:
        UserError: with what would be allowed.
    """
    if r > most:
        raise UserError(f"--method: {method}: {layer} has {of}, so r must be 1 to {most}")
