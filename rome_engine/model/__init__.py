"""Models: what they are made of, proven; their tokens, hooks and replay."""

from rome_engine.model.architecture import Architecture
from rome_engine.model.language_model import LanguageModel
from rome_engine.model.tokens import Prompt

__all__ = ["Architecture", "LanguageModel", "Prompt"]
