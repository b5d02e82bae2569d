"""A project before `mle adopt`."""

import shutil
from pathlib import Path

import pytest
import yaml
from projects import ROOT, git


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    "The files of the project that adoption reads and writes, in a git repository."
    folder = tmp_path / "project"
    (folder / "sql").mkdir(parents=True)
    for name in ("params.yaml", "dvc.yaml", "README.md"):
        shutil.copy(ROOT / name, folder / name)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["tables"]["query"] = "sql/earlier.sql"
    (folder / "params.yaml").write_text(
        "# The parameters.\n" + yaml.safe_dump(params, sort_keys=False)
    )
    (folder / "README.md").write_text(
        "# A project\n\n<!-- table -->\nearlier\n<!-- /table -->\n\nThe end.\n"
    )
    (folder / "contract.yaml").write_text("description: earlier\n")
    (folder / "sql" / "earlier.sql").write_text("SELECT 1\n")
    (folder / "sql" / "availability.yaml").write_text("prediction_time: x\n")
    (folder / ".gitignore").write_text("/data/\n*.bak\n")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "-qm", "one")
    monkeypatch.chdir(folder)
    return folder
