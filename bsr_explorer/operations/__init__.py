"""Kinds of operations: what each computes, keeps and allocates. A kind stands in one file, and in ``KINDS``."""

from bsr_explorer.operations.kind import Kind
from bsr_explorer.operations.kinds import KINDS, kind_of, register, rule_of
from bsr_explorer.operations.rule import Rule

__all__ = ["KINDS", "Kind", "Rule", "kind_of", "register", "rule_of"]
