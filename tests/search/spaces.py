"""Spaces that several tests look at, and what is known of them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from bsr_explorer.methods import Bsr, Method, parse_method
from bsr_explorer.prediction import counted_bytes
from bsr_explorer.search.space import Candidate, Space
from bsr_explorer.store.study import SpaceSpec, Study

MakeStudy = Callable[..., Study]


SEVERAL = (8, 2, 4)
"""Batch sizes; that of the configuration of the study, 4, is not the first of them."""


SMALL = SpaceSpec(("linear", "bsr(blocks=(1,), keep={1: 0.5})", "full"), 2, (1, 2), (1.0, 0.5), (True, False))


def enumerated(space: Space) -> dict[str, int]:
    """Bytes by key of everything in the space, one configuration after the other."""
    spec, depth, found = space.study.space, space.geometry.depth, {}
    subsets = [s for size in range(spec.max_blocks + 1) for s in itertools.combinations(range(depth), size)]
    rates = list(itertools.product(spec.keep, repeat=len(spec.drop_at)))
    methods = [parse_method(text) for text in spec.start]
    methods += [
        Bsr(blocks, dict(zip(spec.drop_at, keep, strict=True)), fuse)
        for blocks, keep, fuse in itertools.product(subsets, rates, spec.fuse)
    ]
    for method, size in itertools.product(methods, spec.batch_sizes or [space.study.config.batch_size]):
        config = replace(space.study.config, method=method, batch_size=size)
        found[config.key(depth)] = counted_bytes(config, space.study.counts)
    return found


def same(left: Candidate, right: Candidate) -> bool:
    """Whether two candidates are one, however their methods are written."""
    return replace(left, config=right.config) == right


SPEC = SpaceSpec(
    ("linear", "full"),
    2,
    (1, 2),
    (1.0, 0.5),
    families=("bsr", "bsr+mesa", "last+backrazor(ratio=0.5)", "bitfit"),
    axes={"mesa": {"bits": [8, 4], "faithful": [True]}},
)


def spaced(make_study: MakeStudy, *families: str, **more: Any) -> Space:
    """A space of these families, all of which fit."""
    spec = SpaceSpec((), 1, (1,), (1.0, 0.5), families=families, **more)
    return Space(make_study(space=spec, budget="1GB"))


def parts(space: Space, family: int) -> list[Method]:
    """All methods of one of a space's families."""
    members = space.members[family]
    return [members.method(member) for member in range(members.bytes.shape[1])]


def sizes_of(candidates: Iterable[Candidate]) -> Counter[int]:
    return Counter(candidate.config.batch_size for candidate in candidates)
