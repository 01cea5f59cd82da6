"""Any progress meta found in the wild -> Progress."""

from __future__ import annotations

from headway.records import Progress


def progress_from_meta(state: str | None, meta: object) -> Progress | None:
    """Placeholder until the reader lands."""
    if isinstance(meta, dict) and isinstance(meta.get("current"), (int, float)):
        return Progress(meta["current"], meta.get("total"), meta.get("message"), meta.get("attributes"))
    return None
