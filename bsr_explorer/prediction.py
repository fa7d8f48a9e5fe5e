"""From a configuration to its predicted ledger. (Only reading an unknown model's geometry loads torch.)"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate

from bsr_explorer.config import COUNTS_FLAG, QUANTILES, Config
from bsr_explorer.cost import peak, published
from bsr_explorer.cost.bounds import unknown_of
from bsr_explorer.cost.holders import Level
from bsr_explorer.cost.peak import computed_rows, step_ledger
from bsr_explorer.cost.step import Recorded
from bsr_explorer.errors import UserError
from bsr_explorer.fullest import fullest
from bsr_explorer.ledger import Ledger, in_phases, ledger
from bsr_explorer.methods.base import TOKENS
from bsr_explorer.methods.composed import parts_of
from bsr_explorer.methods.moving import InStep
from bsr_explorer.methods.steps import Shape
from bsr_explorer.methods.steps import Steps as MethodSteps
from bsr_explorer.models import inputs
from bsr_explorer.models.architecture import architecture_of, geometry
from bsr_explorer.models.base import Geometry
from bsr_explorer.models.expression import name_in
from bsr_explorer.models.language import hugging_face
from bsr_explorer.models.lowering import lower
from bsr_explorer.tape import Tape


def geometry_of(config: Config) -> Geometry:
    """The geometry of a configuration's model at its image size."""
    found = geometry(config.model, config.image_size, config.num_classes)
    return architecture_of(config.model).with_tasks(found, config.tasks) if config.tasks else found


def size_of(config: Config) -> str:
    """The size of a configuration's images, or sequences, in words."""
    return f"{config.image_size} {architecture_of(config.model).takes.unit}"


def note_of(config: Config) -> str:
    """What is to be said beside the costs of a configuration's model; nothing, if there is nothing."""
    geometry = geometry_of(config)
    return architecture_of(config.model).note(geometry, config.how.drops(geometry.depth))


def tape_of(config: Config) -> Tape:
    """The tape of a configuration's forward and backward pass (of one micro-batch), rewritten by its method
    and lowered to its precision and device.

    Raises:
        UserError: the model, or what the method does to it, is not understood.
    """
    _check_causal(config)
    geometry = geometry_of(config)
    drops = config.how.drops(geometry.depth)
    tape = architecture_of(config.model).step_tape_in(
        geometry, config.micro_batch_size, config.attention, config.precision, config.place, drops
    )
    if config.unknown == "bound":
        tape = tape.bounded()
    return lower(config.how.rewrite(tape), config.precision, config.place)


def _check_causal(config: Config) -> None:
    """Refuse to drop or merge tokens of a language model, by whatever they would be chosen, and what cannot be seen of
    one.

    Raises:
        UserError: it says which part of the method.
    """
    if architecture_of(config.model).takes is not inputs.TOKENS:
        return
    for part in parts_of(config.how):
        if part.name in hugging_face.WITHOUT.get(name_in(config.model), ()):
            raise UserError(
                f"--method: {part.name} does not go with {config.model}: what its blocks are handed by name is held "
                "where it cannot be counted; leave it out, or choose --model llama_tiny"
            )
        alone = part.chooses == (TOKENS,)
        if alone or (TOKENS in part.chooses and part.at_inference is not None):
            raise UserError(
                "--method: a language model is causal, every token predicts the next one: it cannot drop or merge "
                f"tokens, as {part} does; leave that out of the method, or shorten --sequence-length"
            )


def plain_tape(model: str, image_size: int, num_classes: int) -> Tape:
    """The step of one image with every parameter training, as it runs in fp32 on the CPU."""
    return _plain(Config(model, image_size, num_classes, 1, method="full"), 1)


def published_tape(config: Config) -> Tape:
    """The tape that published accountings count: all images at once, every number of 4 bytes.

    Raises:
        UserError: they have no rule for models of this architecture.
    """
    _check_published(config)
    return config.how.rewrite(_plain(config, config.batch_size))


def is_published(config: Config) -> bool:
    """Whether published accountings have a rule for models of this architecture."""
    return architecture_of(config.model).published


def is_ruled(config: Config) -> bool:
    """Whether they have one for its method, too (see ``Method.ruled``)."""
    return is_published(config) and config.how.canonical(geometry_of(config).depth).ruled


def _check_published(config: Config, flag: str = COUNTS_FLAG) -> None:
    if not is_published(config):
        raise UserError(
            f"{flag}: published has no rule for {config.model}, which is not a plain vision transformer; choose peak "
            "or saved"
        )


def check_ruled(config: Config, counts: str, flag: str = COUNTS_FLAG) -> None:
    """Refuse to count a method, or a model, by the published accounting that has no rule for it.

    Args:
        flag: by which the accounting was chosen.

    Raises:
        UserError: with what to count instead.
    """
    if counts != "published":
        return
    _check_published(config, flag)
    if not is_ruled(config):
        raise UserError(
            f"{flag}: published has no rule for {config.method}: it counts blocks that train or "
            "do not, and nothing of how tensors are stored or which of a block's parameters train; choose peak or saved"
        )


def _plain(config: Config, images: int) -> Tape:
    """The step with every parameter training."""
    return architecture_of(config.model).step_tape(geometry_of(config), images, config.attention)


def predict(config: Config) -> Ledger:
    """What one training step of this configuration holds and computes, before it runs.

    Saved bytes, FLOPs, parameters, gradients and optimiser state are exact. ``peak_bytes`` is what torch's
    tensors hold at the fullest moment of a steady step; ``peak`` says when that is, and what it is made of.

    Where steps differ (phases, or another shape each): bytes are those of the step that holds most, FLOPs the mean over
    all steps.

    Raises:
        UserError: the model, the image size or the method do not go together.
    """
    return _predicted(config, architecture_of(config.model).identity(config.model))


@lru_cache(maxsize=64)
def _predicted(config: Config, identity: object) -> Ledger:
    """A trial asks for the same prediction several times over."""
    steps = steps_of(config)
    if steps.alike:
        return step_ledger(tape_of(steps.fullest[0]), config.setup)
    held = [step_ledger(tape_of(one), config.setup) for one in steps.fullest]
    computed = [_computed(one) for _, one in steps.expected]
    shares = [share for share, _ in steps.expected]
    return in_phases([*held, *computed], [*(0.0 for _ in held), *shares])


def _computed(config: Config) -> Ledger:
    """What one kind of step computes."""
    recorded, setup = Recorded.of(tape_of(config)), config.setup
    return ledger(computed_rows(recorded, setup), unknown=unknown_of(recorded, setup.micro_batches))


@dataclass(frozen=True)
class Steps:
    """The steps of a training as configurations of their own, of which each has one kind of step.

    Attributes:
        expected: with their shares of the steps, which add up to 1.
        fullest: of each phase, the one that holds most.
        known: how the shares are known, in words; nothing where all steps are alike, or follow from the method's
            phases.
    """

    expected: tuple[tuple[float, Config], ...]
    fullest: tuple[Config, ...]
    known: str = ""

    @property
    def alike(self) -> bool:
        """Whether there is one kind of step."""
        return {one for _, one in self.expected} == {*self.fullest} and len(self.fullest) == 1


def steps_of(config: Config) -> Steps:
    """The kinds of step that a training of this configuration goes through (see ``methods.moving``)."""
    expected: list[tuple[float, Config]] = []
    held: list[Config] = []
    known: dict[str, None] = {}
    if len(config.how.phases()) > 1:
        config.how.canonical(
            geometry_of(config).depth
        )  # refuses what the model does not have, by its own name
    for phase in config.how.phases():
        here = config.with_method(phase.method)
        steps = phase.method.steps(geometry_of(config).depth) if phase.method.moves else None
        if steps is None:
            expected.append((phase.share, here))
            held.append(here)
            continue
        known[steps.known] = None
        expected += ((phase.share * share, _in_step(here, shape)) for share, shape in steps.expected)
        held.append(_fullest(here, steps))
    return Steps(tuple(expected), tuple(held), "; ".join(known))


def _fullest(config: Config, steps: MethodSteps) -> Config:
    alike = all(part.stage <= 1 for part in parts_of(config.how))  # nothing is recomputed, or lies elsewhere

    def holds(tape: Tape) -> int:
        return step_ledger(tape, config.setup).peak_bytes

    return _in_step(config, fullest(steps, lambda shape: tape_of(_in_step(config, shape)), holds, alike))


def _in_step(config: Config, shape: Shape) -> Config:
    return config.with_method(InStep(config.how, shape))


@dataclass(frozen=True)
class Spread:
    """How the steps of a training differ. Of each figure the least, the mean and the most of the steps that are
    expected; the most bytes are those of the fullest that may occur.

    Attributes:
        known: how this is known, in words.
        shapes: kinds of step that stand for all.
    """

    known: str
    shapes: int
    saved_bytes: tuple[int, int, int]
    peak_bytes: tuple[int, int, int]
    train_flops: tuple[int, int, int]


def spread(config: Config) -> Spread | None:
    """How the steps of a training differ; None, if they are all alike."""
    steps = steps_of(config)
    if steps.alike:
        return None
    shares, kinds = [share for share, _ in steps.expected], [predict(one) for _, one in steps.expected]
    held = predict(config)

    def of(values: list[int], most: int = 0) -> tuple[int, int, int]:
        mean = sum(share * value for share, value in zip(shares, values, strict=True))
        return min(values), round(mean), max(*values, most)

    return Spread(
        steps.known or "one phase after another",
        len({one for _, one in steps.expected}),
        of([each.saved_bytes for each in kinds], held.saved_bytes),
        of([each.peak_bytes for each in kinds], held.peak_bytes),
        of([each.train_flops for each in kinds]),
    )


def over_time(config: Config) -> list[Level]:
    """How full memory is in one steady training step, operation by operation (micro-batches but the last are
    left out). The highest level is the predicted ``peak_bytes``.

    Raises:
        UserError: as ``predict``.
    """
    steps = steps_of(config).fullest
    most = max(steps, key=lambda each: predict(each).peak_bytes) if len(steps) > 1 else steps[0]
    return peak.over_time(Recorded.of(tape_of(most)), config.setup)


def tokens_by_block(config: Config) -> dict[int, tuple[int, int]]:
    """For each block (0-based) the tokens of an image that enter it and that leave it, class token and registers
    among them. (Nothing of a traced model, unless it can drop tokens: which of its tensors are tokens, nobody says.)"""
    tape = tape_of(config)
    if tape.traced and not tape.prefix_tokens:
        return {}
    sums = {tape.naming.path(block) for block in tape.blocks}
    seen: dict[int, list[int]] = {}
    for op in tape.backbone:
        if tape.traced and op.name not in sums:
            continue
        if op.block is not None and len(shape := tape.tensors[op.writes].shape) == 3:
            seen.setdefault(op.block, []).append(shape[1])
    return {block: (counts[0], counts[-1]) for block, counts in seen.items()}


def trained_blocks(config: Config) -> tuple[int, ...]:
    """The blocks (0-based) of which anything trains, in any phase."""
    tapes = [tape_of(config.with_method(phase.method)) for phase in config.how.phases()]
    parameters = [p for tape in tapes for p in tape.parameters.values()]
    return tuple(sorted({p.block for p in parameters if p.trains and p.block is not None}))


def differs(config: Config) -> bool:
    """Whether the steps of a training differ in what they hold."""
    return not steps_of(config).alike


def counted_bytes(config: Config, counts: str, quantile: float = 1.0) -> int:
    """What a budget counts of a configuration.

    Args:
        quantile: where steps differ, the share of the expected steps that do not exceed what is counted, as few bytes
            as there are; 1: those of the fullest step that may occur. For what a step holds itself (``peak`` and
            ``saved``).
        counts: ``peak`` (the fullest moment of a step), ``reserved`` (what a GPU's allocator takes from the device),
            ``device`` (the CUDA context too, of which there is an estimate), ``saved`` (activations for backward) or
            ``published`` (the BSR paper's own rule).

    Raises:
        UserError: it counts what only a GPU has, and the device is none; or see ``published_tape``.
    """
    assert counts in ("peak", "reserved", "device", "saved", "published"), counts
    config.check_counts(counts)
    if counts == "published":
        return published.total_bytes(published_tape(config))
    if quantile < 1 and differs(config):
        assert counts in QUANTILES, counts
        held = sorted((_held(predict(one), counts), share) for share, one in steps_of(config).expected)
        shares = accumulate(share for _, share in held)
        return next(
            size for (size, _), so_far in zip(held, shares, strict=True) if so_far > quantile - _ROUNDING
        )
    return _held(predict(config), counts)


_ROUNDING = 1e-9
"""By how much shares that are added up may be off."""


def _held(predicted: Ledger, counts: str) -> int:
    return {
        "saved": predicted.saved_bytes,
        "reserved": predicted.reserved_bytes,
        "device": predicted.device_bytes,
        "peak": predicted.peak_bytes,
    }[counts]


def largest_batch(config: Config, budget_bytes: int, counts: str = "peak", quantile: float = 1.0) -> int:
    """The most images a step that fit a budget; 0 if not even the fewest do (one, or one a micro-batch).

    The method, micro-batches and everything else stay as the configuration says. (Reserved memory does not quite grow
    with the batch: of it, this is the one at whose next the budget is exceeded, and a larger one may fit again.)

    Args:
        quantile: see ``counted_bytes``.
    """

    def size(parts: int) -> int:
        return counted_bytes(replace(config, batch_size=parts * config.micro_batches), counts, quantile)

    low, least = 1, size(1)
    if least > budget_bytes:
        return 0
    high, most = 2, size(2)
    while most <= budget_bytes:  # memory is nearly linear in the batch: go where the line meets the budget
        each = max(1, (most - least) // (high - low))
        low, least = high, most
        if low >= MOST_IMAGES:
            return low * config.micro_batches
        high = min(low + 1 + (budget_bytes - least) // each, 2 * MOST_IMAGES)
        most = size(high)
    while high - low > 1:
        guess = low + (high - low) * (budget_bytes - least) // max(1, most - least)
        middle = min(max(guess, low + 1), high - 1)
        between = size(middle)
        if between <= budget_bytes:
            low, least = middle, between
        else:
            high, most = middle, between
    return low * config.micro_batches


MOST_IMAGES = 2**24
"""A batch that is as good as unlimited."""
