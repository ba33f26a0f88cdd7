"""What messages say: a text that stays in its line, a number of things, a URL without secrets."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = [
    "counted",
    "did_you_mean",
    "mask_password",
    "one_line",
    "shortened",
    "there_are",
    "without_passwords",
]


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


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'ppo'?` if one of the known words is near, else nothing."""
    from difflib import get_close_matches  # only an error needs it

    by_case = {one.lower(): one for one in known}
    close = get_close_matches(word.lower(), by_case, 1)
    return f"; did you mean {by_case[close[0]]!r}?" if close else ""


def shortened(text: str, longest: int) -> str:
    """A text of no more characters than that, for a message."""
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


# -- no secrets -----------------------------------------------------------------------------------


def mask_password(url: str) -> str:
    """A store URL without its password, even if the password is badly quoted."""
    scheme, colon, rest = url.partition("://")
    login, at, hosts = rest.rpartition("@")
    user, has_password, _ = login.partition(":")
    shown = f"{user}:***" if has_password else login
    hosts = re.sub(r"(?i)([?&][^=&]*password=|aws_session_token:)[^&]*", r"\1***", hosts)
    return f"{scheme}{colon}{shown}{at}{hosts}"


def without_passwords(text: str) -> str:
    """Any text, without the passwords of URLs in it."""
    text = re.sub(r"(:/+[^:@/]*:?).*@", r"\1***@", text, flags=re.DOTALL)
    return re.sub(r"(?i)(password=|aws_session_token:)[^&\s]*", r"\1***", text)
