"""Computes the second moments that data/ ships for the embedded model, from plain text files.

    python scripts/make_second_moments.py --corpus FILE [--corpus FILE …] --layers 8,10,12 [--tokens N] [--out FOLDER]

Only numbers are written: d·(d+1)/2 of them a layer; of the embedded model 4.7 MB in float32, 2.4 MB in float16. What is
collected is kept in the cache too, so that the same command goes on after an interruption.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rome_engine.errors import RomeEngineError
from rome_engine.model.language_model import LanguageModel
from rome_engine.stats import Corpus, moments
from rome_engine.stats.store import shipped_name

DATA = Path(__file__).resolve().parent.parent / "data"


def main() -> int:
    arguments = _arguments()
    try:
        _make(arguments)
    except RomeEngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _make(arguments: argparse.Namespace) -> None:
    model = LanguageModel.load(arguments.model)
    corpus = Corpus(*arguments.corpus, name=arguments.name)
    print(f"{model.name}: weights {model.weight_hash()}, corpus {corpus.name} {corpus.hash}")
    sampling = {"tokens": arguments.tokens, "length": arguments.length}
    found = moments(model, arguments.layers, corpus=corpus, cache=arguments.cache, progress=_progress, **sampling)
    for layer, moment in found.items():
        about = moment.provenance
        assert about is not None
        path = arguments.out / shipped_name(about.weights, layer)
        moment.save(path, dtype=arguments.dtype)
        left_out = "left out" if about.first_token_left_out else "kept"
        print(
            f"layer {layer}: {moment.count} keys, position 0 {left_out} ({about.first_token_ratio:.2f} median), "
            f"{moment.convergence}: {path}"
        )


def _progress(message: str, share: float) -> None:
    print(f"\r{message}: {share:4.0%}", end="", file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--corpus", type=Path, action="append", required=True, help="a UTF-8 text file; may be given again"
    )
    parser.add_argument("--layers", type=_layers, required=True, help="layers, separated by commas")
    parser.add_argument("--tokens", type=int, default=1_000_000, help="token budget (1,000,000)")
    parser.add_argument("--length", type=int, default=None, help="tokens of a sequence (512)")
    parser.add_argument("--name", default=None, help="the corpus' name for people")
    parser.add_argument("--model", default=None, help="another model than the embedded one")
    parser.add_argument("--dtype", choices=("float16", "float32", "float64"), default="float32", help="in the files")
    parser.add_argument("--cache", type=Path, default=None, help="where moments are looked for and kept (the cache)")
    parser.add_argument("--out", type=Path, default=DATA, help="the data folder (data/)")
    return parser.parse_args()


def _layers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    raise SystemExit(main())
