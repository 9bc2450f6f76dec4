"""Keyed hashes in place of ids, and the secret behind them: whoever has it can link the hashes with the archive."""

import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from hf_radmae.images.remote import is_url, locate


def load_key(path: str | Path) -> bytes:
    """Return the secret of the hashes; it is drawn if the file is not there, readable by its owner only.

    Raises:
        ValueError: the file does not hold 64 hexadecimal digits.
    """
    path = Path(path)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        with suppress(FileExistsError):  # of several jobs that start at once, one wins
            os.link(temporary, path)
        temporary.unlink()
    text = path.read_text(encoding="ascii", errors="replace").strip()
    if len(text) != 64 or set(text) - set("0123456789abcdef"):
        raise ValueError(f"{path} holds {len(text)} characters: expected a key of 64 hexadecimal digits")
    return bytes.fromhex(text)


def key_path(output_dir: str | Path, key_file: str | Path | None = None) -> Path:
    """Where the secret of the hashes in a folder lies: never in the folder or beside it, where it would travel along.

    Args:
        output_dir: the folder with the hashes, a path or a URL.
        key_file: where the user wants it; by default a file under the folder's name in `~/.config/hf_radmae/keys`
            (`XDG_CONFIG_HOME` in place of `~/.config` where it is set).

    Raises:
        ValueError: `key_file` lies in the folder or beside it.
    """
    folder = locate(str(output_dir)) if is_url(output_dir) else Path(os.path.abspath(output_dir))
    if key_file is None:
        base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config", "hf_radmae", "keys")
        where = hashlib.blake2b(str(folder).encode(), digest_size=4).hexdigest()  # folders of one name are told apart
        return base / f"{folder.name}-{where}.key"
    path = Path(os.path.abspath(Path(key_file).expanduser()))
    if isinstance(folder, Path) and (path.parent == folder.parent or path.is_relative_to(folder)):
        raise ValueError(
            f"--key_file {key_file} lies in {output_dir} or beside it, and would travel with what it protects: give a "
            "place that is not copied with the data, or leave the option out"
        )
    return path


def key_check(key: bytes) -> str:
    """A digest by which two runs see whether they have the same key."""
    return hashlib.blake2b(b"which key", digest_size=8, key=key).hexdigest()


def pseudonyms(ids: pa.ChunkedArray, key: bytes, purpose: bytes) -> pa.Array:
    """Return 32 hexadecimal digits for each id: BLAKE2b (RFC 7693), keyed, so that ids cannot be found by trying.

    Raises:
        ValueError: the key is empty, which BLAKE2b takes for none.
    """
    if not key:
        raise ValueError("the key of the hashes is empty: without one, ids can be found by trying; give a secret")
    encoded = ids.combine_chunks().dictionary_encode()
    hashes = [
        hashlib.blake2b(text.encode(), digest_size=16, key=key, person=purpose).hexdigest()
        for text in encoded.dictionary.to_pylist()
    ]
    return pa.array(hashes, pa.string()).take(encoded.indices)
