"""The templates of pages.

They count as code of the stages that render them, and nothing gets into a page by accident.
"""

import ast
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from jinja2 import UndefinedError
from projects import ROOT, Project, copy_project

from mle_project.adopt.project_files import readme_section
from mle_project.core.contract import example_contract
from mle_project.core.rendering import render
from mle_project.evaluation.leakage import Finding
from mle_project.leakage import leakage_report
from mle_project.pipeline.stage_code import stage_code

TEMPLATES = sorted(path.name for path in (ROOT / "mle_project" / "templates").iterdir())
RENDERED = {
    "adopt.html.j2": set(),
    "card.md.j2": {"card"},
    "card.html.j2": {"card"},
    "leakage.md.j2": {"leakage"},
    "readme_part.md.j2": set(),
}


def marker(name: str) -> str:
    """A line that stands in one template only."""
    return f"One more word in {name}."


@pytest.fixture(scope="module")
def changed_code(tmp_path_factory) -> dict[str, str]:
    """The code of four stages, two of which render nothing, after an edit of every template.

    A template of the leakage report includes a new one, which has its line too.
    """
    copy = tmp_path_factory.mktemp("templates")
    for name in ("nbs", "mle_project"):
        shutil.copytree(ROOT / name, copy / name)
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy2(ROOT / name, copy / name)
    folder = copy / "mle_project" / "templates"
    for name in TEMPLATES:
        text = (folder / name).read_text()
        assert marker(name) not in text
        (folder / name).write_text(text.replace("\n", f"\n{marker(name)}\n", 1))
    (folder / "part.md.j2").write_text(f"{marker('part.md.j2')}\n")
    with (folder / "leakage.md.j2").open("a") as file:
        file.write('{% include "part.md.j2" %}\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(copy)
        return {stage: stage_code(stage) for stage in ("eda", "final_model", "card", "leakage")}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_is_in_the_code_of_the_stages_that_render_it(name, changed_code):
    stages = {stage for stage, code in changed_code.items() if marker(name) in code}
    assert stages == RENDERED[name]


def test_a_template_that_another_includes_counts_too(changed_code):
    stages = {stage for stage, code in changed_code.items() if marker("part.md.j2") in code}
    assert stages == {"leakage"}


def test_the_code_of_a_stage_stays_code(changed_code):
    """The text of templates stands in it as comments."""
    for code in changed_code.values():
        names = [node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)]
        assert names


def test_every_template_is_named_by_a_module():
    """A name put together at run time would be missed, so it stands in the code as it is."""
    modules = [path.read_text() for path in (ROOT / "mle_project").rglob("*.py")]
    for name in TEMPLATES:
        assert any(
            f'render(\n        "{name}"' in text or f'render("{name}"' in text for text in modules
        ), name


def test_dvc_sees_an_edit_of_a_template(tmp_path, monkeypatch):
    project: Project = copy_project(tmp_path)
    project.run("dvc", "repro", "export")
    assert "Running stage" not in project.run("dvc", "repro", "--dry", "export").stdout
    project.replace("mle_project/templates/leakage.md.j2", "# Leakage", "# What leaks")
    assert "Running stage 'export'" in project.run("dvc", "repro", "--dry", "export").stdout
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "reports" / "code"
    assert (folder / "eda.py").read_text() == stage_code("eda")
    written = (folder / "leakage.py").read_text()
    assert "# What leaks" not in written
    assert written.replace("# Leakage", "# What leaks") == stage_code("leakage")


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_value_that_is_not_given_is_an_error(name):
    with pytest.raises(UndefinedError):
        render(name)


def test_html_is_escaped_and_markdown_is_not():
    assert "<script>" not in render("card.html.j2", title="<script>", body="<script>")
    finding = Finding("L1.1", "no test set", "a < b", "`x` & `y`")
    assert "| a < b | `x` & `y` |" in leakage_report([finding])


def test_a_bar_in_a_cell_does_not_break_a_table():
    metrics = {"family": "a|b", "test": {"roc_auc": 0.8}, "baselines": {}}
    assert "| roc_auc | 0.8000 |" in readme_section(example_contract(), metrics, None)
    assert "a\\|b" in readme_section(example_contract(), metrics, None)


def test_templates_are_package_data():
    """The wheel's own test looks into it; git and setuptools have to know each of them."""
    names = subprocess.run(
        ["git", "ls-files", "mle_project/templates"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split()
    assert [Path(name).name for name in names] == TEMPLATES
    assert all(name.endswith(".j2") for name in TEMPLATES)
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert "mle_project/templates" in stages["export"]["deps"]
