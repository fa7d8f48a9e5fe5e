"""A part of a step, predicted and measured."""

from __future__ import annotations

from tests.cost.conftest import both as both
from tests.cost.conftest import passes as passes
