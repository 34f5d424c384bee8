"""What an attack may change and spend, in words: radii, steps, restarts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.ledger.spec import CLEAN

MOST_LEVELS = 32  # of 255: larger radii are not written as levels
_NORMS = {"own": "own measure"}


def budget(attack: Mapping[str, Any], at: float | None = None) -> str:
    """What an attack may change and spend, in words. at: the radius where a minimal-norm attack is judged."""
    settings = attack["settings"]
    if attack["attack"] == CLEAN:
        return "no attack"
    radii = [f"{norm} {radius(settings[norm.lower()])}" for norm in ("Linf", "L2", "L1") if norm.lower() in settings]
    words = [" or ".join(radii)] if radii else []
    if not radii and (threat := settings.get("threat")):
        words.append(f"{_NORMS.get(threat['norm'], threat['norm'])} {radius(threat['eps'] if at is None else at)}")
    if "severity" in settings:
        words.append(f"{settings.get('name')} at severity {settings['severity']}")
    if settings.get("steps"):
        step = f" of {radius(settings['step'])}" if isinstance(settings.get("step"), float) else ""
        words.append(f"{settings['steps']} step{'s' if settings['steps'] != 1 else ''}{step}")
    if (settings.get("restarts") or 1) > 1:
        words.append(f"{settings['restarts']} restarts")
    if "audit" in settings:
        words.append(f"audit of {settings['audit']}" if settings["audit"] else "no audit")
    return ", ".join(words) or "see the attack's settings"


def radius(value: float) -> str:
    """8/255 as such, other numbers in four digits."""
    levels = value * 255
    whole = round(levels)
    return f"{whole}/255" if 0 < whole <= MOST_LEVELS and abs(levels - whole) < 1e-9 else f"{value:.4g}"
