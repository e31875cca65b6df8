"""Whom a file is from: HMAC-SHA256 with a secret key that its writer and its readers share.

The checksum of an artifact is against damage; anybody can compute it. A signature can be made, and checked, only by
those who have the key.
"""

from __future__ import annotations

import hmac

from fxquant.errors import WrongKeyError

BYTES = 32
SHORTEST_KEY = 16
_PURPOSE = b"fxquant artifact\0"  # a key that signs other things as well signs nothing else with this


def sign(key: bytes, digest: bytes) -> bytes:
    """The signature of a file whose content has the SHA-256 `digest`. Raises WrongKeyError for what is no key."""
    return hmac.digest(checked_key(key), _PURPOSE + digest, "sha256")


def is_signed_by(key: bytes, digest: bytes, signature: bytes) -> bool:
    """Whether `signature` is that of `key`; takes the same time wherever it differs."""
    return hmac.compare_digest(sign(key, digest), signature)


def checked_key(key: bytes) -> bytes:
    """`key`, if it is one."""
    if not isinstance(key, bytes):
        raise WrongKeyError(f"a key is bytes, not a {type(key).__name__}; secrets.token_bytes(32) makes one")
    if len(key) < SHORTEST_KEY:
        raise WrongKeyError(
            f"the key has {len(key)} bytes, which can be guessed; give at least {SHORTEST_KEY}, as "
            "secrets.token_bytes(32) makes them"
        )
    return key
