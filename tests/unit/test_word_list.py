"""The word list of ``make lint`` finds words in identifiers, strings, comments and documents, and nothing else."""

from __future__ import annotations

import pytest

from tests.support.word_list import hits_of


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        ("a.py", "wish = 1\n", ["wish"]),
        ("a.py", "wishes = 1\n", []),
        ("a.py", "x = 1  # nobody reads it\n", ["nobody"]),
        ("a.py", 'x = "taken back"\n', ["taken back"]),
        ("a.py", 'x = {"mended": 1}\n', []),
        ("a.py", 'x = f"mended by {y}"\n', ["mended"]),
        ("story.py", "x = 1\n", ["story"]),
        ("a.py", "from contextlib import closing\n", []),
        ("a.md", "Whoever reads this", ["Whoever"]),
        ("a.md", "the key `mended`", []),
    ],
)
def test_words(path: str, text: str, words: list[str]) -> None:
    assert [hit.word for hit in hits_of(path, text)] == words
