"""What is said of a certificate: what makes it unusable, and what a person should know."""

import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from fastlb.control_plane.tls.certificate import Certificate
from fastlb.control_plane.tls.certificates import read_authorities, read_certificate, read_crls
from fastlb.control_plane.tls.files import Finding, TlsError, TlsFiles
from tests.support.authority import Authority, Issued, key_pem, make_key, put

ROOT = Authority("root")
MIDDLE = Authority("middle", ROOT, 1)
TOP = Authority("top", MIDDLE, 2)


def read(directory: Path, cert: str = "shop.pem", key: str = "shop.key") -> tuple[Certificate, list[Finding]]:
    return read_certificate(TlsFiles(str(directory)), cert, key)


def refusal(directory: Path, cert: str = "shop.pem", key: str = "shop.key") -> str:
    with pytest.raises(TlsError) as raised:
        read(directory, cert, key)
    return str(raised.value)


def findings(directory: Path, issued: Issued, *chain: Authority) -> list[str]:
    issued.write(directory, "shop", *chain)
    return [str(finding) for finding in read(directory)[1]]


# ---------------------------------------------------------------------------------------------------- what is right
@pytest.mark.parametrize(("kind", "key_type"), [("ec", "ECDSA"), ("ec384", "ECDSA"), ("rsa2048", "RSA")])
def test_a_good_certificate_has_nothing_odd(tmp_path: Path, kind: str, key_type: str) -> None:
    issued = ROOT.issue("Shop.Example.com", "*.shop.example.com", "127.0.0.1", kind=kind)
    issued.write(tmp_path, "shop")
    certificate, found = read(tmp_path)
    assert found == []
    assert (certificate.cert, certificate.key_file, certificate.key_type) == ("shop.pem", "shop.key", key_type)
    assert certificate.names == ("shop.example.com", "*.shop.example.com")
    assert certificate.chain == issued.pem
    assert certificate.key == issued.key_pem
    assert certificate.fingerprint == issued.certificate.fingerprint(hashes.SHA256()).hex()
    assert certificate.issuer == "root"
    assert 89 * 86400 < certificate.seconds_left(time.time()) <= 90 * 86400
    assert key_pem(issued.key).decode() not in repr(certificate)


def test_certificate_and_key_may_share_a_file(tmp_path: Path) -> None:
    issued = ROOT.issue("a.example")
    put(tmp_path / "shop.pem", issued.key_pem + issued.pem)
    certificate, found = read(tmp_path, key="shop.pem")
    assert (certificate.names, found) == (("a.example",), [])


@pytest.mark.parametrize("form", [serialization.PrivateFormat.TraditionalOpenSSL, serialization.PrivateFormat.PKCS8])
@pytest.mark.parametrize("kind", ["ec", "rsa2048"])
def test_older_forms_of_keys_become_pkcs8(tmp_path: Path, kind: str, form: serialization.PrivateFormat) -> None:
    issued = ROOT.issue("a.example", kind=kind)
    issued.write(tmp_path, "shop")
    old = issued.key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    put(tmp_path / "shop.key", b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n" + old)
    certificate, found = read(tmp_path)
    assert certificate.key == issued.key_pem
    assert found == []


def test_a_chain_is_sent_leaf_first_with_all_that_signed(tmp_path: Path) -> None:
    issued = TOP.issue("a.example")
    assert findings(tmp_path, issued, TOP, MIDDLE) == []
    assert read(tmp_path)[0].chain == issued.pem + TOP.pem + MIDDLE.pem


# ---------------------------------------------------------------------------------------------------- what can be mended
@pytest.mark.parametrize("order", ["leaf last", "middle before top", "root first"])
def test_a_chain_that_is_not_in_order_is_put_in_order_and_said(tmp_path: Path, order: str) -> None:
    issued = TOP.issue("a.example")
    parts = {
        "leaf last": (TOP, MIDDLE, issued),
        "middle before top": (issued, MIDDLE, TOP),
        "root first": (ROOT, issued, TOP, MIDDLE),
    }
    put(tmp_path / "shop.pem", b"".join(part.pem for part in parts[order]))
    put(tmp_path / "shop.key", issued.key_pem)
    certificate, found = read(tmp_path)
    assert certificate.chain.startswith(issued.pem + TOP.pem + MIDDLE.pem)
    assert [finding.found for finding in found] == ["its certificates are not in order"]


def test_certificates_that_have_nothing_to_do_with_it_are_not_sent(tmp_path: Path) -> None:
    issued = ROOT.issue("a.example")
    (said,) = findings(tmp_path, issued, ROOT, Authority("somebody", number=7))
    assert said == "shop.pem: it holds certificates that have not signed this one (somebody); they are not sent; remove them"
    assert read(tmp_path)[0].chain == issued.pem + ROOT.pem


def test_an_authority_of_the_same_name_with_another_key_has_not_signed(tmp_path: Path) -> None:
    issued = ROOT.issue("a.example")
    (said,) = findings(tmp_path, issued, Authority("root", number=8))
    assert "have not signed this one (root)" in said
    assert read(tmp_path)[0].chain == issued.pem


# ---------------------------------------------------------------------------------------------------- what a person should know
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"days": 13.5}, "the certificate expires in 13 days, at "),
        ({"days": 1.5}, "the certificate expires in 1 day, at "),
        ({"days": 0.5}, "the certificate expires today, at "),
        ({"days": -2}, "the certificate has expired, at "),
        ({"since": 2}, "the certificate is not valid before "),
        ({"usage": [ExtendedKeyUsageOID.CLIENT_AUTH]}, "the certificate is not for servers (extendedKeyUsage); "),
        ({"issuer_url": "http://ca.example/ca.der"}, "the certificate of the authority that signed it is missing; append that of root: "),
        ({"kind": "ed25519"}, "no browser takes an EdDSA key; "),
    ],
)
def test_what_is_odd_is_said(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    (said,) = findings(tmp_path, ROOT.issue("a.example", **options))
    assert said.startswith(f"shop.pem: {says}")


def test_two_weeks_before_the_end_nothing_is_said_yet(tmp_path: Path) -> None:
    assert findings(tmp_path, ROOT.issue("a.example", days=14.1)) == []


def test_usage_for_servers_and_an_issuer_that_is_there_are_not_odd(tmp_path: Path) -> None:
    issued = MIDDLE.issue("a.example", usage=[ExtendedKeyUsageOID.SERVER_AUTH], issuer_url="http://ca.example/ca.der")
    assert findings(tmp_path, issued, MIDDLE) == []


def test_without_subject_alternative_name_there_are_no_names(tmp_path: Path) -> None:
    (said,) = findings(tmp_path, ROOT.issue(common_name="a.example"))
    assert said.startswith("shop.pem: the certificate has no subjectAltName; browsers look at nothing else")
    assert read(tmp_path)[0].names == ()


@pytest.mark.parametrize("name", ["w*.example.com", "*", "a.*.example.com", "-a.example", "a" * 64 + ".example", "a..b"])
def test_names_that_cannot_be_served_are_said_and_left_out(tmp_path: Path, name: str) -> None:
    (said,) = findings(tmp_path, ROOT.issue("good.example", name))
    assert said.startswith(f'shop.pem: the name "{name}" of the certificate is not served; ')
    assert read(tmp_path)[0].names == ("good.example",)


@pytest.mark.parametrize(("mode", "is_said"), [(0o600, False), (0o640, False), (0o644, True), (0o660, True), (0o604, True)])
def test_a_key_that_others_can_read_is_said(tmp_path: Path, mode: int, is_said: bool) -> None:
    ROOT.issue("a.example").write(tmp_path, "shop")
    (tmp_path / "shop.key").chmod(mode)
    expected = ["shop.key: this private key can be read or written by others; chmod 600 shop.key"]
    assert [str(finding) for finding in read(tmp_path)[1]] == (expected if is_said else [])


# ---------------------------------------------------------------------------------------------------- what cannot be used
def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    ROOT.issue("a.example").write(tmp_path, "shop")
    put(tmp_path / "shop.key", key_pem(make_key("ec", 2)))
    assert refusal(tmp_path).startswith("shop.pem: the private key shop.key does not belong to the certificate; ")
    put(tmp_path / "both.pem", ROOT.issue("a.example").pem + key_pem(make_key("ec", 2)))
    assert refusal(tmp_path, "both.pem", "both.pem").startswith("both.pem: the private key in it does not belong to the certificate; ")


@pytest.mark.parametrize("kind", ["ec", "rsa2048"])
@pytest.mark.parametrize("form", [serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL])
def test_an_encrypted_key_says_how_to_decrypt_it(tmp_path: Path, kind: str, form: serialization.PrivateFormat) -> None:
    issued = ROOT.issue("a.example", kind=kind)
    issued.write(tmp_path, "shop")
    encryption = serialization.BestAvailableEncryption(b"secret")
    put(tmp_path / "shop.key", issued.key.private_bytes(serialization.Encoding.PEM, form, encryption))
    said = refusal(tmp_path)
    assert said.startswith("shop.key: the private key is encrypted; ")
    assert "openssl pkey -in shop.key -out shop.key.plain" in said


@pytest.mark.parametrize("bits", [1024, 1536])
def test_a_short_rsa_key_is_refused(tmp_path: Path, bits: int) -> None:
    ROOT.issue("a.example", kind=f"rsa{bits}").write(tmp_path, "shop")
    assert refusal(tmp_path) == f"shop.pem: the certificate has an RSA key of {bits} bits; clients refuse less than 2048"


def test_a_weak_curve_is_refused(tmp_path: Path) -> None:
    ROOT.issue("a.example", kind="ec192").write(tmp_path, "shop")
    assert refusal(tmp_path) == "shop.pem: the certificate has an ECDSA key on the curve secp192r1; browsers take P-256 and P-384"


def test_a_signature_with_sha1_is_refused(tmp_path: Path) -> None:
    certificate = x509.load_pem_x509_certificate(SIGNED_WITH_SHA1)
    put(tmp_path / "shop.pem", SIGNED_WITH_SHA1)
    put(tmp_path / "shop.key", KEY_OF_SHA1)
    assert certificate.signature_hash_algorithm is not None
    assert refusal(tmp_path) == "shop.pem: the certificate is signed with SHA1; clients refuse that: it has to be SHA-256 or better"


def test_a_key_of_a_kind_that_tls_does_not_use_is_refused(tmp_path: Path) -> None:
    ROOT.issue("a.example").write(tmp_path, "shop")
    put(tmp_path / "shop.key", key_pem(dsa.generate_private_key(1024)))
    assert refusal(tmp_path).startswith("shop.key: TLS has no use for a key of this kind; ")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda pem: b"", "shop.pem: there is no certificate in it; it is PEM"),
        (lambda pem: pem[:200], "shop.pem: a block of the file has no end; "),
        (lambda pem: pem.replace(b"M", b"N", 3), "shop.pem: the certificate cannot be read; "),
        (lambda pem: pem + pem[:400] + b"\n-----END CERTIFICATE-----\n", "shop.pem: certificate 2 of 2 cannot be read; "),
        (
            lambda pem: b"\x30\x82\x01\x00",
            "shop.pem: there is no certificate in it; this looks like DER: openssl x509 -inform der -in shop.pem",
        ),
        (lambda pem: b"x" * (2 << 20), "shop.pem: the file is too large; at most 1 MiB"),
    ],
)
def test_a_damaged_certificate_says_what_is_wrong(tmp_path: Path, damage: Any, says: str) -> None:
    issued = ROOT.issue("a.example")
    issued.write(tmp_path, "shop")
    put(tmp_path / "shop.pem", damage(issued.pem))
    assert refusal(tmp_path).startswith(says)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda pem: b"", "shop.key: there is no private key in it; "),
        (lambda pem: pem[:60], "shop.key: a block of the file has no end; "),
        (lambda pem: pem.replace(b"M", b"N", 3), "shop.key: the private key cannot be read; "),
        (lambda pem: pem + pem, "shop.key: there are 2 private keys in it; "),
        (lambda pem: b"\x30\x82\x01\x00", "shop.key: there is no private key in it; this looks like DER: openssl pkey -inform der"),
    ],
)
def test_a_damaged_key_says_what_is_wrong(tmp_path: Path, damage: Any, says: str) -> None:
    issued = ROOT.issue("a.example")
    issued.write(tmp_path, "shop")
    put(tmp_path / "shop.key", damage(issued.key_pem))
    assert refusal(tmp_path).startswith(says)


def test_every_cut_of_both_files_is_refused_or_right(tmp_path: Path) -> None:
    issued = MIDDLE.issue("a.example")
    chain, key = issued.pem + MIDDLE.pem, issued.key_pem
    whole = {"shop.pem": (len(issued.pem) - 1, len(issued.pem) + 4), "shop.key": (0, -1)}  # a chain without its end is a chain
    for content, name in ((chain, "shop.pem"), (key, "shop.key")):
        for size in range(0, len(content) - 1, 7):
            issued.write(tmp_path, "shop", MIDDLE)
            (tmp_path / name).write_bytes(content[:size])
            if not whole[name][0] <= size <= whole[name][1]:
                assert re.match(r"shop\.(pem|key): .+; .+", refusal(tmp_path)), size


def test_files_that_are_none_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    ROOT.issue("a.example").write(tmp_path, "shop")
    assert refusal(tmp_path, "fifo") == "fifo: this is not a file; give the path of a PEM file"
    assert refusal(tmp_path, "absent.pem").startswith("absent.pem: cannot be read: no such file or directory; ")
    assert refusal(tmp_path, ".").startswith(".: ")


def test_texts_of_a_certificate_cannot_command_a_terminal(tmp_path: Path) -> None:
    evil = Authority("\x1b[2Jevil" + "x" * 55, number=9)
    (said,) = findings(tmp_path, ROOT.issue("a.example"), evil)
    assert "\x1b" not in said


# ---------------------------------------------------------------------------------------------------- bundles
def test_a_bundle_holds_authorities(tmp_path: Path) -> None:
    put(tmp_path / "ca.pem", b"Subject: root\n" + ROOT.pem + MIDDLE.pem)
    assert read_authorities(TlsFiles(str(tmp_path)), "ca.pem") == (ROOT.pem + MIDDLE.pem, [])


def test_what_is_no_authority_in_a_bundle_is_said(tmp_path: Path) -> None:
    put(tmp_path / "ca.pem", ROOT.pem + ROOT.issue("a.example").pem)
    _, (finding,) = read_authorities(TlsFiles(str(tmp_path)), "ca.pem")
    assert str(finding) == "ca.pem: a.example is no certificate of an authority; nothing that it has signed is accepted"
    put(tmp_path / "ca.pem", b"nothing")
    with pytest.raises(TlsError, match=r"ca\.pem: there is no certificate in it"):
        read_authorities(TlsFiles(str(tmp_path)), "ca.pem")


def test_lists_of_revoked_certificates_are_pem_or_der(tmp_path: Path) -> None:
    pem = ROOT.revoke(ROOT.issue("a.example"))
    other = MIDDLE.revoke()
    put(tmp_path / "a.crl", pem + other)
    assert read_crls(TlsFiles(str(tmp_path)), "a.crl") == (pem + other, [])
    put(tmp_path / "b.crl", x509.load_pem_x509_crl(pem).public_bytes(serialization.Encoding.DER))
    assert read_crls(TlsFiles(str(tmp_path)), "b.crl") == (pem, [])


def test_an_old_list_of_revoked_certificates_is_said(tmp_path: Path) -> None:
    put(tmp_path / "a.crl", ROOT.revoke(days=-1))
    _, (finding,) = read_crls(TlsFiles(str(tmp_path)), "a.crl")
    assert str(finding).startswith("a.crl: the list of root has expired; OpenSSL refuses every client of this authority")


@pytest.mark.parametrize("content", [b"", ROOT.pem, b"\x30\x03abc", b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"])
def test_what_is_no_list_of_revoked_certificates_is_refused(tmp_path: Path, content: bytes) -> None:
    put(tmp_path / "a.crl", content)
    with pytest.raises(TlsError):
        read_crls(TlsFiles(str(tmp_path)), "a.crl")


# cryptography makes none of these any more: openssl x509 -req -sha1
SIGNED_WITH_SHA1 = b"""\
-----BEGIN CERTIFICATE-----
MIICqDCCAZACFHc4SVbhnzLXINqtjzuIy67tPNKlMA0GCSqGSIb3DQEBBQUAMA0x
CzAJBgNVBAMMAmNhMB4XDTI2MTEyNzIyMjQ0NVoXDTM2MTEyNDIyMjQ0NVowFDES
MBAGA1UEAwwJYS5leGFtcGxlMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKC
AQEA1HiyQTYylK2J3TaaHOpSneoxiyLVJZiUteIaNFWginnOZDtoSK6V+SW83Eun
39DaBBAkurdIVm9bI4PufqXsBe109gZcos+qcbS9qTyPuzwMVij44GHoT0Wcg88o
i1GBX6tqQs6UNynjPDoUi9j4Dz8+zytauiwdOnPREaCa/ZbZl20w6p+D+bESxB2s
4S9dC3Da7DkinkZnwSBrztO8zb9YilZZKHAzMUN3WM5vPT57SK+lt59TH4L7FpUR
obCFw7osIuYH9ytBwrvaxUFUUhTmqqXYOt2OoSeFodT/UU7IIR1ysOwB56RnAWCu
cA8NSHdFkWSbTM8ddrbKVntsPQIDAQABMA0GCSqGSIb3DQEBBQUAA4IBAQB0/AXs
pTekBZp/WA1XQh8CYQoqLuRyxmq4Yk4r13o/32uWbBj8GzJ2b+gqj5m3kIr/DmVd
AIE5qPfsdRnnzvdGGy4wwu4cpMdP9XkkoYvWvAn1HBQCuZZv6mec1zMYo6AtNACl
4ociXjDhIkU4faavZBBidsUk98NvjfPZI7avfDp/uLHtQpz8l1wBPX09aSASiSmU
knddRHlWt1c9cbB2mfTlvA5/fyUSXGW5QfshbfXnGVBsd0vM6qZnwT3NtOE29D44
5+SDmXH1LwEeHQLVf1/IeqY5GBOKc0lktTr+A/MiO1G0hZxRGhfJZA1G/Q5Ya/6K
57ips34akG1Lk/ZW
-----END CERTIFICATE-----
"""
KEY_OF_SHA1 = b"""\
-----BEGIN PRIVATE KEY-----
MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQDUeLJBNjKUrYnd
Npoc6lKd6jGLItUlmJS14ho0VaCKec5kO2hIrpX5JbzcS6ff0NoEECS6t0hWb1sj
g+5+pewF7XT2Blyiz6pxtL2pPI+7PAxWKPjgYehPRZyDzyiLUYFfq2pCzpQ3KeM8
OhSL2PgPPz7PK1q6LB06c9ERoJr9ltmXbTDqn4P5sRLEHazhL10LcNrsOSKeRmfB
IGvO07zNv1iKVlkocDMxQ3dYzm89PntIr6W3n1MfgvsWlRGhsIXDuiwi5gf3K0HC
u9rFQVRSFOaqpdg63Y6hJ4Wh1P9RTsghHXKw7AHnpGcBYK5wDw1Id0WRZJtMzx12
tspWe2w9AgMBAAECggEABitnCau4Nkb/vNOsD/Dh60H0pFSjmc7fapShLCncWokE
7DYpZgrjwfNNk5wCyOX4nquVVXKjABeFrvdSwoyw2M83WTmAER40lc6ovzRJ/CbX
ON1BtMpDA6JC1DT8uWbpecyxbjUvapalyYbqN9FaCp9MhJl+re8//gWE6Z0fQwPD
yqlH3UcRV9utUVvdBAzF7/BbYlNjEYKCC7wk5SzvTQPZHGBYtUZC+BXxgwUxzGys
n+1cBluMGkT3bsGZUt7gqvz/yhft4h6Cxe0D0TGn3p3yFF3vMOPe+eT9CVYn+lMl
0NdTVpj1Z/NjFf+HPYi5NHSco/Al8E68uBaCa3ibIQKBgQDwo7WSLmjuHNRkO3hh
Gl8AEKkh0VoNbnvAdYk+K1p/Fl6IFcHLu+uOQTyOM10/FxwmXCYdElfVFgW+VgZw
LvbzOKHXaEsrOCdRCnSETIy8S5WXP95cS0Rygx/aK0BF8rIMUu/FmYBiyH76wdTW
Zl0W6yw4YB/pKKB8LDEU9sFdeQKBgQDiCLF+6Y6dimVVvil7rdIdHoYqjT9717wv
REz4dVrGQ++pjDHvRi7I8YS+xqRU7OXKA4sFHmiob9peSTrPqVCSKGYdsirw6xYd
l54j/yqQL6/Ho9DTZoJkqFNqlCaBnJxyFmYm+yFdFRWttbXq/1d2aFlMWE8SIWaW
r+xIRviH5QKBgC7KNjjpSz/ZXTbsFVkULpqtoqVPtqnb7LYcZIYxGdSSPelKCbea
n4+2gZbIx/3HeZK/4i1O7sMhGBbNVU0k5KGgRl/DCLKrpYFtfgBnfgnyzHBvW8Yo
YHO/qUbbmBDBwvsAeVy7nyoWABKz87WIi9sz+RIxJqNIYgQi95wy6qBJAoGAFXrm
Az2GxAnm32MW5h36nbHM5jZOFiLGS2eeOO5OFhFWsTIVfLuarpXlG4wdCcUJgU0c
5Puizn7yrYsf/6QDeCBGtAO+eO6eR2mlKZ6SGOmvNrWmnrBbK92jL7msfxy28VCX
nJS48vOR/9QI2bAyS5pXAh5SRVLPQPqu5Z949tECgYEAjnrtDveKmIonsQ+32td9
ergF09KD5ZEVoqqxElp7BupgYGyShuWoAjDGSkpfEG7Fwo0StkL4oX4iid+HZ7nZ
ZYn0n1qJPrx0NeIMfS/QDlTR2O3qEGVKRf23mmsmt/brsCxpIVdzDyqxh2mdIzz1
16nN2mr6Htn3tuVznyGRBsY=
-----END PRIVATE KEY-----
"""
