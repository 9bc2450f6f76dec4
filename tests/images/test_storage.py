"""Storage that fails is asked again, then ends the run; a fault of the file itself passes through at once."""

import errno
import os
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from hf_radmae.images.dicom import DicomError
from hf_radmae.images.image import ImageError, image_size, read_image
from hf_radmae.images.storage import StorageError, steady, storage_fault

STORAGE = ("EIO", "ESTALE", "ENOTCONN", "ETIMEDOUT", "EHOSTDOWN", "EMFILE")
FILE = ("EACCES", "EPERM", "ENOENT", "EISDIR", "EINVAL", "ENAMETOOLONG")


def failing(number: int, times: int):
    """A reader that fails as the system does, so many times, and then answers."""
    calls = []

    def read() -> str:
        calls.append(1)
        if len(calls) <= times:
            raise OSError(number, os.strerror(number), "scan.png")
        return "content"

    return read, calls


@pytest.mark.parametrize("name", STORAGE)
@pytest.mark.parametrize("times", [1, 3, 4])
def test_storage_is_asked_again_and_then_ends_the_run(name, times):
    read, calls = failing(getattr(errno, name), times)
    if times <= 3:
        assert steady(read, "scan.png", (0, 0, 0)) == "content"
    else:
        with pytest.raises(StorageError, match=r"does not answer .* after 4 attempts.*'scan.png'"):
            steady(read, "scan.png", (0, 0, 0))
    assert len(calls) == min(times + 1, 4)


@pytest.mark.parametrize("name", FILE)
def test_a_fault_of_the_file_is_not_asked_again(name):
    read, calls = failing(getattr(errno, name), 9)
    with pytest.raises(OSError) as caught:
        steady(read, "scan.png", (0, 0, 0))
    assert not isinstance(caught.value, StorageError) and len(calls) == 1


@pytest.mark.parametrize("wrapper", [ImageError, DicomError])
@pytest.mark.parametrize("chain", ["cause", "context", "suppressed"])
def test_storage_is_found_behind_a_readers_own_error(wrapper, chain):
    try:
        try:
            raise OSError(errno.ESTALE, "Stale file handle")
        except OSError as error:
            if chain == "cause":
                raise wrapper("scan.png", "cannot be read") from error
            if chain == "suppressed":
                raise wrapper("scan.png", "cannot be read") from None
            raise wrapper("scan.png", "cannot be read")  # noqa: B904  # as a reader without `from`
    except wrapper as error:
        assert storage_fault(error).errno == errno.ESTALE
    assert storage_fault(wrapper("scan.png", "is damaged")) is None


@pytest.mark.parametrize("function", [read_image, image_size])
@pytest.mark.parametrize("suffix", ["png", "dcm"])
def test_readers_of_images_end_the_run_and_blame_no_image(tmp_path, monkeypatch, function, suffix):
    """A file is there, and every read of it fails."""
    path = tmp_path / f"scan.{suffix}"
    path.write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 100)

    def stale(*_args, **_options):
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    monkeypatch.setattr("builtins.open", stale)
    monkeypatch.setattr("hf_radmae.images.storage.PAUSES", (0, 0))
    with pytest.raises(StorageError, match="does not answer"):
        function(str(path))


def test_a_picture_that_pillow_has_opened_ends_the_run_too(tmp_path, monkeypatch):
    """Its header was read, then the mount went away."""
    path = tmp_path / "scan.png"
    Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20)).save(path)
    monkeypatch.setattr("hf_radmae.images.storage.PAUSES", (0, 0))
    with Image.open(path) as opened:
        expected, read = read_image(opened), opened.fp.read
        answers = [OSError(errno.EIO, "Input/output error")] * 2

        def failing_read(*size: int) -> bytes:
            if answers:
                raise answers.pop()
            return read(*size)

        opened.fp = SimpleNamespace(read=failing_read, seek=opened.fp.seek, tell=opened.fp.tell, close=opened.fp.close)
        np.testing.assert_array_equal(read_image(opened), expected)
        answers += [OSError(errno.EIO, "Input/output error")] * 3
        with pytest.raises(StorageError, match="does not answer"):
            read_image(opened)


def test_a_mount_that_is_gone_is_no_missing_file(tmp_path):
    (tmp_path / "mount").mkdir()
    (tmp_path / "whole" / "a").mkdir(parents=True)
    gone, missing = tmp_path / "mount" / "a" / "b" / "1.png", tmp_path / "whole" / "a" / "1.png"
    for path, expected in ((gone, True), (missing, False)):
        with pytest.raises(FileNotFoundError) as caught:
            path.read_bytes()
        assert (storage_fault(caught.value) is not None) == expected
