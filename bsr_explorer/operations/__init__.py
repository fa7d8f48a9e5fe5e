"""Kinds of operations, one table: shapes, what autograd keeps, FLOPs, and what is allocated on the way."""
