"""The public names: each package exports exactly what it documents."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import pytest

PACKAGES = ("headway", "headway.client", "headway.server", "headway.testing", "headway.tqdm")
REFERENCE = Path(__file__).parents[2] / "docs" / "reference.md"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_exported_name_exists_and_has_a_docstring(package: str) -> None:
    """Each name in ``__all__`` can be imported and has a docstring."""
    module = importlib.import_module(package)
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        assert inspect.getdoc(getattr(module, name)), f"{package}.{name} has no docstring"


def test_reference_documents_public_modules_only() -> None:
    """Every heading of the reference names an object of a public package."""
    headings = [line[5:] for line in REFERENCE.read_text().splitlines() if line.startswith("### `")]
    assert headings
    public = (*PACKAGES, "headway.server.settings", "ctx.progress")
    for heading in headings:
        name = heading.split("(")[0].rstrip("`")
        assert any(name.startswith(package + ".") for package in public), heading
