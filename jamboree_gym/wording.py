"""Words for people: a text that stays in its line or is short, and a number of things."""

from __future__ import annotations

__all__ = ["counted", "one_line", "shortened", "there_are"]


def one_line(text: str) -> str:
    """The text with escapes instead of line breaks and of what would control a terminal."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )


def counted(count: int, what: str) -> str:
    """A number of things: `1 episode`, `2,000 episodes`."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def there_are(count: int, what: str) -> str:
    """`there is 1 episode`, `there are 2,000 episodes`, `there are no episodes`."""
    return (
        f"there {'is' if count == 1 else 'are'} {counted(count, what) if count else f'no {what}s'}"
    )


def shortened(text: str, longest: int) -> str:
    """A text of no more characters than that, for a message."""
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
