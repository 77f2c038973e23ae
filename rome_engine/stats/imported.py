"""Second moments from elsewhere, taken for those of a model's layer."""

from __future__ import annotations

import hashlib
from pathlib import Path

from rome_engine.errors import StatisticsError
from rome_engine.model.language_model import LanguageModel
from rome_engine.stats.collect import checked_layers
from rome_engine.stats.corpus import tokenizer_hash
from rome_engine.stats.provenance import DEFAULT_LENGTH, IMPORTED, Provenance
from rome_engine.stats.second_moment import SecondMoment


def imported(model: LanguageModel, layer: int, path: str | Path) -> SecondMoment:
    """The second moment of a layer of this model from a file in the .npz layout of ROME's published ones.

    Whose weights it belongs to is not in such a file: that it is this model's is taken on the caller's word, all but
    the keys' width. Its corpus is the file's own content, its tokens are the keys it counts; length and the ratio at
    position 0 are unknown and stand at what is usual.

    Raises StatisticsError for a layer the model has not, another width, or a file that is no such moment.
    """
    (wanted,) = checked_layers(model, [layer])
    moment = SecondMoment.import_npz(path)
    if moment.d != model.architecture.d_mlp:
        raise StatisticsError(
            f"{path} is of keys of {moment.d} numbers, but those of {model.name} have {model.architecture.d_mlp}: "
            "it belongs to another model"
        )
    moment.provenance = Provenance(
        layer=wanted,
        weights=model.weight_hash(),
        corpus=hashlib.sha256(Path(path).read_bytes()).hexdigest(),
        tokenizer=tokenizer_hash(model.tokenizer),
        tokens=moment.count,
        length=DEFAULT_LENGTH,
        seed=0,
        first_token_ratio=1.0,
        first_token_left_out=False,
        model=model.name,
        corpus_name=f"{Path(path).name} (imported)",
        versions=IMPORTED,
    )
    return moment
