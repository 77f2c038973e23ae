"""One layer's keys on their way into its second moment."""

from __future__ import annotations

from dataclasses import replace

from jaxtyping import Bool, Float
from torch import Tensor

from rome_engine.errors import StatisticsError
from rome_engine.stats.convergence import Convergence
from rome_engine.stats.second_moment import SecondMoment

FIRST_TOKEN_OUTLIER = 2.0
"""Position 0 is left out where its key's norm is over this many times the others' median, or under 1 / this."""

PROBES = 64
"""Keys of the first batch by which the convergence is told."""


def entering(
    keys: Float[Tensor, "rows tokens d_mlp"], counted: Bool[Tensor, "rows tokens"], first_token_left_out: bool
) -> Float[Tensor, "keys d_mlp"]:
    """The keys of a batch that enter a moment."""
    counted = counted.to(keys.device)
    if first_token_left_out:
        keys, counted = keys[:, 1:], counted[:, 1:]
    return keys[counted]


class LayerKeys:
    """One layer's moment while it grows, what its first batch told of position 0, and the probes of its convergence.

    probes: (probes, d) float32, None before the first batch. before: C⁻¹ of the probes when half of the tokens were
    in, (d, probes) float64, None until then and where C was singular; keys_before: how many keys that were.
    """

    def __init__(self, moment: SecondMoment) -> None:
        self.moment = moment
        self.probes: Tensor | None = None
        self.before: Tensor | None = None
        self.keys_before = 0

    def take(
        self, keys: Float[Tensor, "rows tokens d_mlp"], counted: Bool[Tensor, "rows tokens"], *, add: bool
    ) -> None:
        """Measure the first batch, and add a batch to the moment if asked to."""
        first = self.probes is None
        if first:
            self._measure(keys, counted.to(keys.device))
        assert self.moment.provenance is not None
        chosen = entering(keys, counted, self.moment.provenance.first_token_left_out)
        if first:
            step = max(1, len(chosen) // PROBES)
            self.probes = chosen[::step][:PROBES].float().cpu()
        if add:
            self.moment.update(chosen)

    def half(self) -> None:
        """Note where C⁻¹ of the probes points now, when half of the tokens are in."""
        self.before, self.keys_before = self._solved(), self.moment.count

    def finished(self) -> SecondMoment:
        """The moment, with its convergence where that is known."""
        if self.before is not None and self.keys_before < self.moment.count:
            after = self._solved()
            if after is not None:
                self.moment.convergence = Convergence.between(self.before, after, self.keys_before, self.moment.count)
        return self.moment

    def _solved(self) -> Float[Tensor, "d probes"] | None:
        if self.probes is None or not len(self.probes):
            return None
        try:
            return self.moment.solve(self.probes.T).contiguous()  # as it comes from a file, to the last bit
        except StatisticsError:  # too few keys: unknown, and no reason not to collect
            return None

    def _measure(self, keys: Tensor, counted: Tensor) -> None:
        norms = keys.double().norm(dim=-1) if keys.device.type != "mps" else keys.float().norm(dim=-1)
        others = norms[:, 1:][counted[:, 1:]]
        usual = float(others.median()) if others.numel() else 0.0
        ratio = float(norms[:, 0].median()) / usual if usual > 0 else 1.0
        outlier = not 1 / FIRST_TOKEN_OUTLIER <= ratio <= FIRST_TOKEN_OUTLIER
        assert self.moment.provenance is not None
        self.moment.provenance = replace(self.moment.provenance, first_token_ratio=ratio, first_token_left_out=outlier)
