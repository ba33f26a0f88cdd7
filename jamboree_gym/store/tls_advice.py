"""Advice for connections that fail because of TLS, or because TLS is missing."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "CLUSTER_WORDS",
    "MONGO_WORDS",
    "REDIS_WORDS",
    "SENTINEL_WORDS",
    "TlsWords",
    "tls_advice",
]


@dataclass(frozen=True, slots=True)
class TlsWords:
    """Names of TLS options in the URLs of a store.

    `authority` is the option with the authority that signed the server's certificate, `certificate`
    that with the client's own.
    """

    with_tls: str
    without_tls: str
    authority: str
    certificate: str


REDIS_WORDS = TlsWords("rediss://", "redis://", "ssl_ca_certs", "ssl_certfile, ssl_keyfile")
SENTINEL_WORDS = TlsWords(
    "rediss+sentinel://", "redis+sentinel://", "ssl_ca_certs", "ssl_certfile, ssl_keyfile"
)
CLUSTER_WORDS = TlsWords(
    "rediss+cluster://", "redis+cluster://", "ssl_ca_certs", "ssl_certfile, ssl_keyfile"
)
MONGO_WORDS = TlsWords("tls=true", "tls=false", "tlsCAFile", "tlsCertificateKeyFile")

_CUT_OFF = ("reset by peer", "closed by server", "closed connection", "connection closed", "EOF")
_NO_TLS_THERE = ("timed out", "Timeout connecting", "WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")
_BAD_FILE = ("No such file", "not readable", "Permission denied", "PEM", "X509:", "KEY_VALUES")


def tls_advice(reason: str, words: TlsWords, *, is_tls: bool) -> str:
    """Advice for an error text of a client library; empty if TLS seems not to be the cause.

    `is_tls` says whether the connection should use TLS.
    """
    if not is_tls:
        return f"does it demand TLS? then use {words.with_tls}" if _has(reason, _CUT_OFF) else ""
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        return _advice_on_certificate(reason, words)
    if _has(reason, _NO_TLS_THERE):
        return f"does it speak TLS there? if not, use {words.without_tls}"
    if _has(reason, _BAD_FILE):
        return f"look at the files named by {words.authority}, {words.certificate}"
    if _has(reason, _CUT_OFF) or "ALERT" in reason:
        return f"does it demand a certificate of yours? name it by {words.certificate}"
    return ""


def _advice_on_certificate(reason: str, words: TlsWords) -> str:
    if "mismatch" in reason or "not valid for" in reason:
        return "use a host name that the server's certificate is for"
    if "expired" in reason:
        return "the server needs a new certificate"
    return f"name the authority that signed the server's certificate by {words.authority}"


def _has(text: str, parts: tuple[str, ...]) -> bool:
    return any(part in text for part in parts)
