"""A small made-up text and its corpus, for tests that need some."""

from __future__ import annotations

from pathlib import Path

from rome_engine.stats import Corpus

_CITIES = ("Paris", "Rome", "London", "Seattle", "Zürich", "Brasília", "東京", "Αθήνα")
_THINGS = ("tower", "museum", "bridge", "station", "palace", "market", "garden")


def paragraphs(number: int) -> list[str]:
    """Paragraphs that all differ."""
    return [
        f"The {_THINGS[n % 7]} number {n} is located in the city of {_CITIES[n % 8]}.\nTo visit it, you have to travel "
        f"to the {_THINGS[(n + 3) % 7]} {n * n}, near {_CITIES[(n + 5) % 8]}."
        for n in range(number)
    ]


def corpus(folder: Path, number: int = 120, name: str = "text.txt") -> Corpus:
    """A corpus of that many paragraphs."""
    path = folder / name
    path.write_text("\n\n".join(paragraphs(number)), encoding="utf-8")
    return Corpus(path)
