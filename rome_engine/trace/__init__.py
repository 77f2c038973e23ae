"""Causal tracing: which hidden states carry a fact."""

from rome_engine.trace.plan import CLASSIC, KINDS
from rome_engine.trace.result import Trace
from rome_engine.trace.run import trace, trace_maps
from rome_engine.trace.settings import Settings
from rome_engine.trace.tracer import Tracer

__all__ = ["CLASSIC", "KINDS", "Settings", "Trace", "Tracer", "trace", "trace_maps"]
