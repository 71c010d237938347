"""Signed certificates: by a key, against the library that others verify with; through sigstore, up to its door."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from recorded_runs import MASKED, NEVER_TRAINED, record
from run_redteam import redteam

from redteam.errors import InputError
from redteam.evidence import signed
from redteam.evidence.certificate import read_certificate
from redteam.evidence.signed import objection, sign, statement_in

STATEMENT = json.dumps(
    {"_type": "https://in-toto.io/Statement/v1", "subject": [], "predicateType": "t", "predicate": {}}
)


def keys(folder: Path, name: str, private: Any = None) -> tuple[Path, Path]:
    """A new pair, as openssl writes one."""
    private = private or ed25519.Ed25519PrivateKey.generate()
    plain = serialization.NoEncryption()
    pem, kind = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    one, other = folder / f"{name}.pem", folder / f"{name}.pub"
    one.write_bytes(private.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    other.write_bytes(private.public_key().public_bytes(pem, kind))
    return one, other


@pytest.mark.parametrize("make", [ed25519.Ed25519PrivateKey.generate, lambda: ec.generate_private_key(ec.SECP256R1())])
def test_what_was_signed_with_a_key_is_known_by_its_public_half(tmp_path: Path, make: Any) -> None:
    private, public = keys(tmp_path, "mine", make())
    _, others = keys(tmp_path, "other")
    content = json.loads(sign(STATEMENT, str(private)))
    assert objection(content, public, None) is None
    assert f"not signed with {others}" in str(objection(content, others, None))
    assert statement_in(content) == json.loads(STATEMENT)


def test_the_signature_is_that_of_the_specification(tmp_path: Path) -> None:
    """Checked with the bare primitive: DSSEv1, lengths, type and payload."""
    private, public = keys(tmp_path, "mine")
    content = json.loads(sign(STATEMENT, str(private)))
    payload, kind = base64.b64decode(content["payload"]), content["payloadType"].encode()
    assert (payload.decode(), kind) == (STATEMENT, b"application/vnd.in-toto+json")
    (one,) = content["signatures"]
    message = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    key: Any = serialization.load_pem_public_key(public.read_bytes())
    key.verify(base64.b64decode(one["sig"]), message)
    with pytest.raises(InvalidSignature):
        key.verify(base64.b64decode(one["sig"]), message + b" ")


def test_whatever_is_changed_shows(tmp_path: Path) -> None:
    private, public = keys(tmp_path, "mine")
    content = json.loads(sign(STATEMENT, str(private)))
    other = base64.b64encode(STATEMENT.replace('"t"', '"u"').encode()).decode()
    for change in (
        {"payload": other},
        {"payloadType": "text/plain"},
        {"signatures": []},
        {"signatures": [{**content["signatures"][0], "sig": "AAAA"}]},
        {"signatures": [{**content["signatures"][0], "keyid": "0" * 64}]},
        {"signatures": "none"},
    ):
        assert objection(content | change, public, None) is not None, change


@pytest.mark.parametrize("content", [{}, [], "text", {"payload": ""}, {"_type": "x"}])
def test_what_is_not_signed_is_said_to_be_so(tmp_path: Path, content: Any) -> None:
    _, public = keys(tmp_path, "mine")
    assert objection(content, public, None) == "it is not signed"


def test_a_key_that_is_none_is_refused_in_a_line(tmp_path: Path) -> None:
    private, public = keys(tmp_path, "mine")
    content = json.loads(sign(STATEMENT, str(private)))
    (tmp_path / "text").write_text("no key")
    locked = serialization.BestAvailableEncryption(b"secret")
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (tmp_path / "locked.pem").write_bytes(ed25519.Ed25519PrivateKey.generate().private_bytes(*form, locked))
    for path in (tmp_path / "text", tmp_path / "nowhere", tmp_path, public, tmp_path / "locked.pem"):
        with pytest.raises(InputError, match="is no private key"):
            sign(STATEMENT, str(path))
    for path in (tmp_path / "text", tmp_path / "nowhere", private):
        with pytest.raises(InputError, match="is no public key"):
            objection(content, path, None)


def test_without_the_library_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, public = keys(tmp_path, "mine")
    content = json.loads(sign(STATEMENT, str(private)))
    for name in ("securesystemslib", "sigstore"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"unlearning-redteam\[signing\]"):
        sign(STATEMENT, str(private))
    with pytest.raises(InputError, match=r"unlearning-redteam\[signing\]"):
        objection(content, public, None)
    with pytest.raises(InputError, match=r"unlearning-redteam\[sigstore\]"):
        sign(STATEMENT, "sigstore")
    with pytest.raises(InputError, match=r"unlearning-redteam\[sigstore\]"):
        objection({"dsseEnvelope": {}}, None, ("me", "issuer"))


def test_a_key_and_sigstore_are_not_taken_for_each_other(tmp_path: Path) -> None:
    private, public = keys(tmp_path, "mine")
    content = json.loads(sign(STATEMENT, str(private)))
    assert objection(content, None, ("me", "issuer")) == "it was not signed through sigstore"
    assert objection({"dsseEnvelope": content}, public, None) == "it was signed through sigstore, not with a key"
    assert statement_in({"dsseEnvelope": content}) == json.loads(STATEMENT)


def test_the_commands(tmp_path: Path) -> None:
    run = record(tmp_path / "run", NEVER_TRAINED, whole=True)
    (tmp_path / "policy.toml").write_text("[policy]\nmax_excess_recovery = 0.1\n")
    private, public = keys(tmp_path, "mine")
    _, others = keys(tmp_path, "other")
    made = redteam("certify", run, "--policy", tmp_path / "policy.toml", "--sign", private)
    assert made.returncode == 0, made.stderr
    plain, envelope = run / "certificate.json", run / "certificate.signed.json"
    assert read_certificate(plain) == read_certificate(envelope)

    assert redteam("verify", envelope, "--key", public).returncode == 0
    unchecked = redteam("verify", envelope)
    assert (unchecked.returncode, "its signature was not checked" in " ".join(unchecked.stdout.split())) == (0, True)
    for path, key, said in ((envelope, others, "was not signed with"), (plain, public, "it is not signed")):
        refused = redteam("verify", path, "--key", key)
        assert (refused.returncode, said in " ".join(refused.stdout.split())) == (1, True)
    half = redteam("verify", envelope, "--identity", "me")
    assert (half.returncode, "Give either, whole" in half.stderr) == (2, True)

    other = record(tmp_path / "other", MASKED, whole=True)  # signed, but of other evidence
    moved = redteam("verify", envelope, "--key", public, "--run", other)
    assert (moved.returncode, "does not hold" in " ".join(moved.stdout.split())) == (1, True)
    nowhere = redteam("certify", run, "--policy", tmp_path / "policy.toml", "--sign", tmp_path / "no.pem")
    assert (nowhere.returncode, "is no private key" in nowhere.stderr) == (2, True)


def test_through_sigstore_as_far_as_its_door(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's own types up to the services, which are stood in for: there is no network in tests."""
    pytest.importorskip("sigstore")
    from sigstore import models, oidc
    from sigstore import sign as signing
    from sigstore.dsse import Statement

    said: list[Any] = []

    class Signer:
        def __enter__(self) -> Signer:
            return self

        def __exit__(self, *_: Any) -> None: ...

        def sign_dsse(self, statement: Statement) -> SimpleNamespace:
            said.append(statement._contents)
            return SimpleNamespace(to_json=lambda: '{"dsseEnvelope": {}}')

    trust = SimpleNamespace(signing_config=SimpleNamespace(get_oidc_url=lambda: "https://issuer"))
    monkeypatch.setattr(models.ClientTrustConfig, "production", classmethod(lambda cls: trust))
    monkeypatch.setattr(oidc, "detect_credential", lambda: "token")
    monkeypatch.setattr(oidc, "IdentityToken", lambda text: said.append(text) or text)
    context = SimpleNamespace(signer=lambda token: Signer())
    monkeypatch.setattr(signing.SigningContext, "from_trust_config", classmethod(lambda cls, given: context))
    statement = json.dumps(json.loads(STATEMENT) | {"subject": [{"name": "w", "digest": {"sha256": "0" * 64}}]})
    assert json.loads(sign(statement, signed.SIGSTORE)) == {"dsseEnvelope": {}}
    assert said == ["token", statement.encode()]
    monkeypatch.setattr(oidc, "detect_credential", lambda: 1 / 0)
    with pytest.raises(InputError, match="sigstore did not sign"):
        sign(statement, signed.SIGSTORE)
    assert "was not signed by me" in str(objection({"dsseEnvelope": {}}, None, ("me", "https://issuer")))
