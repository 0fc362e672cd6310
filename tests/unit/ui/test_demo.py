"""The demo without its extra."""

from __future__ import annotations

import pytest

from cellmove.core.errors import Usage
from cellmove.ui import demo


def test_the_demo_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda _name: None)
    with pytest.raises(Usage) as caught:
        demo.show(0.1)
    assert str(caught.value) == "cellmove demo needs the package bottle: run pip install 'cellmove[demo]'"
