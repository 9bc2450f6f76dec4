"""Real storage servers on loopback, which tests start, stop and start again: SFTP by asyncssh, S3 by moto."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

USER, PASSWORD = "reader", "pass/word@1"


class SftpStore:
    """An SFTP server whose root is a local folder, in a process of its own."""

    def __init__(self, folder: Path):
        self.folder, self.port = folder, free_port()
        self.process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        """With the password, as a user may write it."""
        return f"sftp://{USER}:pass%2Fword%401@127.0.0.1:{self.port}"

    def start(self) -> None:
        words = [sys.executable, __file__, str(self.port), str(self.folder), str(os.getpid())]
        self.process = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": ""})
        wait_for(self.port)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


class S3Store:
    """An S3 server with one bucket, in memory of this process; it keeps what it holds while it is stopped."""

    def __init__(self, bucket: str = "archive"):
        self.port, self.bucket = free_port(), bucket
        self.server: object | None = None

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}"

    def start(self) -> None:
        from moto.server import ThreadedMotoServer

        self.server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self.server.start()
        wait_for(self.port)

    def stop(self) -> None:
        self.server.stop()


@contextmanager
def sftp_store(folder: Path) -> Iterator[SftpStore]:
    pytest.importorskip("sshfs", reason='pip install "hf_radmae[remote]"')
    store = SftpStore(folder)
    store.start()
    try:
        yield store
    finally:
        store.stop()


@contextmanager
def s3_store(patch: pytest.MonkeyPatch) -> Iterator[S3Store]:
    """The environment tells this process and those that it starts where the server is."""
    pytest.importorskip("s3fs", reason='pip install "hf_radmae[remote]"')
    pytest.importorskip("moto.server", reason='the S3 server of the tests: pip install "moto[server]"')
    store = S3Store()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{store.port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        patch.setenv(name, value)
    store.start()
    import boto3

    client = boto3.client("s3")
    client.create_bucket(Bucket=store.bucket)
    try:
        yield store
    finally:
        store.stop()


@contextmanager
def stopped_for(store: SftpStore | S3Store, seconds: float, when) -> Iterator[list[float]]:
    """Stop a store once `when()` is true, start it again after some seconds; yields the times of both."""
    times: list[float] = []
    ended = threading.Event()

    def interrupt() -> None:
        while not when():
            if ended.wait(0.02):
                return
        store.stop()
        times.append(time.monotonic())
        time.sleep(seconds)
        store.start()
        times.append(time.monotonic())

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    try:
        yield times
    finally:
        ended.set()
        thread.join()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def wait_for(port: int, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(f"no server listens on port {port}")


def serve(port: int, folder: str, parent: int) -> None:
    """Serve a folder by SFTP until the process that started this one has ended."""
    import asyncio

    import asyncssh

    class Server(asyncssh.SSHServer):
        def password_auth_supported(self) -> bool:
            return True

        def validate_password(self, username: str, password: str) -> bool:
            return (username, password) == (USER, PASSWORD)

    async def run() -> None:
        await asyncssh.listen(
            "127.0.0.1",
            port,
            server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
            server_factory=Server,
            sftp_factory=lambda channel: asyncssh.SFTPServer(channel, chroot=folder.encode()),
            reuse_address=True,
        )
        while os.getppid() == parent:
            await asyncio.sleep(1)

    asyncio.run(run())


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
