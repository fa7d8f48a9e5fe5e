"""What each block of a model does to an image, as its tape says it."""

from __future__ import annotations

from bsr_explorer.config import Config
from bsr_explorer.operations.kinds import kind_of
from bsr_explorer.prediction import tape_of
from bsr_explorer.prefix.continued import Stage


def stages_of(config: Config) -> list[Stage]:
    """What stands below the blocks, and each block, does to an image, as far as its output follows from it (how
    its tensors are stored does not matter), and whether it is frozen."""
    tape = tape_of(config)
    stages = len(tape.blocks) + 1
    above = 1 + max(place for place, op in enumerate(tape) if op.block is not None)
    does: list[list[str]] = [[] for _ in range(stages + 1)]
    gives, made = [""] * (stages + 1), dict[str, int]()
    frozen = [not config.how.moves] * (stages + 1)
    stage = 0
    for place, op in enumerate(tape):
        stage = stages if place >= above else stage if op.block is None else op.block + 1
        if not kind_of(op).inserted:
            does[stage].append(f"{op.name} {op.kind} {sorted(op.attrs.items())}")
        if any(name in tape.parameters and tape.parameters[name].trains for name in op.params.values()):
            frozen[stage] = False
        frozen[stage] &= op.steady
        for name in op.reads:
            # Between where it was made and here, it goes by what each stage hands on, or beside it.
            for passed in range(made.get(name, stage), stage):
                frozen[passed] &= name == gives[passed]
        made[op.writes], gives[stage] = stage, op.writes
    return [
        Stage("; ".join(does[number]), tape.tensors[gives[number]].shape[1:], frozen[number])
        for number in range(stages)
    ]
