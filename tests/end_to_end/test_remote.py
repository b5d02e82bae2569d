"""Data and models in a DVC remote, over SSH and over WebDAV, and a model fetched from a URL."""

import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from projects import BIN, Project
from servers import free_port, serving

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")


@contextmanager
def listening(port: int, log: Path, command: list[str]) -> Iterator[None]:
    "A server, as long as the block lasts."
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        for _ in range(200):
            assert process.poll() is None, log.read_text()
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def ssh(tmp_path):
    "An SSH server with a throw-away key, and the options of DVC that reach it."
    if SSHD is None:
        pytest.skip("sshd is not installed (Debian: openssh-server)")
    for name in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True
        )
    shutil.copy(tmp_path / "user.pub", tmp_path / "authorized")
    port = free_port()
    user = pwd.getpwuid(os.getuid()).pw_name
    options = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": tmp_path / "host",
        "AuthorizedKeysFile": tmp_path / "authorized",
        "PidFile": "none",
        "StrictModes": "no",
        "PasswordAuthentication": "no",
        "PermitRootLogin": "prohibit-password",
        "UsePAM": "no",
        "Subsystem": "sftp internal-sftp",
    }
    (tmp_path / "sshd_config").write_text(
        "".join(f"{key} {value}\n" for key, value in options.items())
    )
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd asks for it when root starts it
    with listening(
        port, tmp_path / "sshd.log", [SSHD, "-D", "-e", "-f", str(tmp_path / "sshd_config")]
    ):
        yield (
            f"ssh://{user}@127.0.0.1:{port}{tmp_path}/store",
            {"keyfile": str(tmp_path / "user")},
            tmp_path / "store",
        )


@pytest.fixture
def webdav(tmp_path):
    "A WebDAV server that anybody on this machine may write to."
    port = free_port()
    store = tmp_path / "store"
    store.mkdir()
    command = [
        "wsgidav",
        "-q",
        "--no-config",
        "--host=127.0.0.1",
        f"--port={port}",
        f"--root={store}",
        "--auth=anonymous",
    ]
    with listening(port, tmp_path / "webdav.log", [str(BIN / command[0]), *command[1:]]):
        yield f"webdav://127.0.0.1:{port}", {}, store


def commit(project: Project) -> None:
    project.run("git", "add", "-A")
    project.run(
        "git",
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@example.com",
        "commit",
        "-qm",
        "run",
        "--allow-empty",
    )


def clone(project: Project, target: Path, options: dict[str, str]) -> Project:
    "A fresh clone with what is private to a person: the remote's key."
    subprocess.run(["git", "clone", "-q", str(project.root), str(target)], check=True)
    cloned_project = Project(target)
    for key, value in options.items():
        cloned_project.run("dvc", "remote", "modify", "--local", "storage", key, value)
    return cloned_project


@pytest.mark.parametrize("kind", ["ssh", "webdav"])
def test_a_clone_elsewhere_serves_what_was_pushed(kind, changeable, tmp_path, request):
    "Raw data too, where it is in files and DVC knows of them."
    url, options, store = request.getfixturevalue(kind)
    (changeable.root / "data" / "raw" / "extra.csv").write_text("a,b\n1,2\n")
    changeable.run("dvc", "remote", "add", "--default", "storage", url)
    for key, value in options.items():
        changeable.run("dvc", "remote", "modify", "--local", "storage", key, value)
    raw = sorted(
        path
        for path in (changeable.root / "data" / "raw").iterdir()
        if path.is_file() and path.suffix != ".dvc" and path.name[0] != "."
    )
    changeable.run("dvc", "add", *map(str, raw))
    changeable.run("dvc", "commit", "--force", "fingerprint", "tables")
    commit(changeable)
    changeable.run("dvc", "push")
    assert sum(path.is_file() for path in store.rglob("*")) > 20
    elsewhere = clone(changeable, tmp_path / "elsewhere", options)
    elsewhere.run("dvc", "pull")
    assert (elsewhere.root / "data" / "raw" / "extra.csv").read_text() == "a,b\n1,2\n"
    assert "up to date" in elsewhere.run("dvc", "status").stdout
    elsewhere.run("mle", "verify")
    (elsewhere.root / ".mle").mkdir(exist_ok=True)  # for the log of what follows
    with serving(elsewhere) as server:
        status, answer = server.post(
            json.loads((changeable.root / "models" / "final" / "example.json").read_text())
        )
    assert (
        status == 200
        and answer["model"]
        == json.loads((changeable.root / "metrics" / "model.json").read_text())["model"]
    )
    assert not (
        elsewhere.root / ".mle" / "resources.json"
    ).exists()  # where a stage that runs leaves its time


@pytest.fixture
def model_url(sample, tmp_path):
    "A model as an archive behind a URL, and its digest."
    archive = tmp_path / "offered" / "model.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(sample.root / "models" / "final", arcname=".")
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "http.server",
        str(port),
        "--bind",
        "127.0.0.1",
        "--directory",
        str(archive.parent),
    ]
    digest = json.loads((sample.root / "models" / "final" / "manifest.json").read_text())["model"]
    with listening(port, tmp_path / "http.log", command):
        yield f"http://127.0.0.1:{port}/model.tar.gz", digest, archive


def test_a_model_is_fetched_by_its_digest(sample, model_url, tmp_path):
    url, digest, archive = model_url
    target = tmp_path / "here" / "final"
    assert "fetched" in sample.run("mle", "fetch", url, digest, str(target)).stdout
    for path in (sample.root / "models" / "final").iterdir():
        assert (target / path.name).read_bytes() == path.read_bytes()
    archive.unlink()
    assert "was there already" in sample.run("mle", "fetch", url, digest, str(target)).stdout
    assert [path.name for path in target.parent.iterdir()] == ["final"]


def test_another_model_is_rejected(sample, model_url, tmp_path):
    url, digest, archive = model_url
    target = tmp_path / "here" / "final"
    wrong = digest[:-1] + ("0" if digest[-1] != "0" else "1")
    process = sample.run("mle", "fetch", url, wrong, str(target), check=False)
    assert (
        process.returncode == 1
        and f"its digest is {digest}, and {wrong} was asked for" in process.stdout
    )
    archive.write_bytes(archive.read_bytes()[:-2000])
    process = sample.run("mle", "fetch", url, digest, str(target), check=False)
    assert process.returncode == 1 and "is rejected" in process.stdout
    process = sample.run(
        "mle", "fetch", url.replace("model.tar", "no.tar"), digest, str(target), check=False
    )
    assert process.returncode == 1 and "404" in process.stdout
    assert list(target.parent.iterdir()) == []


def test_a_model_with_a_flipped_byte_is_rejected(sample, model_url, tmp_path):
    url, digest, archive = model_url
    shutil.copytree(sample.root / "models" / "final", tmp_path / "damaged")
    damaged = tmp_path / "damaged" / "model.onnx"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "damaged", arcname=".")
    process = sample.run("mle", "fetch", url, digest, str(tmp_path / "final"), check=False)
    assert (
        process.returncode == 1
        and "model.onnx differ from what its manifest.json names" in process.stdout
    )
    assert not (tmp_path / "final").exists()
