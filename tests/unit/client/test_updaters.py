"""The forms that other updaters want, as pure functions."""

from __future__ import annotations

import base64
import json
from hashlib import sha256

import pytest

from privyseal.errors import InputError
from privyseal.updaters import capawesome, codepush, expo, hot_updater

SIGNATURE = bytes(range(256))
ENCODED = base64.b64encode(SIGNATURE).decode()
A, B = sha256(b"a").digest(), sha256(b"b").digest()

MANIFEST = {
    "bundleId": "0198-x",
    "assets": {
        "main.bundle": {"fileHash": A.hex()},
        "assets/ü.png": {"fileHash": B.hex(), "signature": "old", "more": 1},
    },
}


class TestExpo:
    def test_the_header(self):
        assert expo.signature_header(SIGNATURE) == f'sig="{ENCODED}", keyid="main", alg="rsa-v1_5-sha256"'

    def test_a_key_id_is_escaped(self):
        assert r'keyid="a\"b\\c"' in expo.signature_header(SIGNATURE, r'a"b\c')

    @pytest.mark.parametrize("keyid", ["", "ä", "a\nb", "a\x7f"])
    def test_a_key_id_that_no_header_carries(self, keyid):
        with pytest.raises(InputError, match="key id"):
            expo.signature_header(SIGNATURE, keyid)


def test_capawesome():
    assert capawesome.signature_field(SIGNATURE) == ENCODED
    assert capawesome.checksum_field(A) == A.hex()


class TestHotUpdater:
    def test_the_digest_is_hashed_again(self):
        assert hot_updater.checksum_to_sign(A) == sha256(A).digest()
        assert hot_updater.signed_hash(SIGNATURE) == f"sig:{ENCODED}"

    def test_assets_get_signatures_and_the_rest_stays(self):
        manifest = hot_updater.parse_manifest(json.dumps(MANIFEST).encode())
        assert manifest.file_hashes == {"main.bundle": A, "assets/ü.png": B}
        text = manifest.with_signatures({"main.bundle": SIGNATURE, "assets/ü.png": b"\0"})
        assert text == (
            "{\n"
            '  "bundleId": "0198-x",\n'
            '  "assets": {\n'
            '    "main.bundle": {\n'
            f'      "fileHash": "{A.hex()}",\n'
            f'      "signature": "{ENCODED}"\n'
            "    },\n"
            '    "assets/ü.png": {\n'
            f'      "fileHash": "{B.hex()}",\n'
            '      "signature": "AA==",\n'
            '      "more": 1\n'
            "    }\n"
            "  }\n"
            "}\n"
        )

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\xff",
            b"[]",
            b"{}",
            b'{"assets": []}',
            b'{"assets": {"a": "x"}}',
            b'{"assets": {"a": {}}}',
            b'{"assets": {"a": {"fileHash": 1}}}',
            b'{"assets": {"a": {"fileHash": "sig:AA=="}}}',
            b'{"assets": {"a": {"fileHash": "%s"}}}' % A.hex().upper().encode(),
            b'{"assets": {}, "x": "\\ud800"}',
            b'{"assets": {}, "x": NaN}',
            b'{"assets": {}, "x": 1e400}',
            b'{"assets": {}, "assets": {}}',
            b'{"assets": {}, "x": ' + b"[" * 100_000,
        ],
    )
    def test_what_hot_updater_did_not_write(self, data):
        with pytest.raises(InputError):
            hot_updater.parse_manifest(data)


class TestCodePush:
    def test_the_hash_is_over_sorted_entries(self):
        entries = json.dumps([f"CodePush/a:{A.hex()}", f"CodePush/b/ü:{B.hex()}"], ensure_ascii=False)
        wanted = sha256(entries.replace(", ", ",").encode()).hexdigest()
        assert codepush.content_hash({"CodePush/b/ü": B, "CodePush/a": A}) == wanted

    def test_the_order_is_that_of_utf_16(self):
        # U+1F600 comes after U+FF5E in Python, and before it in JavaScript.
        entries = json.dumps([f"C/\U0001f600:{A.hex()}", f"C/\uff5e:{B.hex()}"], ensure_ascii=False)
        wanted = sha256(entries.replace(", ", ",").encode()).hexdigest()
        assert codepush.content_hash({"C/\uff5e": B, "C/\U0001f600": A}) == wanted

    @pytest.mark.parametrize("name", ["C/.DS_Store", "C/a/.DS_Store", "C/.codepushrelease", "__MACOSX/a"])
    def test_what_does_not_count(self, name):
        assert codepush.content_hash({"C/a": A, name: B}) == codepush.content_hash({"C/a": A})

    @pytest.mark.parametrize("name", ["C/x.DS_Store", "C/.DS_Store/a", "C/__MACOSX/a"])
    def test_what_counts_all_the_same(self, name):
        assert codepush.content_hash({"C/a": A, name: B}) != codepush.content_hash({"C/a": A})

    def test_a_backslash_counts_as_a_slash(self):
        assert codepush.content_hash({"C/a\\b": A}) == codepush.content_hash({"C/a/b": A})
        with pytest.raises(InputError, match="two files count as C/a/b"):
            codepush.content_hash({"C/a\\b": A, "C/a/b": A})

    @pytest.mark.parametrize("digests", [{}, {"C/.DS_Store": A}])
    def test_nothing_to_hash(self, digests):
        with pytest.raises(InputError, match="no files"):
            codepush.content_hash(digests)

    def test_the_token(self):
        token = codepush.release(codepush.signing_input("ab", 1_700_000_000), b"\xff\xfe")
        header, claims, signature = token.decode().split(".")
        assert json.loads(base64.urlsafe_b64decode(header + "==")) == {"alg": "RS256", "typ": "JWT"}
        assert json.loads(base64.urlsafe_b64decode(claims + "==")) == {
            "claimVersion": "1.0.0",
            "contentHash": "ab",
            "iat": 1_700_000_000,
        }
        assert signature == "__4"
