"""Locate where a language model keeps a fact, rewrite it in the weights, and measure what the rewrite did."""

from importlib.metadata import version

__version__ = version("rome-engine")
