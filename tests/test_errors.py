"""Files that hold something else than their names say, since a download failed."""

from pathlib import Path

import pytest

from detseg.errors import explain_content

# As `git lfs pointer` prints it, and as drive.google.com answers.
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a" * 16 + b"\nsize 12345\n"
QUOTA = b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body></body></html>"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["empty file", "download or copy"]),
        (b" \n\n", ["empty file"]),
        (POINTER, ["Git LFS pointer", "`git lfs pull`"]),
        (b"\n<!doctype HTML>\n<html>", ["HTML page", "download it again"]),
        (b"\xef\xbb\xbf<html><body>404 Not Found", ["HTML page"]),
        (QUOTA, ["Google Drive", "quota", "download it again"]),
    ],
)
def test_a_failed_download_is_explained(tmp_path: Path, content: bytes, words: list[str]) -> None:
    file = tmp_path / "0001.jpg"
    file.write_bytes(content)
    message = explain_content(file) or ""
    assert all(word in message for word in words), message


@pytest.mark.parametrize("content", [b"\xff\xd8\xff\xe0\x00\x10JFIF", b'{"images": []}', b"<annotation></annotation>"])
def test_other_files_are_not(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert explain_content(tmp_path / "file") is None
    assert explain_content(tmp_path / "missing") is None
    assert explain_content(tmp_path) is None


def test_no_more_than_the_first_kilobytes_are_read(tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(b"<html>" + bytes(10_000) + b"Google Drive - Quota exceeded")
    assert "Google" not in (explain_content(file) or "")
