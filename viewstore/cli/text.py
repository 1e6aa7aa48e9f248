"""Text for people: stored text made safe for a terminal, durations, numbers of progress."""

from __future__ import annotations

from collections.abc import Mapping

from viewstore.progress import Fact


def escape(text: str) -> str:
    """Return `text` with its control characters escaped, so that stored text stays text."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def duration(seconds: float) -> str:
    """Return `seconds` as 1:02:03, 2:03 or 4 s."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def facts_text(facts: Mapping[str, Fact]) -> str:
    """Return facts such as losses as "name 0.1234", two spaces before each; floats are short."""
    texts = {
        name: f"{value:.4g}" if isinstance(value, float) else str(value)
        for name, value in facts.items()
    }
    return "".join(f"  {name} {value}" for name, value in texts.items())
