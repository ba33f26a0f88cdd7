"""Makes a pymongo client from a URL; errors in the URL or in TLS are reported without secrets."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from jamboree_gym.errors import InvalidUrl
from jamboree_gym.store.tls_advice import MONGO_WORDS, tls_advice
from jamboree_gym.store.urls import MONGO_SCHEMES, hosts_of, is_cut_short

if TYPE_CHECKING:
    from pymongo import MongoClient

__all__ = ["client_from_url", "reason_of"]

CONNECT_TIMEOUT_S = 4.0
ONE_TRY_TIMEOUT_S = 0.75 * CONNECT_TIMEOUT_S  # shorter: the reason is known in time
ANSWER_TIMEOUT_S = 30.0
_HOST = r"([\w.-]+|\[[\da-fA-F:.]+\]|%2F[^:@/?]+)(:\d+)?"
_HOSTS = re.compile(f"{_HOST}(,{_HOST})*")
_QUOTE = "user and password have to be quoted: urllib.parse.quote_plus(password)"


def client_from_url(url: str) -> MongoClient[Any]:
    """A client that waits a few seconds for a connection. This call makes no connection.

    Raises:
        InvalidUrl: The scheme is unknown, the address malformed, or an option or a file cannot be
            used. Neither the message nor its cause shows a password.
    """
    from pymongo import MongoClient
    from pymongo.errors import ConfigurationError, InvalidURI
    from pymongo.server_api import ServerApi

    scheme, found, _ = url.partition("://")
    if not found or scheme not in MONGO_SCHEMES:
        shown = f"begins with {scheme!r}" if found else "has no scheme"
        raise InvalidUrl(f"mongo_url {shown}; use mongodb://host:port or mongodb+srv://")
    where = hosts_of(url)
    has_clear_hosts = _HOSTS.fullmatch(where) is not None
    reason = _QUOTE
    try:
        if not is_cut_short(url):
            return MongoClient(
                url,
                server_api=ServerApi("1", strict=True),
                serverSelectionTimeoutMS=int(CONNECT_TIMEOUT_S * 1000),
                connectTimeoutMS=int(ONE_TRY_TIMEOUT_S * 1000),
                socketTimeoutMS=int(ANSWER_TIMEOUT_S * 1000),
                appname="jamboree-gym",
            )
    except OSError as error:  # about the files for TLS; the message names only the option
        reason = f"{error}; {tls_advice('X509:', MONGO_WORDS, is_tls=True)}"
    except (InvalidURI, ConfigurationError, ValueError) as error:
        if has_clear_hosts and "@" not in url:  # else it may show a part of the password
            reason = str(error)
    # Raised outside the handler, it has no cause: pymongo's error may contain the password.
    raise InvalidUrl(f"mongo_url{f' for {where}' * has_clear_hosts} cannot be used: {reason}")


def reason_of(error: Exception, client: MongoClient[Any], *, has_answered: bool) -> str:
    """Why a server cannot be reached, in one sentence, with advice if TLS is the cause.

    TLS cannot be the cause if the server has answered before.
    """
    reason = re.split(r", Timeout:|, full error:| \(configured timeouts", str(error))[0]
    is_tls = client.options.pool_options._ssl_context is not None
    advice = "" if has_answered else tls_advice(reason, MONGO_WORDS, is_tls=is_tls)
    return f"{reason}; {advice}" if advice else reason
