"""What `make image` says before an engine is needed, and what a bento's Dockerfile is made of.

The image itself is built, run and asked by `deploy/image/without_docker.sh`, in a job of its own.
"""

import importlib
import os
import re
import shutil
import subprocess

import yaml
from projects import BIN, ROOT

BUILD = ROOT / "deploy" / "image" / "build.sh"
PROGRAMS = ("bash", "dirname", "git", "sed", "tr")


def build(root, folder, **env) -> subprocess.CompletedProcess[str]:
    """Run a copy of the build program in a project where only these programs can be found.

    None of them builds images.
    """
    folder.mkdir()
    for name in PROGRAMS:
        (folder / name).symlink_to(shutil.which(name))
    (root / "deploy" / "image").mkdir(parents=True, exist_ok=True)
    shutil.copy2(BUILD, root / "deploy" / "image")
    return subprocess.run(
        [root / "deploy" / "image" / "build.sh"],
        env={"PATH": str(folder), **env},
        capture_output=True,
        text=True,
    )


def test_without_a_bento_it_says_how_to_make_one(tmp_path):
    process = build(tmp_path, tmp_path / "bin")
    assert (
        process.returncode == 1
        and process.stderr.count("\n") == 1
        and "dvc repro" in process.stderr
    )


def test_without_an_engine_it_says_what_to_install(sample, tmp_path):
    process = build(sample.root, tmp_path / "bin")
    assert (
        process.returncode == 1
        and process.stderr.count("\n") == 1
        and "apt-get install buildah" in process.stderr
    )
    process = build(sample.root, tmp_path / "other", ENGINE="podman")
    assert process.returncode == 1 and "podman does not answer" in process.stderr


def test_the_bentos_dockerfile(sample):
    """Locked packages only, nothing that builds in what is shipped.

    Its user is not root, and the one of the manifests.
    """
    docker = sample.root / "models" / "bento" / "env" / "docker"
    assert (docker / "Dockerfile.template").read_bytes() == (
        ROOT / "deploy" / "image" / "Dockerfile.j2"
    ).read_bytes()
    built, shipped = (docker / "Dockerfile").read_text().split("\nFROM ${BASE}\n")
    deployment = yaml.safe_load(
        (ROOT / "deploy" / "kubernetes" / "base" / "deployment.yaml").read_text()
    )
    user = deployment["spec"]["template"]["spec"]["securityContext"]["runAsUser"]
    assert (
        "--require-hashes" in built
        and f"\nUSER {user}:{user}\n" in shipped
        and "{{" not in built + shipped
    )
    for word in ("apt-get", "pip install", "ENV PIP", "ENV UV", "://"):
        assert word not in shipped, word
    assert "ENV BENTOML_DO_NOT_TRACK=True" in shipped and "://" not in built


def test_the_build_reads_the_digest_with_a_class_that_is_there():
    pattern = r"from '\"\$name\"'\.([\w.]+) import (\w+)"
    ((module, name),) = re.findall(pattern, BUILD.read_text())
    assert hasattr(importlib.import_module(f"mle_project.{module}"), name)


def test_the_workflow_runs_the_script():
    steps = yaml.safe_load((ROOT / ".github" / "workflows" / "image.yml").read_text())["jobs"][
        "image"
    ]["steps"]
    commands = [step["run"] for step in steps if "run" in step]
    assert any("deploy/image/without_docker.sh" in command for command in commands)
    for name in ("build.sh", "without_docker.sh"):
        path = ROOT / "deploy" / "image" / name
        assert os.access(path, os.X_OK) and subprocess.run(["bash", "-n", path]).returncode == 0
        assert str(BIN) not in path.read_text()
