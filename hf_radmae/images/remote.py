"""Files and folders on remote storage: as much of `pathlib.Path` as this package uses, for s3://, sftp:// and others.

`locate` gives a `Path` for what is local, which takes no code of this module, and a `RemotePath` for a URL. That holds
a text, so that it can be sent to another process; connections are fsspec's, per process, and are made anew when they
were lost. Each call is repeated while the store does not answer, see `storage.steady`. Names are taken as they are: a
key may hold spaces, `#`, `?` and `%`. One that reads as a token in a URL (`?key=`) is listed with that reason.

Passwords in a URL are taken out of it at once (`without_credentials`) and kept in memory, so that no list, log, result
or card can hold them. Better places are those of each storage: ~/.aws, ~/.ssh, environment variables such as
AWS_ENDPOINT_URL, or fsspec's own configuration, such as FSSPEC_SFTP_PASSWORD.

Why not universal_pathlib: it neither repeats a call nor hides a password, and it keeps a connection, which a forked
worker must not use.
"""

from __future__ import annotations

import errno
import io
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any, TypeVar
from urllib.parse import unquote
from uuid import uuid4

import fsspec

from hf_radmae.images.storage import REMOTE_NUMBERS, StoreFault, steady

Result = TypeVar("Result")

_HOSTS = ("sftp", "ssh")
"""Storages of a host: the URL names user and port."""
_OBJECTS = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "hf")
"""Storages without folders: an upload is there whole or not at all, and one call lists all keys."""
SCHEMES = (*_HOSTS, *_OBJECTS, "memory")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_CREDENTIAL = re.compile(r"[?&][^=&/]*(token|sig|secret|passw|credential|access|key)[^=&/]*=", re.IGNORECASE)
_LIKE_A_CREDENTIAL = "has a name that reads as a token in a URL, such as ?key=, which is refused: rename it"

_credentials: dict[str, dict[str, str]] = {}
"""Scheme and authority -> arguments of fsspec that a URL held."""


def credentials() -> dict[str, dict[str, str]]:
    """What URLs held, for `add_credentials` in a process that this one starts."""
    return dict(_credentials)


def add_credentials(known: Mapping[str, dict[str, str]]) -> None:
    """Take over what another process knows."""
    _credentials.update(known)


def is_url(path: object) -> bool:
    """True for a text such as s3://bucket/folder, whatever the scheme."""
    return isinstance(path, RemotePath) or (isinstance(path, str) and _URL.match(path) is not None)


def without_credentials(text: str) -> str:
    """A path as it is, `file://` as a path, and a URL without password, which this process keeps for later.

    Raises:
        ValueError: a scheme that is not supported, or a URL that cannot be read. The text holds no credential.
    """
    if match := re.match(r"([A-Za-z][A-Za-z0-9+.-]+):[/\\]", text):
        scheme = match[1].lower()
        if not _URL.match(text) and scheme in (*SCHEMES, "file") and not Path(text).exists():
            if scheme != "file":
                raise ValueError(f"{_shown(text)}: a URL begins with {scheme}://")
            return _local("//" + text[5:])
    match = _URL.match(text)
    if match is None:
        if "::" in text and _URL.search(text):
            raise ValueError(f"{_shown(text)}: chains of storages are not supported: give one URL")
        return text
    scheme, rest = match[1].lower(), text[match.end() :]
    if scheme == "file":
        return _local(rest)
    if scheme not in SCHEMES:
        raise ValueError(f"{_shown(text)}: {scheme}:// is not supported: choose from {', '.join(SCHEMES)}, or mount it")
    if _CREDENTIAL.search(rest):
        raise ValueError(
            f"{_shown(text)}: it seems to hold a token after ?, which would be seen in lists and logs: give it to the "
            "storage by its configuration or environment variables"
        )
    authority, slash, path = rest.partition("/")
    user, _, host = authority.rpartition("@")
    name, colon, password = user.partition(":")
    if ":" in host and (not host.rpartition(":")[2].isdigit() if scheme in _HOSTS else not host.startswith("arn:")):
        raise ValueError(f"{scheme}://...: its host or bucket cannot be read: write / of a password as %2F, @ as %40")
    if not host and scheme != "memory":
        raise ValueError(f"{_shown(text)}: it names no host or bucket")
    if colon or (user and scheme in _HOSTS):
        own = f"{name}@{host}" if scheme in _HOSTS else host
        if colon:
            words = ("password",) if scheme in _HOSTS else ("key", "secret")
            values = (unquote(password),) if scheme in _HOSTS else (unquote(name), unquote(password))
            _credentials[f"{scheme}://{own}"] = dict(zip(words, values, strict=True))
        authority = own
    return f"{scheme}://{authority}{slash}{path}".rstrip("/") if path or authority else f"{scheme}://"


def _local(rest: str) -> str:
    """The path of a `file://` URL, which may be percent-encoded as `Path.as_uri` writes it."""
    host, slash, path = rest.partition("/")
    if not slash or host not in ("", "localhost"):
        raise ValueError(f"file://{rest}: names no folder of this machine: write file:///folder, or the path alone")
    literal, decoded = f"/{path.lstrip('/')}", f"/{unquote(path).lstrip('/')}"
    return literal if Path(literal).exists() else decoded


def redacted(text: str) -> str:
    """A text without user and password of the URLs in it."""
    return re.sub(r"(\w[\w+.-]*://)[^\s@]*:[^\s@]*@", r"\1", text)


def _shown(text: str) -> str:
    """The URL without what may be a credential."""
    return redacted(text).partition("?")[0]


def locate(path: str | Path | RemotePath) -> Path | RemotePath:
    """A local path, `~` expanded, or a place on remote storage.

    Raises:
        ValueError: see `without_credentials`.
    """
    if isinstance(path, Path | RemotePath):
        return path
    clean = without_credentials(path)
    return RemotePath(clean) if is_url(clean) else Path(clean).expanduser()


@dataclass(frozen=True)
class RemotePath:
    """A file or folder on remote storage.

    Methods do what those of `pathlib.Path` do. They raise `StorageError` when the store does not answer for a minute,
    and otherwise an `OSError` that names the URL.

    Attributes:
        url: as `without_credentials` gives it.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def __lt__(self, other: RemotePath) -> bool:
        return self.url < other.url

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self.url}/{name}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.url, _credentials.get(_origin(self.url)))

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    @property
    def stem(self) -> str:
        return PurePosixPath(self.name).stem

    @property
    def parent(self) -> RemotePath:
        return RemotePath(self.url.rpartition("/")[0])

    def with_suffix(self, suffix: str) -> RemotePath:
        return self.parent / PurePosixPath(self.name).with_suffix(suffix).name

    def as_posix(self) -> str:
        return self.url

    def info(self) -> Mapping[str, Any]:
        """What fsspec knows of it: `type` (file or directory), `size` in bytes, and times as the storage has them."""
        return self._do(lambda fs, path: fs.info(path))

    def exists(self) -> bool:
        try:
            return bool(self.info())
        except (FileNotFoundError, NotADirectoryError):
            return False

    def is_dir(self) -> bool:
        try:
            return self.info()["type"] == "directory"
        except (FileNotFoundError, NotADirectoryError):
            return False

    def is_file(self) -> bool:
        try:
            return self.info()["type"] == "file"
        except (FileNotFoundError, NotADirectoryError):
            return False

    def stat(self) -> SimpleNamespace:
        return SimpleNamespace(st_size=int(self.info()["size"]))

    def read_bytes(self) -> bytes:
        return self._do(lambda fs, path: fs.cat_file(path))

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            self._do(lambda fs, path: fs.rm_file(path))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def mkdir(self, parents: bool = True, exist_ok: bool = True) -> None:
        """Make the folder and those above it; storage without folders, and a bucket, stay as they are."""
        if _scheme(self.url) not in _OBJECTS:
            self._do(lambda fs, path: fs.makedirs(path, exist_ok=exist_ok))

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """Yield the files whose name fits, such as *.parquet; those of all folders below for **/*.parquet."""
        deep, base = pattern.startswith("**/"), pattern.removeprefix("**/")
        with suppress(FileNotFoundError):
            for name, _, problem in self.files(deep=deep):
                if not problem and fnmatchcase(name.rpartition("/")[2], base):
                    yield self / name

    def rglob(self, pattern: str) -> Iterator[RemotePath]:
        return self.glob(f"**/{pattern}")

    def download(self, target: Path) -> None:
        """Copy it into a local file."""
        self._do(lambda fs, path: fs.get_file(path, str(target)))

    def upload(self, source: Path) -> None:
        """Make it a copy of a local file; it is there whole or not at all."""

        def put(fs: Any, path: str) -> None:
            if _scheme(self.url) in _OBJECTS:
                fs.put_file(str(source), path)
                return
            folder, _, name = path.rpartition("/")
            partial = f"{folder}/.{name}.{uuid4().hex}"
            try:
                fs.put_file(str(source), partial)
                fs.mv(partial, path)
            except Exception:
                with suppress(Exception):  # of a store that is gone; `prepare` and `embed` remove what is left
                    fs.rm_file(partial)
                raise

        self._do(put)

    def files(self, *, deep: bool = True, threads: int = 16) -> Iterator[tuple[str, Mapping[str, Any], str]]:
        """Yield every file of a folder: its name below it, what fsspec knows of it, and why it cannot be used, or "".

        Linked files are followed and linked folders are not. Listings are read in pages, and those of several folders
        at once.

        Args:
            deep: with the files of all folders below.
            threads: folders that are listed at once.

        Raises:
            FileNotFoundError, PermissionError: of the folder itself.
        """
        if _scheme(self.url) in _OBJECTS:
            depth = {} if deep else {"maxdepth": 1}
            found = self._do(lambda fs, path: (path, fs.find(path, detail=True, **depth)))
            start = len(found[0].rstrip("/")) + 1
            for name, info in sorted(found[1].items()):
                if not name[start:] or (name.endswith("/") and not info["size"]):
                    continue  # the mark of an empty folder
                problem = "has a name that ends with /, as a folder's: rename it" * name.endswith("/")
                if "?versionId=" in name:
                    problem = "has a name with ?versionId=, which the reader of s3:// takes for a version: rename it"
                if _CREDENTIAL.search(name[start:]):
                    problem = _LIKE_A_CREDENTIAL
                yield name[start:], info, problem
            return
        level = [""]
        with ThreadPoolExecutor(threads) as pool:
            while level:
                above, level = level, []
                for folder, (entries, problem) in zip(above, pool.map(self._list, above), strict=True):
                    if problem:
                        yield folder, {}, problem
                    for base, info in entries:
                        name = f"{folder}/{base}" if folder else base
                        if _CREDENTIAL.search(name):
                            yield name, info, _LIKE_A_CREDENTIAL
                        elif info["type"] == "directory":
                            level += [name] * deep
                        else:
                            yield name, *self._followed(name, info)

    def _list(self, name: str) -> tuple[list[tuple[str, Mapping[str, Any]]], str]:
        """The entries of a folder below this one, sorted, and why it cannot be listed, empty where it can."""
        folder = self / name if name else self
        try:
            entries = folder._do(lambda fs, path: fs.ls(path, detail=True))
        except (FileNotFoundError, PermissionError) as error:
            if not name:
                raise
            return [], f"cannot be listed: {error.strerror}; see its permissions"
        return sorted((entry["name"].rstrip("/").rpartition("/")[2], entry) for entry in entries), ""

    def _followed(self, name: str, info: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
        if info["type"] == "file":
            return info, ""
        if info["type"] != "link":
            return info, "is no regular file"
        try:
            target = (self / name).info()
        except FileNotFoundError:
            return info, "is a link to nothing"
        return target, "is a linked folder, which is not followed on remote storage" * (target["type"] == "directory")

    def _do(self, call: Callable[[Any, str], Result]) -> Result:
        def once() -> Result:
            with _connected(self.url) as (fs, path):
                return call(fs, path)

        return steady(once, self.url)


Place = Path | RemotePath
"""A local path, or a place on remote storage."""


@contextmanager
def open_file(path: str | Place, buffer: int = 2**16) -> Iterator[Any]:
    """A local or remote file, to be read within `steady`: where the store does not answer, it is opened anew.

    Args:
        path: the file.
        buffer: bytes that are read at least at once from remote storage.
    """
    if not is_url(path):
        with open(path, "rb") as file:  # type: ignore[arg-type]  # no RemotePath, as `is_url` says
            yield file
        return
    url = without_credentials(str(path))
    options = {} if _scheme(url) in _HOSTS else {"cache_type": "none"}
    with (
        _connected(url) as (fs, name),
        fs.open(name, "rb", **options) as remote,
        io.BufferedReader(_Raw(remote), buffer) as file,
    ):
        yield file


def parquet_file(path: str | Place) -> Any:
    """A context whose value pyarrow reads: a local path as it is, a remote file opened, within `steady`."""
    return open_file(path, 2**20) if is_url(path) else nullcontext(path)


class _Raw(io.RawIOBase):
    """An open file of fsspec as `BufferedReader` wants it: each read is one request."""

    def __init__(self, file: Any):
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return self._file.read()

    def seek(self, offset: int, whence: int = 0) -> int:
        self._file.seek(offset, whence)
        return self._file.tell()

    def tell(self) -> int:
        return self._file.tell()


def _restored(url: str, credentials: dict[str, str] | None) -> RemotePath:
    """A path in a process that another machine's sent it to."""
    if credentials:
        add_credentials({_origin(url): credentials})
    return RemotePath(url)


def _scheme(url: str) -> str:
    return url.partition("://")[0]


def _origin(url: str) -> str:
    """Scheme, and host or bucket."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"


_lock = threading.Lock()


@contextmanager
def _connected(url: str) -> Iterator[tuple[Any, str]]:
    """The file system of a URL and the path there. Errors name the URL; where the store is gone it is `StoreFault`."""
    fs, url = None, without_credentials(url)
    try:
        fs, path = _filesystem(url)
        yield fs, path
    except Exception as error:
        if fault := _fault(error):
            if fs is not None:
                with _lock:
                    type(fs).clear_instance_cache()  # a connection that was lost does not come back by itself
            raise StoreFault(
                fault.errno or errno.ETIMEDOUT if isinstance(fault, OSError) else errno.ETIMEDOUT,
                _text_of(fault),
                url,
            ) from error
        if (named := _named(error, url)) is error:
            raise
        raise named from error


def _filesystem(url: str) -> tuple[Any, str]:
    scheme, _, rest = url.partition("://")
    try:
        kind = fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        extra = ': pip install "hf_radmae[remote]"' if scheme in ("s3", "s3a", *_HOSTS) else ""
        raise ImportError(f"{scheme}:// needs a package ({error}){extra}") from error
    own = _credentials.get(_origin(url), {})
    if scheme not in _HOSTS:
        # Listings are not kept: another process may have written since.
        options = {**kind._get_kwargs_from_urls(url), **own, "use_listings_cache": False}
        return fsspec.filesystem(scheme, **options), kind._strip_protocol(url)
    if not kind.async_impl:  # paramiko's connection is of one thread
        raise ImportError(f'{scheme}:// needs sshfs: pip install "hf_radmae[remote]"')
    authority, _, path = rest.partition("/")
    user, _, host = authority.rpartition("@")
    host, _, port = host.partition(":")
    options = {"host": host, **own, "keepalive_interval": 15}
    options |= {"username": unquote(user)} if user else {}
    options |= {"port": int(port)} if port else {}
    return fsspec.filesystem(scheme, **options), f"/{path}"


_TRANSIENT = frozenset(
    (
        *("botocore.exceptions.HTTPClientError", "botocore.exceptions.ConnectionError"),
        *("botocore.exceptions.IncompleteReadError", "botocore.parsers.ResponseParserError"),
        *("aiohttp.client_exceptions.ClientConnectionError", "aiohttp.client_exceptions.ClientPayloadError"),
        *("asyncssh.misc.DisconnectError", "asyncssh.misc.ChannelOpenError"),
        *("asyncssh.sftp.SFTPNoConnection", "asyncssh.sftp.SFTPConnectionLost"),
        *(
            "httpx.TransportError",
            "httpx2.TransportError",
            "requests.exceptions.ConnectionError",
            "requests.exceptions.Timeout",
        ),
    )
)
"""Classes of errors of a store that does not answer."""
_REFUSED = frozenset(
    (
        *("asyncssh.misc.PermissionDenied", "asyncssh.misc.HostKeyNotVerifiable", "asyncssh.misc.IllegalUserName"),
        *("asyncssh.sftp.SFTPPermissionDenied", "asyncssh.sftp.SFTPWriteProtect"),
        *("botocore.exceptions.NoCredentialsError", "botocore.exceptions.PartialCredentialsError"),
    )
)
"""Classes of errors of a store that does not let us in."""


def _is_of(error: BaseException, names: frozenset[str]) -> bool:
    return any(f"{kind.__module__}.{kind.__qualname__}" in names for kind in type(error).__mro__)


def _fault(error: BaseException | None) -> BaseException | None:
    """The error behind another that says that the store does not answer, None where there is none."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if _is_of(error, _REFUSED):
            return None
        number = error.errno if isinstance(error, OSError) else None
        if isinstance(error, socket.gaierror):
            if number == socket.EAI_AGAIN:
                return error
        elif isinstance(error, ConnectionError | TimeoutError) or number in REMOTE_NUMBERS or _is_of(error, _TRANSIENT):
            return error
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(status, int) and (status >= 500 or status in (408, 429)):
            return error
        error = error.__cause__ or error.__context__
    return None


def _named(error: Exception, url: str) -> Exception:
    """The error with the URL in place of a path on the storage; those that are not of the storage as they are."""
    text = _text_of(error)
    if _is_of(error, _REFUSED) or isinstance(error, PermissionError):
        return PermissionError(errno.EACCES, text, url)
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, "no such file or folder", url)
    if type(error).__module__.partition(".")[0] in (
        "botocore",
        "aiohttp",
        "asyncssh",
        "s3fs",
        "httpx",
        "httpx2",
        "huggingface_hub",
    ):
        return OSError(errno.EINVAL, text, url)
    if isinstance(error, OSError) and error.filename is None and error.errno is not None:
        return type(error)(error.errno, text, url)
    return error


def _text_of(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return redacted(" ".join(text.split())[:300] or type(error).__name__)
