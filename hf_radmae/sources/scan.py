"""A folder or a zip -> every file below it, once, with what it is: an image, something else, or why it cannot be used.

`datasets`' `imagefolder` passes over files whose suffix it does not know, whole folders, links, and whatever does not
fit its patterns of split names. Here each file that is found has one place in the answer, so that they can be counted.
What has no telling suffix is looked at: DICOM files of archives have none.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import re
import shutil
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import datasets

from hf_radmae.images.remote import Place, RemotePath, locate, open_file
from hf_radmae.images.storage import StorageError, steady, storage_fault, whole_file

_IMAGE_SUFFIXES = (
    "png jpg jpeg jpe jfif jp2 j2k j2c jpc jpf jpx tif tiff bmp dib gif webp pgm ppm pnm pbm dcm dicom dic ima"
)
IMAGE_SUFFIXES = frozenset(_IMAGE_SUFFIXES.split(" "))
"""Suffixes, in any case, of what is read as a radiograph; others are looked at."""
_OTHER_SUFFIXES = (
    "txt csv tsv json jsonl ndjson md rst html htm xml yaml yml toml ini cfg log pdf doc docx odt ods xls xlsx ppt "
    "pptx py ipynb sh bat js css sql db sqlite pkl pickle parquet arrow feather lock sha256 md5 license bib tex"
)
OTHER_SUFFIXES = frozenset(_OTHER_SUFFIXES.split(" "))
"""Suffixes of what stands beside images and is none: counted, not listed."""
ARCHIVE_SUFFIXES = frozenset(("tar", "tgz", "gz", "bz2", "xz", "zst", "7z", "rar", "tbz2", "txz"))
METADATA = ("metadata.csv", "metadata.tsv", "metadata.jsonl", "metadata.parquet")
_JUNK = re.compile(r"(\._.*|\.DS_Store|Thumbs\.db|desktop\.ini|\.gitattributes|\.gitignore|\.gitkeep)", re.IGNORECASE)
_MAGIC = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|II\*\x00|MM\x00\*|II\x2b\x00|MM\x00\x2b|GIF8[79]a|RIFF....WEBP|"
    rb"\x00\x00\x00\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51|P[1-6][\s#]",
    re.DOTALL,
)

_DAMAGES = (RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError)
"""What a member of a zip that is damaged, encrypted or packed in another way raises."""


@dataclass(frozen=True)
class Found:
    """A file: its path, its name below the folder (with `/`, a zip being a folder), its size in bytes, and its time."""

    path: str
    name: str
    bytes: int
    modified: int = 0


@dataclass
class Scan:
    """What is below a folder.

    Attributes:
        root: the folder, or the zip, local or remote.
        images: files that are images by suffix or content, sorted by name.
        metadata: tables that name images (metadata.csv, .tsv, .jsonl, .parquet), sorted by name.
        listed: (name, reason) of files and folders that may hold images and cannot be used.
        others: suffix (or name) -> number of files that are no images.
    """

    root: Place
    images: list[Found] = field(default_factory=list)
    metadata: list[Found] = field(default_factory=list)
    listed: list[tuple[str, str]] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


def scan(root: str | Place, *, threads: int = 16) -> Scan:
    """Find every file below a folder, or in a zip, and say what it is.

    Linked folders are followed, each real folder once; on remote storage they are listed. Zips are unpacked into the
    cache of `datasets`, nested ones too.

    Args:
        root: the folder or the zip file, a path or a URL.
        threads: folders that are listed, and files without a telling suffix that are looked at, at once.

    Raises:
        StorageError: the storage does not answer.
    """
    result = Scan(absolute(root))
    sort_files(walk(str(result.root), result, threads=threads), result, threads=threads)
    return result


def sort_files(files: Iterable[Found], result: Scan, *, threads: int = 16) -> None:
    """Put every file into the part of the result that it belongs to, by its suffix, else by its content."""
    unknown: list[Found] = []
    for file in files:
        kind = _kind(file, result)
        if kind == "image":
            result.images.append(file)
        elif kind == "unknown":
            unknown.append(file)
    with ThreadPoolExecutor(threads) as pool:
        for file, reason in zip(unknown, pool.map(_look, unknown), strict=True):
            if reason is None:
                result.images.append(file)
            else:
                result.listed.append((file.name, reason))
    result.images.sort(key=lambda file: file.name)
    result.metadata.sort(key=lambda file: file.name)


def suffix_of(base: str) -> str:
    """The suffix of a file's name in lower case, without the dot; empty where there is none."""
    return base.rsplit(".", 1)[-1].lower() if "." in base[1:] else ""


def is_hidden(name: str) -> bool:
    """True where a file's name, or that of a folder of it, begins with a dot."""
    return any(part.startswith(".") for part in name.split("/"))


def absolute(path: str | Place) -> Place:
    """A path from the root of the file system, `~` expanded, or a place on remote storage."""
    found = locate(path)
    return found if isinstance(found, RemotePath) else found.expanduser().absolute()


def walk(root: str, result: Scan, *, exclude: Iterable[str] = (), threads: int = 16) -> Iterator[Found]:
    """Yield every file below a folder or in a zip once; what cannot be listed or followed goes to `result.listed`.

    Args:
        root: the folder or the zip.
        result: where files that are no regular ones are counted, and others listed.
        exclude: names directly below the root that are passed over.
        threads: folders that are listed at once: on network storage nearly all of the time is latency.
    """
    passed = {*exclude}
    if isinstance(remote := locate(root), RemotePath):
        yield from _walk_remote(remote, result, passed, threads)
        return
    status = steady(lambda: os.stat(root), root)
    if not stat.S_ISDIR(status.st_mode):
        yield from _unpacked(Found(root, "", status.st_size), result)
        return
    seen = {(status.st_dev, status.st_ino)}
    folders, links = [_Folder(root, "")], list[_Folder]()  # links last: a folder within the tree keeps its own name
    with ThreadPoolExecutor(threads) as pool:
        while folders or links:
            if not folders:
                link = links.pop(0)
                if link.identity in seen:
                    continue
                folders = [link]
            seen |= {folder.identity for folder in folders if folder.identity}
            level, folders = folders, []
            for folder, (entries, problem) in zip(level, pool.map(_list, level), strict=True):
                if problem:
                    result.listed.append((folder.name or root, problem))
                for entry in entries:
                    if folder.name == "" and entry.base in passed:
                        continue
                    name = f"{folder.name}/{entry.base}" if folder.name else entry.base
                    if entry.problem:
                        result.listed.append((name, entry.problem))
                    elif entry.is_folder:
                        target = _Folder(entry.path, name, entry.identity)
                        if entry.is_link:
                            links.append(target)
                        elif entry.identity not in seen:
                            folders.append(target)
                    elif not entry.is_file:
                        result.others["no regular file"] += 1
                    elif entry.base.lower().endswith(".zip") and not entry.base.startswith("."):
                        yield from _unpacked(Found(entry.path, name, entry.bytes), result)
                    else:
                        yield Found(entry.path, name, entry.bytes, entry.modified)


def _walk_remote(root: RemotePath, result: Scan, passed: set[str], threads: int) -> Iterator[Found]:
    if root.is_file():
        yield from _unpacked(Found(str(root), "", root.stat().st_size), result)
        return
    for name, info, problem in root.files(threads=threads):
        if name.split("/")[0] in passed:
            continue
        if problem:
            result.listed.append((name, problem))
            continue
        state = [str(info.get(key)) for key in ("ETag", "LastModified", "mtime", "created")]
        found = Found(str(root / name), name, int(info["size"] or 0), zlib.crc32(" ".join(state).encode()))
        if name.lower().endswith(".zip") and not name.rpartition("/")[2].startswith("."):
            yield from _unpacked(found, result)
        else:
            yield found


def local_copy(path: str | Path) -> Path:
    """The path of a local file, and that of a copy in the cache of `datasets` of a remote one, copied once.

    Raises:
        FileNotFoundError: there is no such file.
        StorageError: the storage does not answer.
    """
    remote = locate(path)
    if not isinstance(remote, RemotePath):
        return remote
    info = remote.info()
    state = [str(remote), *(str(info.get(key)) for key in ("size", "ETag", "LastModified", "mtime", "created"))]
    digest = hashlib.sha256(" ".join(state).encode()).hexdigest()[:24]
    target = Path(datasets.config.HF_DATASETS_CACHE) / "radmae_remote" / digest / _plain(remote.name)
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(target) as unfinished:
            remote.download(unfinished)
    return target


def _plain(name: str) -> str:
    """A file's name without what a file system may refuse."""
    return re.sub(r"[^\w.\- ]", "_", name, flags=re.ASCII)[-120:]


class _Folder(NamedTuple):
    path: str
    name: str
    identity: tuple[int, int] | None = None


class _Entry(NamedTuple):
    """What stands in a folder; links are followed."""

    path: str
    base: str
    is_link: bool = False
    is_folder: bool = False
    is_file: bool = False
    bytes: int = 0
    modified: int = 0
    identity: tuple[int, int] | None = None
    problem: str = ""


def _list(folder: _Folder) -> tuple[list[_Entry], str]:
    """The entries of a folder, sorted, and why it cannot be listed, empty where it can."""
    try:
        return steady(lambda: _entries(folder.path), folder.path), ""
    except StorageError:
        raise
    except OSError as error:
        return [], f"cannot be listed: {error.strerror}; see its permissions"


def _entries(folder: str) -> list[_Entry]:
    with os.scandir(folder) as entries:
        return [_entry(entry) for entry in sorted(entries, key=lambda entry: entry.name)]


def _entry(entry: os.DirEntry[str]) -> _Entry:
    is_link = entry.is_symlink()
    try:
        status = entry.stat()
    except OSError as error:
        if storage_fault(error):
            raise
        problem = "is a link to nothing" if is_link else f"cannot be read: {error.strerror}"
        return _Entry(entry.path, entry.name, is_link, problem=problem)
    identity = (status.st_dev, status.st_ino)
    kinds = stat.S_ISDIR(status.st_mode), stat.S_ISREG(status.st_mode)
    return _Entry(entry.path, entry.name, is_link, *kinds, status.st_size, status.st_mtime_ns, identity)


def _unpacked(file: Found, result: Scan) -> Iterator[Found]:
    """Unpack a zip into the cache, and yield what is in it."""
    path = local_copy(file.path)
    status = path.stat()
    state = f"{os.path.abspath(path)} {status.st_size} {status.st_mtime_ns}"
    digest = hashlib.sha256(os.fsencode(state)).hexdigest()[:24]
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "radmae_zips" / digest
    prefix = f"{file.name}/" if file.name else ""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        steady(lambda: path.open("rb").close(), file.path)
        result.listed.append((file.name or file.path, f"is a zip that cannot be opened: {error}"))
        return
    with archive:
        members = [member for member in archive.infolist() if member.filename[-1:] not in ("/", "\\")]
        for number, member in enumerate(members):
            name = prefix + member.filename.replace("\\", "/")  # which some writers put in place of /
            target = folder / str(number) / _plain(member.filename.rsplit("/", 1)[-1])
            try:
                steady(partial(_unpack_member, archive, member, target), name)
            except (*_DAMAGES, OSError) as error:
                if isinstance(error, OSError) and error.errno is not None:  # of the disk; that of bzip2 has no number
                    raise
                result.listed.append((name, f"cannot be unpacked: {error}"))
                continue
            inner = Found(str(target), name, member.file_size, member.CRC)
            if member.filename.lower().endswith(".zip"):
                yield from _unpacked(inner, result)
            else:
                yield inner


def _unpack_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    if target.is_file() and target.stat().st_size == member.file_size:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(target) as unfinished, archive.open(member) as source, unfinished.open("wb") as copy:
        shutil.copyfileobj(source, copy)


def _kind(file: Found, result: Scan) -> str:
    """ "image" or "unknown" (to be looked at); anything else is counted or listed here."""
    base = file.name.rsplit("/", 1)[-1]
    suffix, hidden = suffix_of(base), is_hidden(file.name)
    if _JUNK.fullmatch(base) or "__MACOSX" in file.name.split("/"):
        result.others["hidden"] += 1
    elif base.lower() in METADATA and not hidden:
        result.metadata.append(file)
    elif hidden:
        if suffix in IMAGE_SUFFIXES:
            result.listed.append((file.name, "is hidden: its name, or a folder's, begins with a dot"))
        else:
            result.others["hidden"] += 1
    elif suffix in OTHER_SUFFIXES or base.upper() in ("LICENSE", "README", "MANIFEST", "CHANGELOG", "CITATION"):
        result.others[f".{suffix}" if suffix else base] += 1
    elif suffix in ARCHIVE_SUFFIXES:
        result.listed.append((file.name, "is a packed archive that is not read: unpack it"))
    else:
        try:
            file.name.encode()
            file.path.encode()
        except UnicodeEncodeError:
            result.listed.append((file.name, "has a name that is not UTF-8: rename the file"))
            return "listed"
        return "image" if suffix in IMAGE_SUFFIXES else "unknown"
    return "counted"


def _look(file: Found) -> str | None:
    """None where a file's content is an image's; else why it is not used."""
    if not file.bytes:
        return "is empty: 0 bytes"
    try:
        head = steady(lambda: _head(file.path), file.path)
    except StorageError:
        raise
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if head[128:132] == b"DICM" or _MAGIC.match(head):
        return None
    return "is no image by its suffix or content: convert it to PNG, TIFF or DICOM, or move it away"


def _head(path: str) -> bytes:
    with open_file(path) as file:
        return file.read(132)
