"""What a command line or a form gives for a setting, as the type that the setting has."""

from __future__ import annotations

from typing import Any

from .errors import KitError


def convert(key: str, value: Any, wanted: str) -> Any:
    """Accept what a command line or a form gives ("16", "q_proj,v_proj") and refuse what does not fit the type."""
    if "tuple" in wanted:
        parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else ()
        return tuple(str(part).strip() for part in parts if str(part).strip())
    if "None" in wanted and str(value).lower() == "none":
        return None
    if "bool" in wanted and str(value).lower() in ("true", "false", "1", "0"):
        return str(value).lower() in ("true", "1")
    for kind in (int, float, str):
        if kind.__name__ in wanted and not isinstance(value, bool | None):
            try:
                return kind(str(value)) if kind is not str else str(value)
            except ValueError:
                break
    raise KitError(f"{key}={value!r} does not fit: it must be {wanted.replace('<class ', '').strip('>')}")
