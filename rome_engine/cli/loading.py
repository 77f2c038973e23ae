"""Loading a model for a command, with progress where the embedded model has to be fetched first."""

from __future__ import annotations

from rome_engine.cli.output import progress, stderr
from rome_engine.errors import ModelLoadError
from rome_engine.model import embedded
from rome_engine.model.language_model import LanguageModel

DTYPES = ("auto", "float32", "bfloat16", "float16")


def load(
    name: str | None,
    dtype: str = "auto",
    device: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> LanguageModel:
    """The model of the options. Raises ModelLoadError and its like."""
    if dtype not in DTYPES:
        raise ModelLoadError(f"there is no dtype {dtype!r}: choose {', '.join(DTYPES)}")
    if (name is None or name.lower() in embedded.ALIASES) and not embedded.is_ready():
        fetch()
    with stderr().status("loading the model"):
        return LanguageModel.load(
            name, dtype=dtype, device=device, revision=revision, trust_remote_code=trust_remote_code
        )


def fetch() -> None:
    """Fetch and convert the embedded model, once."""
    with progress("fetching the embedded model (once)") as tick:
        embedded.ensure(lambda _message, share: tick(round(100 * share), 100))
