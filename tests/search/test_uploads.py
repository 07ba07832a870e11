"""Forms as browsers send them, beside the standard library's parser of mail, and bodies that no browser sends."""

import email
import email.policy

import pytest
import requests

from unimedi_jax.search import uploads
from unimedi_jax.search.uploads import FormError

FILES = [
    ("picture", ("a film.png", b"\x89PNG\r\n\x1a\n--\r\n\r\n--x")),
    ("picture", ("ü/../b.nii.gz", bytes(range(256)) * 40)),
    ("picture", ("", b"")),  # a field left empty
]


def body(files=FILES, **fields: str) -> tuple[str, bytes]:
    """What a client sends that is not ours."""
    sent = requests.Request("POST", "http://x/", data=fields, files=files).prepare()
    return sent.headers["Content-Type"], sent.body


def test_a_form_is_what_the_parser_of_mail_makes_of_it():
    kind, content = body(text="Nodule, links; ü\r\nin two lines", modality="ct")
    form = uploads.parse(kind, bytearray(content))
    judge = email.message_from_bytes(
        b"Content-Type: " + kind.encode() + b"\r\n\r\n" + content, policy=email.policy.HTTP
    )
    parts = [part.get_payload(decode=True) for part in judge.iter_parts() if part.get_filename()]
    assert [bytes(content) for _, content in form.files] == parts
    assert [name for name, _ in form.files] == ["a film.png", "ü/../b.nii.gz"]
    assert form.fields == {"text": "Nodule, links; ü\r\nin two lines", "modality": "ct"}


MARK = b"--b\r\n"
PART = b'Content-Disposition: form-data; name="text"\r\n\r\nwords'
HOSTILE = {
    "nothing": b"",
    "no boundary": PART,
    "no end": MARK + PART,
    "an end without its dashes": MARK + PART + b"\r\n--b",
    "a boundary that goes on": MARK + PART + b"\r\n--bc\r\n",
    "no headers": MARK + b"words\r\n--b--",
    "no name": MARK + b"Content-Type: text/plain\r\n\r\nwords\r\n--b--",
    "two names": MARK + b'Content-Disposition: form-data; name="a"\r\n' + PART + b"\r\n--b--",
    "headers without end": MARK + b"a: b\r\n" * 10**5 + b"\r\n\r\nwords\r\n--b--",
    "a name with a line": MARK + b'Content-Disposition: form-data; name="a\r\nb"\r\n\r\nwords\r\n--b--',
    "parts without end": (MARK + b'Content-Disposition: form-data; name="f"; filename="x"\r\n\r\nx\r\n') * 3000
    + b"--b--",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_body_is_refused(name):
    with pytest.raises(FormError):
        uploads.parse("multipart/form-data; boundary=b", HOSTILE[name])


@pytest.mark.parametrize(
    "kind",
    ["", "text/plain", "multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=a b"],
)
def test_another_kind_of_body_is_refused(kind):
    with pytest.raises(FormError, match="no multipart/form-data"):
        uploads.parse(kind, MARK + PART + b"\r\n--b--")
