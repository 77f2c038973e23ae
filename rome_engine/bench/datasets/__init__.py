"""Data sets: the field's and this package's own, each one file here, all read as `Record`s."""

from rome_engine.bench.datasets.dataset import DataSet, Malformed
from rome_engine.bench.datasets.reading import NAMES, read
from rome_engine.bench.datasets.references import with_references

__all__ = ["NAMES", "DataSet", "Malformed", "read", "with_references"]
