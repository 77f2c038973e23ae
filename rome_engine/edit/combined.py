"""Edits made one after another as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from rome_engine.edit.edit import Edit, LayerEdit
from rome_engine.errors import EditError


def combined(edits: Sequence[Edit]) -> Edit:
    """One edit that changes each layer by the sum of these, which were made in this order, each on top of those before.

    Its provenance is the last one's, with the facts and losses of all. Raises EditError for none.
    """
    if not edits:
        raise EditError("there are no edits to put together: give at least one")
    if len(edits) == 1:
        return edits[0]
    parts: dict[int, list[LayerEdit]] = {}
    for edit in edits:
        for layer, change in edit.layers.items():
            parts.setdefault(layer, []).append(change)
    last = edits[-1].provenance
    provenance = replace(
        last,
        model_hash=edits[0].provenance.model_hash,
        facts=tuple(fact for edit in edits for fact in edit.provenance.facts),
        losses=tuple(losses for edit in edits for losses in edit.provenance.losses),
        stopped_early=all(edit.provenance.stopped_early for edit in edits),
    )
    return Edit({layer: _sum(changes) for layer, changes in sorted(parts.items())}, provenance)


def _sum(changes: Sequence[LayerEdit]) -> LayerEdit:
    left = torch.cat([change.left for change in changes], dim=1)
    right = torch.cat([change.right for change in changes], dim=1)
    if left.shape[1] > len(left):  # no weight has a greater rank than it has rows
        left, right = torch.eye(len(left)), (left.double() @ right.double().T).T.float().contiguous()
    # ‖L Rᵀ‖² = tr((Lᵀ L)(Rᵀ R)): the sum itself may be large.
    squared = ((left.double().T @ left.double()) * (right.double().T @ right.double())).sum()
    return replace(
        changes[0],
        left=left,
        right=right,
        delta_norm=float(squared.clamp(min=0).sqrt()),
        denominator=None,
        relative_denominator=None,
    )
