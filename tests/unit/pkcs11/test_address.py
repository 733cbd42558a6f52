"""RFC 7512 URIs: what is taken, what is refused, and that no PIN shows."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privyseal_backends.interface import CallerError
from privyseal_backends.pkcs11.address import KeyAddress, parse_uri

MODULE = "module-path=/lib/m.so"

FULL_TEXT = (
    "pkcs11:token=My%20token;manufacturer=Snake%20Oil,%20Inc.;serial=DECC0401648;model=2.0;slot-id=327"
    ";slot-description=Sun%20Metaslot;slot-manufacturer=Sun;library-manufacturer=Snake%20Oil,%20Inc."
    ";library-description=Soft%20Token%20Library;library-version=1.23;object=my-signing-key;type=private"
    ";id=%69%95%3E%00%ff?pin-source=file:/etc/token%20pin&module-name=snake&module-path=/lib/a%20b.so"
)
FULL = KeyAddress(
    token="My token",
    manufacturer="Snake Oil, Inc.",
    serial="DECC0401648",
    model="2.0",
    slot_id=327,
    slot_description="Sun Metaslot",
    slot_manufacturer="Sun",
    library_manufacturer="Snake Oil, Inc.",
    library_description="Soft Token Library",
    library_version=(1, 23),
    object_label="my-signing-key",
    object_id=b"\x69\x95\x3e\x00\xff",
    module_path="/lib/a b.so",
    module_name="snake",
    pin_source="file:/etc/token pin",
)


@pytest.mark.parametrize(
    ("uri", "parsed"),
    [
        (
            FULL_TEXT,
            FULL,
        ),
        (f"pkcs11:object=k?{MODULE}", KeyAddress(object_label="k", module_path="/lib/m.so")),
        (f"PKCS11:object=k?{MODULE}", KeyAddress(object_label="k", module_path="/lib/m.so")),
        (f"pkcs11:id=abc?{MODULE}", KeyAddress(object_id=b"abc", module_path="/lib/m.so")),
        ("pkcs11:object=k?module-name=softhsm2", KeyAddress(object_label="k", module_name="softhsm2")),
        (f"pkcs11:object=a=b&c?{MODULE}", KeyAddress(object_label="a=b&c", module_path="/lib/m.so")),
        (f"pkcs11:object=k%C3%A9y?{MODULE}", KeyAddress(object_label="kéy", module_path="/lib/m.so")),
        (
            f"pkcs11:object=k;library-version=3?{MODULE}",
            KeyAddress(object_label="k", library_version=(3, 0), module_path="/lib/m.so"),
        ),
        ("pkcs11:object=k?module-path=/a?b|c", KeyAddress(object_label="k", module_path="/a?b|c")),
    ],
)
def test_what_rfc_7512_allows_is_read(uri: str, parsed: KeyAddress) -> None:
    assert parse_uri(uri) == parsed


@pytest.mark.parametrize(
    ("uri", "word"),
    [
        ("", "pkcs11:"),
        ("awskms:///arn", "pkcs11:"),
        ("pkcs11:", "names no key"),
        (f"pkcs11:token=t?{MODULE}", "names no key"),
        ("pkcs11:object=k", "names no module"),
        (f"pkcs11:object=k;object=l?{MODULE}", "object twice"),
        (f"pkcs11:object=k?{MODULE}&{MODULE}", "module-path twice"),
        (f"pkcs11:object=k;colour=red?{MODULE}", "colour"),
        (f"pkcs11:object=k?{MODULE}&x-colour=red", "x-colour"),
        (f"pkcs11:object=k;module-path=/m.so?{MODULE}", "belongs into the query"),
        (f"pkcs11:object=k?{MODULE}&token=t", "belongs into the path"),
        (f"pkcs11:object=k;?{MODULE}", "without a name"),
        (f"pkcs11:object=k;=v?{MODULE}", "without a name"),
        (f"pkcs11:object=k;token?{MODULE}", "without a value"),
        (f"pkcs11:object=?{MODULE}", "empty object"),
        (f"pkcs11:id=?{MODULE}", "empty id"),
        (f"pkcs11:object=my key?{MODULE}", "percent-encode"),
        (f"pkcs11:object=a/b?{MODULE}", "percent-encode"),
        (f"pkcs11:object=a%2?{MODULE}", "percent-encode"),
        (f"pkcs11:object=a%zz?{MODULE}", "percent-encode"),
        (f"pkcs11:object=k?{MODULE}#fragment", "percent-encode"),
        (f"pkcs11:object=ké?{MODULE}", "percent-encode"),
        (f"pkcs11:object=%ff?{MODULE}", "UTF-8"),
        (f"pkcs11:object=a%00b?{MODULE}", "zero byte"),
        (f"pkcs11:object=k;type=public?{MODULE}", "type other than private"),
        (f"pkcs11:object=k;type=Private?{MODULE}", "RFC 7512"),
        (f"pkcs11:object=k;slot-id=0x1?{MODULE}", "decimal"),
        (f"pkcs11:object=k;slot-id=-1?{MODULE}", "decimal"),
        (f"pkcs11:object=k;library-version=one?{MODULE}", "version"),
        (f"pkcs11:object=k;token={'t' * 33}?{MODULE}", "32 bytes"),
        (f"pkcs11:object={'k' * 5000}?{MODULE}", "4096"),
    ],
)
def test_what_it_does_not_allow_is_refused_in_a_sentence(uri: str, word: str) -> None:
    with pytest.raises(CallerError, match=r".+") as caught:
        parse_uri(uri)
    assert word in str(caught.value)
    assert caught.value.part == "URI"
    assert caught.value.remedy


@pytest.mark.parametrize("value", ["Secret-4711", "%53ecret-4711", "Secret-4711;object=k", "Secret-4711 "])
def test_a_pin_in_the_uri_is_refused_with_a_reason_and_not_shown(value: str) -> None:
    with pytest.raises(CallerError) as caught:
        parse_uri(f"pkcs11:object=k?{MODULE}&pin-value={value}")
    shown = f"{caught.value} {caught.value!r} {caught.value.args}"
    assert "4711" not in shown
    assert caught.value.remedy


texts = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=8)


@settings(deadline=None)
@given(
    token=texts,
    label=texts,
    object_id=st.binary(min_size=1, max_size=24),
    path=texts,
    source=texts,
    slot=st.integers(0, 2**64 - 1),
)
def test_whatever_is_percent_encoded_comes_back(
    token: str, label: str, object_id: bytes, path: str, source: str, slot: int
) -> None:
    hexed = "".join(f"%{byte:02x}" for byte in object_id)
    uri = (
        f"pkcs11:token={quote(token, safe='')};object={quote(label, safe='')};id={hexed};slot-id={slot}"
        f"?module-path={quote(path, safe='/')}&pin-source={quote(source, safe=':/')}"
    )
    assert parse_uri(uri) == KeyAddress(
        token=token, object_label=label, object_id=object_id, slot_id=slot, module_path=path, pin_source=source
    )


@settings(deadline=None)
@given(st.one_of(st.text(max_size=200), st.from_regex(r"pkcs11:[a-z0-9;=%?&\-]{0,60}", fullmatch=True)))
def test_no_text_raises_anything_but_a_sentence(text: str) -> None:
    try:
        parse_uri(text)
    except CallerError as error:
        sentence = error
    else:
        return
    assert (sentence.part, bool(sentence.message), bool(sentence.remedy)) == ("URI", True, True)
