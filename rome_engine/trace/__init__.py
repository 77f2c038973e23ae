"""Causal tracing: which hidden states carry a fact."""

from rome_engine.trace.result import KINDS, Trace
from rome_engine.trace.run import trace, trace_kinds

__all__ = ["KINDS", "Trace", "trace", "trace_kinds"]
