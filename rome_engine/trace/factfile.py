"""Facts to trace, from files; see `rome_engine.fact_files`."""

from rome_engine.fact_files import FactFile, Malformed, read_facts

__all__ = ["FactFile", "Malformed", "read_facts"]
