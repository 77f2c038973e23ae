"""Rewriting facts in a model's weights, reversibly."""

from rome_engine.edit.adapter import save_adapter
from rome_engine.edit.attached import attached
from rome_engine.edit.edit import Edit, LayerEdit
from rome_engine.edit.export import save_merged
from rome_engine.edit.health import Checkup, Health, Limits, apply_guarded
from rome_engine.edit.methods import editor, editors
from rome_engine.edit.per_row import per_row
from rome_engine.edit.provenance import Provenance
from rome_engine.edit.rewrite import edit_fact, edit_facts
from rome_engine.edit.stack import Handle

__all__ = [
    "Checkup",
    "Edit",
    "Handle",
    "Health",
    "LayerEdit",
    "Limits",
    "Provenance",
    "apply_guarded",
    "attached",
    "edit_fact",
    "edit_facts",
    "editor",
    "editors",
    "per_row",
    "save_adapter",
    "save_merged",
]
