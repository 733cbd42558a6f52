"""Notes, keys and checkpoints against the examples that the C2SP documents print, and what must be refused."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privyseal.transparency.checkpoint import (
    Checkpoint,
    Note,
    SignatureType,
    Signer,
    VerifierKey,
    cosigned_by,
    open_checkpoint,
    split_notes,
)
from privyseal.transparency.errors import KeyFileError, NoteError
from privyseal.transparency.merkle import EMPTY_ROOT

# C2SP signed-note, "Verifier keys", example.
EXAMPLE_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
EXAMPLE_NOTE = """This is an example message.

— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=
""".encode()

# C2SP signed-note, "Format": an empty line inside the text.
POEM = """Ognuno sta solo sul cuor della terra
trafitto da un raggio di sole:

ed è subito sera.

— quasimodo.example/salvatore \
NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=
""".encode()

# C2SP tlog-checkpoint, the example; tlog-cosignature has the same with a witness's line.
EXAMPLE_CHECKPOINT = """example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa \
Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
""".encode()
EXAMPLE_COSIGNATURE = (
    "— witness.example.com/w1 "
    "jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
).encode()

# The example key of golang.org/x/mod/sumdb/note's documentation.
GO_PRIVATE = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_PUBLIC = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
GO_NOTE = (
    GO_TEXT + "\n— PeterNeumann "
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
).encode()

ORIGIN = "audit.example.com/replica-1"
SIGNER = Signer(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
CHECKPOINT = Checkpoint(ORIGIN, 17, bytes(range(32)))
SIGNED = SIGNER.sign(CHECKPOINT.text())


def test_the_example_of_signed_note():
    key = VerifierKey.parse(EXAMPLE_KEY)
    assert str(key) == EXAMPLE_KEY
    note = Note.parse(EXAMPLE_NOTE)
    assert note.text == "This is an example message.\n"
    assert note.verified_by([key]) == [key]


def test_a_text_with_an_empty_line():
    note = Note.parse(POEM)
    assert note.text.endswith("raggio di sole:\n\ned è subito sera.\n")
    assert [signature.name for signature in note.signatures] == ["quasimodo.example/salvatore"]


def test_the_example_of_tlog_checkpoint():
    note = Note.parse(EXAMPLE_CHECKPOINT + EXAMPLE_COSIGNATURE)
    checkpoint = Checkpoint.parse(note.text)
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20852163)
    assert checkpoint.root == base64.b64decode("CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=")
    assert checkpoint.text() == note.text
    assert int.from_bytes(note.signatures[1].signature[:8], "big") == 1679315147  # the time that the document shows


def test_go_and_we_sign_alike():
    signer = Signer.parse(GO_PRIVATE + "\n")
    assert str(signer.verifier) == GO_PUBLIC
    assert signer.private_text() == GO_PRIVATE
    assert signer.sign(GO_TEXT) == GO_NOTE
    assert Note.parse(GO_NOTE).verified_by([VerifierKey.parse(GO_PUBLIC)])


def test_a_private_key_is_in_no_repr():
    signer = Signer.generate(ORIGIN)
    secret = signer.private_text().split("+", 4)[4]
    assert secret not in repr(signer)
    assert Signer.parse(signer.private_text()).verifier == signer.verifier


def test_a_signed_checkpoint_opens():
    assert open_checkpoint(SIGNED, [SIGNER.verifier]) == CHECKPOINT


def test_former_keys_still_open_old_checkpoints():
    other = Signer.generate(ORIGIN)
    assert open_checkpoint(SIGNED, [other.verifier, SIGNER.verifier]) == CHECKPOINT


def test_signatures_of_others_are_ignored():
    other = Signer.generate("other.example.com/log").sign(CHECKPOINT.text()).rpartition(b"\n\n")[2]
    assert open_checkpoint(SIGNED + other, [SIGNER.verifier]) == CHECKPOINT


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda note: note.replace(b"\n17\n", b"\n18\n"), "is wrong"),
        (lambda note: note.replace(b"replica-1\n17", b"replica-2\n17"), "no public key is known"),
        (lambda note: note.rpartition(b"\n\n")[0] + b"\n", "no signatures"),
        (lambda note: note + b"- a b\n", "none"),
        (lambda note: note[:-1], "no signatures"),
        (lambda note: note.replace(b"\n17", b"\t\n17"), "control character"),
        (lambda note: note + b"\xff\n", "not UTF-8"),
        (lambda note: note + b"x" * 300_000, "too long"),
    ],
)
def test_a_changed_checkpoint_is_refused(change, says):
    with pytest.raises(NoteError, match=says):
        open_checkpoint(change(SIGNED), [SIGNER.verifier])


def test_every_flipped_bit_of_text_or_signature_is_refused():
    for position in range(len(SIGNED)):
        for bit in (1, 32):
            changed = bytearray(SIGNED)
            changed[position] ^= bit
            with pytest.raises(NoteError):
                open_checkpoint(bytes(changed), [SIGNER.verifier])


def test_another_logs_key_does_not_sign_for_this_one():
    other = Signer.generate("other.example.com/log")
    with pytest.raises(NoteError, match="no public key is known"):
        open_checkpoint(other.sign(CHECKPOINT.text()), [other.verifier])


def test_a_key_of_the_same_name_and_another_id_is_not_enough():
    with pytest.raises(NoteError, match="none of its known keys"):
        open_checkpoint(Signer.generate(ORIGIN).sign(CHECKPOINT.text()), [SIGNER.verifier])


@pytest.mark.parametrize(
    "text",
    [
        f"{ORIGIN}\n017\n{base64.b64encode(bytes(32)).decode()}\n",
        f"{ORIGIN}\n-1\n{base64.b64encode(bytes(32)).decode()}\n",
        f"{ORIGIN}\n1\n{base64.b64encode(bytes(31)).decode()}\n",
        f"{ORIGIN}\n1\n\n",
        f"\n1\n{base64.b64encode(bytes(32)).decode()}\n",
        f"{ORIGIN}\n1\n{base64.b64encode(bytes(32)).decode()}\n\n",
        f"{ORIGIN}\n1\n{base64.b64encode(bytes(32)).decode()}",
        f"{ORIGIN}\n0\n{base64.b64encode(bytes(32)).decode()}\n",
        "",
    ],
)
def test_what_is_no_checkpoint_is_refused(text):
    with pytest.raises(NoteError):
        Checkpoint.parse(text)


def test_the_empty_tree_and_extension_lines_are_checkpoints():
    empty = Checkpoint(ORIGIN, 0, EMPTY_ROOT)
    assert Checkpoint.parse(empty.text()) == empty
    assert Checkpoint.parse(CHECKPOINT.text() + "an extension\n") == CHECKPOINT


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "example.com/foo",
        EXAMPLE_KEY.replace("530d903a", "530d903b"),
        EXAMPLE_KEY.replace("530d903a", "530D903A"),
        EXAMPLE_KEY.replace("AekyeR", "AfkyeR"),
        EXAMPLE_KEY.replace("+AekyeR", "+CekyeR"),
        EXAMPLE_KEY[:-4],
        EXAMPLE_KEY.replace("example.com/foo", "example.com foo"),
        EXAMPLE_KEY.partition("+")[0] + "+530d903a+",
        GO_PRIVATE,
    ],
)
def test_what_is_no_public_key_is_refused(vkey):
    with pytest.raises(KeyFileError):
        VerifierKey.parse(vkey)


@pytest.mark.parametrize(
    "text",
    ["", GO_PUBLIC, GO_PRIVATE[:-4], GO_PRIVATE.replace("c74f20a3", "c74f20a4"), GO_PRIVATE.replace("AYEK", "AYEL")],
)
def test_what_is_no_private_key_is_refused_without_showing_it(text):
    with pytest.raises(KeyFileError) as caught:
        Signer.parse(text)
    assert "AYE" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "a\u00a0b", "a\x00b"])
def test_names_that_no_key_may_have(name):
    with pytest.raises(KeyFileError):
        Signer.generate(name)


def test_a_witness_cosigns_with_a_time():
    witness = Ed25519PrivateKey.generate()
    key = VerifierKey("witness.example.com/w1", SignatureType.COSIGNATURE, witness.public_key())
    assert VerifierKey.parse(str(key)) == key

    def cosigned(text: str, time_s: int) -> bytes:
        signature = witness.sign(f"cosignature/v1\ntime {time_s}\n{text}".encode())
        data = base64.b64encode(key.key_id + (1679315147).to_bytes(8, "big") + signature).decode()
        return SIGNED + f"— {key.name} {data}\n".encode()

    assert cosigned_by(cosigned(CHECKPOINT.text(), 1679315147), [key]) == [key]
    assert cosigned_by(SIGNED, [key]) == []
    assert open_checkpoint(cosigned(CHECKPOINT.text(), 1679315147), [SIGNER.verifier, key]) == CHECKPOINT
    for wrong in (cosigned(CHECKPOINT.text(), 1679315148), cosigned(CHECKPOINT.text() + "x\n", 1679315147)):
        with pytest.raises(NoteError, match="is wrong"):
            cosigned_by(wrong, [key])


def test_a_cosignature_alone_does_not_open_a_checkpoint():
    witness = Ed25519PrivateKey.generate()
    key = VerifierKey(ORIGIN, SignatureType.COSIGNATURE, witness.public_key())
    with pytest.raises(NoteError, match="no public key is known"):
        open_checkpoint(SIGNED, [key])


def test_files_of_many_checkpoints_are_split():
    notes = [SIGNER.sign(Checkpoint(ORIGIN, size, bytes([size]) * 32).text()) for size in range(1, 5)]
    two_signatures = notes[0] + SIGNED.rpartition(b"\n\n")[2]
    assert split_notes(b"".join(notes)) == notes
    assert split_notes(b"\n".join([two_signatures, *notes]) + b"\n\n") == [two_signatures, *notes]
    assert split_notes(POEM) == [POEM]
    assert split_notes(b"") == []
    with pytest.raises(NoteError, match="follows"):
        split_notes(notes[0] + b"rest")
