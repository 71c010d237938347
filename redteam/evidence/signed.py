"""Signed certificates: a DSSE envelope around the statement, by a key of one's own or without one through sigstore.

DSSE is the form in which in-toto statements are signed (secure-systems-lab/dsse, v1.0). The libraries that sign are
an extra, and come when they are needed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from redteam.errors import InputError, one_line

PAYLOAD = "application/vnd.in-toto+json"
SIGSTORE = "sigstore"  # in place of a key
LARGEST_KEY = 2**16  # bytes


def sign(statement: str, how: str) -> str:
    """Returns a signed statement, as JSON.

    Args:
        statement: an in-toto statement.
        how: path of a private key in PEM without a password, or "sigstore": an identity of CI or of a browser signs
            then, and the signature is written into a public log.

    Raises:
        InputError: the key cannot be used, what signs is not installed, or sigstore refuses.
    """
    return _sign_keyless(statement) if how == SIGSTORE else _sign_with_key(statement, Path(how))


def is_signed(content: Any) -> bool:
    """Whether a parsed file is an envelope or a bundle of sigstore's, and no plain statement."""
    return isinstance(content, dict) and ("payloadType" in content or "dsseEnvelope" in content)


def statement_in(content: dict[str, Any]) -> Any:
    """Returns the statement in an envelope or bundle. Its signature is not looked at.

    Raises:
        ValueError: there is none.
    """
    import base64

    envelope = content.get("dsseEnvelope", content)
    if not isinstance(envelope, dict) or envelope.get("payloadType") != PAYLOAD:
        raise ValueError("it holds no in-toto statement")
    return json.loads(base64.b64decode(str(envelope.get("payload")), validate=True))


def objection(content: Any, key: Path | None, identity: tuple[str, str] | None) -> str | None:
    """Returns what is wrong with the signature of a parsed file; None if it is that of the key or of the identity.

    Args:
        content: of the file.
        key: a public key, PEM.
        identity: who signed through sigstore, and who vouches for that: (e-mail or workflow, address of the issuer).

    Raises:
        InputError: the key cannot be read, or what verifies is not installed.
    """
    if not is_signed(content):
        return "it is not signed"
    if key is not None:
        return "it was signed through sigstore, not with a key" if "dsseEnvelope" in content else _by_key(content, key)
    assert identity is not None
    return _by_identity(content, *identity) if "dsseEnvelope" in content else "it was not signed through sigstore"


def _sign_with_key(statement: str, path: Path) -> str:
    crypto, dsse = _libraries()
    private = _read_key(path, private=True)
    try:
        signer = crypto.CryptoSigner(private)
    except Exception as error:
        raise InputError(f"{path} is a key that cannot sign ({one_line(str(error))})", "Use Ed25519") from error
    envelope = dsse.Envelope(statement.encode(), PAYLOAD, {})
    envelope.sign(signer)
    return json.dumps(envelope.to_dict(), indent=2) + "\n"


def _by_key(content: dict[str, Any], path: Path) -> str | None:
    crypto, dsse = _libraries()
    public = crypto.SSlibKey.from_crypto(_read_key(path, private=False))
    try:
        dsse.Envelope.from_dict(json.loads(json.dumps(content))).verify([public], 1)
    except Exception as error:  # noqa: BLE001 - whatever the library says of a file that can be anybody's
        return f"it was not signed with {path} ({one_line(str(error))[:100]})"
    return None


def _read_key(path: Path, *, private: bool) -> Any:
    from cryptography.hazmat.primitives import serialization

    remedy = "openssl genpkey -algorithm ed25519 -out key.pem; openssl pkey -in key.pem -pubout -out public.pem"
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_KEY)
        return serialization.load_pem_private_key(text, None) if private else serialization.load_pem_public_key(text)
    except Exception as error:
        kind = "private" if private else "public"
        raise InputError(f"{path} is no {kind} key that can be used ({one_line(str(error))[:100]})", remedy) from error


def _libraries() -> tuple[Any, Any]:
    try:
        from securesystemslib import dsse, signer
    except ImportError as error:
        raise InputError("what signs is not installed", "pip install 'unlearning-redteam[signing]'") from error
    return signer, dsse


def _sign_keyless(statement: str) -> str:
    try:
        from sigstore import oidc
        from sigstore.dsse import Statement
        from sigstore.models import ClientTrustConfig
        from sigstore.sign import SigningContext
    except ImportError as error:
        raise InputError("sigstore is not installed", "pip install 'unlearning-redteam[sigstore]'") from error
    try:
        found = oidc.detect_credential()
        trust = ClientTrustConfig.production()
        token = (
            oidc.IdentityToken(found) if found else oidc.Issuer(trust.signing_config.get_oidc_url()).identity_token()
        )
        with SigningContext.from_trust_config(trust).signer(token) as signer:
            return str(signer.sign_dsse(Statement(statement.encode())).to_json()) + "\n"
    except Exception as error:
        raise InputError(
            f"sigstore did not sign ({one_line(str(error))[:200]})", "Try again, or sign with a key"
        ) from error


def _by_identity(content: dict[str, Any], identity: str, issuer: str) -> str | None:
    try:
        from sigstore.models import Bundle
        from sigstore.verify import Verifier, policy
    except ImportError as error:
        raise InputError("sigstore is not installed", "pip install 'unlearning-redteam[sigstore]'") from error
    try:
        bundle = Bundle.from_json(json.dumps(content))
        kind, _ = Verifier.production().verify_dsse(bundle, policy.Identity(identity=identity, issuer=issuer))
    except Exception as error:  # noqa: BLE001 - whatever the library says of a file that can be anybody's
        return f"it was not signed by {identity} ({one_line(str(error))[:100]})"
    return None if kind == PAYLOAD else f"what {identity} signed is no statement"
