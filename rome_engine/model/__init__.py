"""Models: what they are made of, proven; their tokens, hooks, activations and replay."""

from rome_engine.model.activations import Activations, run_with_cache
from rome_engine.model.architecture import Architecture
from rome_engine.model.language_model import LanguageModel
from rome_engine.model.patching import patched
from rome_engine.model.tokens import Prompt

__all__ = ["Activations", "Architecture", "LanguageModel", "Prompt", "patched", "run_with_cache"]
