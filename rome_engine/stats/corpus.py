"""Ordinary text as sequences of tokens of one length: a seeded sample, spread over the files, of a stated budget.

A file is cut into *passages* of some 4 kB of neighbouring text, the passages are drawn in a random order, and their
tokens fill sequence after sequence. Within a passage documents (the parts between blank lines; in a file without blank
lines, the lines) are joined by the tokenizer's document-end token, and so are passages. Nothing but the offsets of the
passages is held, so that a file may be larger than memory.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from rome_engine.errors import StatisticsError, StorageError
from rome_engine.model import tokens
from rome_engine.stats.provenance import Sampling

_PASSAGE = 4096  # bytes: some thousand tokens
_LONGEST_PASSAGE = 64 * _PASSAGE
_LONGEST_PIECE = 1 << 16
_BLANK_LINE = re.compile(r"\n[ \t]*\n\s*")


class Corpus:
    """One or more UTF-8 text files, read when they are needed.

    `hash` is the content key of the text; `name` is for people.
    Raises StatisticsError for no files and for a file that is missing, empty, or not UTF-8; StorageError where one may
    not be read.
    """

    def __init__(self, *paths: str | Path, name: str | None = None) -> None:
        if not paths:
            raise StatisticsError("a corpus needs at least one text file")
        self.paths = tuple(Path(path) for path in paths)
        self.name = name or " + ".join(path.stem for path in self.paths)
        for path in self.paths:
            _check(path)

    def __repr__(self) -> str:
        return f"Corpus({self.name})"

    @cached_property
    def hash(self) -> str:
        """sha256 over the files' contents in their order, and over how passages and documents are cut."""
        cuts = [_PASSAGE, _LONGEST_PASSAGE, _LONGEST_PIECE, _BLANK_LINE.pattern]
        return hashlib.sha256(json.dumps([cuts, *(index.digest for index in self._indices)]).encode()).hexdigest()

    def sequences(self, tokenizer: Any, sampling: Sampling) -> Iterator[list[int]]:
        """Sequences of `sampling.length` tokens until `sampling.tokens` are used up; only the last may be shorter.

        Each begins with the document-start tokens that the tokenizer itself puts before a text. A corpus smaller than
        the budget is read once and ends early.
        """
        prefix = list(_own_prefix(tokenizer))
        left, waiting = sampling.tokens, list[int]()
        for text in self._tokenised(tokenizer, sampling.seed):
            waiting += text
            body = sampling.length - len(prefix)
            while len(waiting) >= body and left > len(prefix):
                sequence = (prefix + waiting[:body])[:left]
                waiting, left = waiting[body:], left - len(sequence)
                yield sequence
            if left <= len(prefix):
                return
        if waiting:
            yield (prefix + waiting)[:left]

    def _tokenised(self, tokenizer: Any, seed: int) -> Iterator[list[int]]:
        """The passages' tokens in the sample's order, each document followed by the document-end token."""
        end = end_token(tokenizer)
        # Without such a token a blank line does it.
        between = list(tokenizer("\n\n", add_special_tokens=False)["input_ids"]) if end is None else [end]
        for documents in self._passages(seed):
            # verbose: a passage longer than the model's context is no matter here
            encoded = tokenizer(documents, add_special_tokens=False, verbose=False)["input_ids"]
            yield [token for document in encoded if document for token in (*document, *between)]

    def _passages(self, seed: int) -> Iterator[list[str]]:
        sizes = [len(index.bounds) - 1 for index in self._indices]
        starts = np.cumsum([0, *sizes])
        # RandomState, unlike numpy's newer generators, promises the same draws for ever.
        for number in np.random.RandomState(seed).permutation(int(starts[-1])).tolist():
            file = int(np.searchsorted(starts, number, side="right")) - 1
            documents = self._documents(file, number - int(starts[file]))
            if documents:
                yield documents

    def _documents(self, file: int, passage: int) -> list[str]:
        index, path = self._indices[file], self.paths[file]
        begin, end = index.bounds[passage], index.bounds[passage + 1]
        try:
            with path.open("rb") as source:
                source.seek(begin)
                text = source.read(end - begin).decode("utf-8").replace("\r\n", "\n").removeprefix("\ufeff")
        except (OSError, UnicodeDecodeError) as error:
            raise StorageError(f"the corpus {path} changed while it was read ({error}): try again") from error
        parts = _BLANK_LINE.split(text) if index.has_blank_lines else text.split("\n")
        return [part.strip() for part in parts if part.strip()]

    @cached_property
    def _indices(self) -> tuple[_Index, ...]:
        return tuple(_index(path) for path in self.paths)


def end_token(tokenizer: Any) -> int | None:
    """The token that ends a document, None where the tokenizer has none."""
    token = tokenizer.eos_token_id
    return None if token is None else int(token)


def tokenizer_hash(tokenizer: Any) -> str:
    """sha256 over a tokenizer's vocabulary and special tokens: other tokens make other statistics."""
    vocabulary = sorted(tokenizer.get_vocab().items())
    special = [list(_own_prefix(tokenizer)), tokenizer.eos_token_id]
    return hashlib.sha256(json.dumps([type(tokenizer).__name__, special, vocabulary]).encode()).hexdigest()


@dataclass(frozen=True)
class _Index:
    """A file's content hash, and the byte offsets at which its passages begin, with the file's end behind them."""

    digest: str
    bounds: array[int]
    has_blank_lines: bool


def _index(path: Path) -> _Index:
    """Read a file once, from its begin to its end."""
    digest, decoder = hashlib.sha256(), codecs.getincrementaldecoder("utf-8")()
    by_paragraph, by_line = array("q", [0]), array("q", [0])
    has_blank_lines = has_text = blank_before = False
    here = 0
    try:
        with path.open("rb") as file:
            for piece in _pieces(file):
                digest.update(piece)
                decoder.decode(piece)
                here += len(piece)
                blank = not piece.strip()
                has_blank_lines |= has_text and blank_before and not blank  # blank lines at the ends part nothing
                has_text |= not blank
                blank_before = blank
                if here - by_line[-1] >= _PASSAGE:
                    by_line.append(here)
                if here - by_paragraph[-1] >= (_PASSAGE if blank else _LONGEST_PASSAGE):
                    by_paragraph.append(here)
            decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise StatisticsError(
            f"the corpus {path} is not UTF-8 text ({error.reason} near byte {here}): convert it first"
        ) from error
    except OSError as error:
        raise _unreadable(path, error) from error
    if not has_text:
        raise StatisticsError(f"the corpus {path} is empty: give a file with plain text")
    bounds = by_paragraph if has_blank_lines else by_line
    if bounds[-1] < here:
        bounds.append(here)
    return _Index(digest.hexdigest(), bounds, has_blank_lines)


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    """Lines; very long ones in pieces that end between two characters."""
    while piece := file.readline(_LONGEST_PIECE):
        while not piece.endswith(b"\n"):
            following = file.read(1)
            if not following:
                break
            if following[0] & 0xC0 != 0x80:
                file.seek(-1, 1)
                break
            piece += following
        yield piece


def _own_prefix(tokenizer: Any) -> tuple[int, ...]:
    prompt = tokens.tokenize(tokenizer, "The")
    return prompt.input_ids[: prompt.prefix]


def _check(path: Path) -> None:
    if not path.exists():
        raise StatisticsError(f"there is no corpus {path}: give the path of a plain text file")
    if not path.is_file():
        raise StatisticsError(f"the corpus {path} is not a file: give the path of a plain text file")
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise StatisticsError(f"the corpus {path} is empty: give a file with plain text")
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> StorageError:
    return StorageError(f"the corpus {path} cannot be read ({error.strerror or error}): check that you may read it")
