"""Rewriting facts in a model's weights, reversibly."""

from rome_engine.edit.edit import Edit, LayerEdit
from rome_engine.edit.export import save_merged
from rome_engine.edit.methods import editor, editors
from rome_engine.edit.provenance import Provenance
from rome_engine.edit.rewrite import edit_fact
from rome_engine.edit.stack import Handle

__all__ = ["Edit", "Handle", "LayerEdit", "Provenance", "edit_fact", "editor", "editors", "save_merged"]
