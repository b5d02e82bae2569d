"""What is in git: package and notebooks in step, locked requirements, true workflow files."""

import ast
import json
import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
import yaml
from projects import BIN, ROOT, example_only, package_texts
from tiers import SLOW

from mle_project.cli.main import main
from mle_project.core.contract import schema_comment
from mle_project.core.project import DETERMINISTIC_ENV, ProjectError, has_avx2, notebook_stages
from mle_project.pipeline.imports import import_order_violations, package_modules
from mle_project.pipeline.notebooks import source_notebooks
from mle_project.pipeline.parameters import (
    PARAMS_SCHEMA,
    check_parameters,
    declared_parameters,
    params_schema,
)
from mle_project.pipeline.stage_code import stage_notebook

NOTEBOOKS = source_notebooks()


def tracked_files() -> list[Path]:
    names = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def test_the_package_is_what_the_notebooks_export(tmp_path):
    for name in ("nbs", "mle_project", "settings.ini", "params.yaml", "dvc.yaml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, tmp_path / name)
    subprocess.run(["nbdev_export"], cwd=tmp_path, check=True)
    here = package_texts(ROOT / "mle_project")
    exported = package_texts(tmp_path / "mle_project")
    for name in here | exported:
        assert exported.get(name) == here.get(name), (
            f"{name} is not what nbs/ exports; type nbdev_export"
        )
    modules = {
        name.removesuffix(".py").replace("/", ".")
        for name in here
        if not name.endswith("__init__.py")
    }
    assert {f"mle_project.{name}" for name in modules} == set(package_modules())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_exports_the_module_of_its_name_and_room(path):
    "nbs/NN_name.ipynb -> name; nbs/api/ROOM/NN_name.ipynb -> ROOM.name"
    rooms = path.parent.relative_to(ROOT / "nbs").parts
    assert rooms == () or (rooms[0] == "api" and len(rooms) == 2)
    (module,) = (name for name, notebook in package_modules().items() if notebook == path)
    assert module == ".".join(["mle_project", *rooms[1:], path.stem[3:]])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_line_under_the_title_is_the_modules_docstring(path):
    title, _, purpose, *_ = nbformat.read(path, as_version=4).cells[0].source.splitlines()
    assert title.startswith("# ") and purpose.startswith("> ")
    (module,) = (name for name, notebook in package_modules().items() if notebook == path)
    text = ROOT.joinpath(*module.split(".")).with_suffix(".py").read_text()
    assert ast.get_docstring(ast.parse(text)) == purpose.removeprefix("> ")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_a_lesson(path):
    cells = nbformat.read(path, as_version=4).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    prose = [cell for cell in cells if cell.cell_type == "markdown"]
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")
    assert len(code) <= 2 * len(prose) + 2


def test_low_numbers_never_import_high_ones():
    assert import_order_violations() == []


def test_sections_and_notebooks_name_the_same_parameters():
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert set(params) == set(notebook_stages())
    for stage in notebook_stages():
        types = declared_parameters(stage_notebook(stage))
        assert "Any" not in types.values(), f"{stage}: say the type of each parameter"
        check_parameters(stage, types, params[stage])


def test_an_unknown_type_is_named():
    with pytest.raises(
        ProjectError,
        match="01_tables.ipynb names an unknown type: .*`Positive`.* Use str, bool, PositiveInt",
    ):
        check_parameters("tables", {"rows": "Positive|None"}, {"rows": 1})


def test_the_schema_of_params_is_what_the_notebooks_declare():
    assert json.loads((ROOT / PARAMS_SCHEMA).read_text()) == params_schema(notebook_stages()), (
        f"{PARAMS_SCHEMA}: type `mle schemas`"
    )
    assert (ROOT / "params.yaml").read_text().startswith(schema_comment(PARAMS_SCHEMA))
    subprocess.run(
        ["check-jsonschema", "--schemafile", ROOT / PARAMS_SCHEMA, ROOT / "params.yaml"], check=True
    )


# Wrong parameters: the stage, the key and its value. The schema's message names the key.
WRONG_PARAMETERS = [
    ("tables", "threads", 0),
    ("eda", "seed", "0"),
    ("tables", "treads", 2),
    ("model_selection", "families", "linear"),
]


def test_wrong_parameters_break_their_schema(tmp_path):
    """All of them are looked at in one process."""
    paths = []
    for stage, key, value in WRONG_PARAMETERS:
        params = yaml.safe_load((ROOT / "params.yaml").read_text())
        params[stage][key] = value
        paths.append(tmp_path / f"{stage}-{key}.yaml")
        paths[-1].write_text(yaml.safe_dump(params))
    command = ["check-jsonschema", "-o", "json", "--schemafile", ROOT / PARAMS_SCHEMA, *paths]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 1, process.stderr
    errors = json.loads(process.stdout)["errors"]
    for stage, key, _ in WRONG_PARAMETERS:
        words = [
            f"{error['path']}: {error['message']}"
            for error in errors
            if Path(error["filename"]).stem == f"{stage}-{key}"
        ]
        assert words, (stage, key)
        assert words[0].startswith(f"$.{stage}") and key in words[0], words


def test_every_stage_has_its_page():
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["report"]
    assert set(stage["deps"]) == {
        "nbs",
        "${tables.contract}",
        *(f"reports/{stage}.ipynb" for stage in notebook_stages()),
    }
    assert {next(iter(out)) for out in stage["outs"]} == {
        f"reports/{stage}.html" for stage in notebook_stages()
    }


@example_only
def test_no_dataset_in_the_code():
    "No column, category or source of the example data stands in a notebook or in the page."
    contract = yaml.safe_load((ROOT / "contract.yaml").read_text())
    sources = yaml.safe_load((ROOT / "params.yaml").read_text())["tables"]["sources"]
    words = (
        {name for name in contract["columns"] if "_" in name}
        | {s.get("package", "") for s in sources.values()}
        | {"flight", "airport"}
    )
    for path in [*NOTEBOOKS, *sorted((ROOT / "mle_project" / "serving" / "page").iterdir())]:
        text = path.read_text().lower()
        matches = [
            word for word in words - {""} if re.search(rf"\b{re.escape(word.lower())}\b", text)
        ]
        assert not matches, f"{path.name} names {matches}"


def test_requirements_are_locked_with_hashes_and_no_index():
    for name in ("installer", "dev", "service", "spark", "shap", "benchmark"):
        text = (ROOT / "requirements" / f"{name}.txt").read_text()
        pins = re.findall(r"^[a-z0-9].*==.* \\$", text, flags=re.M)
        assert pins and len(re.findall(r"^[a-z0-9][^ ]*", text, flags=re.M)) == len(pins)
        blocks = re.split(r"^(?=[a-z0-9])", text, flags=re.M)[1:]
        assert all("--hash=sha256:" in block for block in blocks)
        assert "://" not in text and "--index-url" not in text and "--find-links" not in text


def test_nothing_large_or_local_is_tracked():
    for path in tracked_files():
        assert path.stat().st_size < 1_000_000, path
        if path.suffix in (
            ".py",
            ".ipynb",
            ".yaml",
            ".yml",
            ".toml",
            ".ini",
            ".md",
            ".txt",
            ".cfg",
            ".lock",
        ):
            text = path.read_text()
            assert str(ROOT) + "/" not in text and str(Path.home()) + "/" not in text.replace(
                "~/", ""
            ), path


def test_workflows_keep_githubs_schema():
    "The schema is schemastore's github-workflow, which GitHub's editors use."
    files = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    assert files
    subprocess.run(
        ["check-jsonschema", "--builtin-schema", "vendor.github-workflows", *map(str, files)],
        check=True,
    )
    commands = [
        step["run"]
        for file in files
        for job in yaml.safe_load(file.read_text())["jobs"].values()
        for step in job["steps"]
        if "run" in step
    ]
    assert "bash .ci/run" in commands and "make repro" in commands


def test_any_python_of_the_environment_has_the_threads_of_the_stages():
    names = [name for name in DETERMINISTIC_ENV if re.search("THREADS|SPIN|CORETYPE|CPU_", name)]
    program = f"import os; print(*(os.environ[name] for name in {names}), sep='|')"
    for own in ({}, {"OMP_NUM_THREADS": "7"}):  # a caller's own setting stays
        done = subprocess.run(
            [BIN / "python", "-c", program], env=own, check=True, capture_output=True, text=True
        )
        expected = {name: DETERMINISTIC_ENV[name] for name in names} | own
        assert done.stdout.strip().split("|") == [*expected.values()]


@pytest.mark.skipif(not has_avx2(), reason="the processor has no AVX2")
def test_any_python_of_the_environment_keeps_to_avx2():
    "Longer vectors sum in another order, and another model is found."
    program = (
        "import json, scipy.linalg, threadpoolctl; "
        "from numpy._core._multiarray_umath import __cpu_features__ as features; "
        "blas = [one for one in threadpoolctl.threadpool_info() if one['user_api'] == 'blas']; "
        "print(json.dumps([[one['architecture'] for one in blas], features['X86_V4']]))"
    )
    done = subprocess.run(
        [BIN / "python", "-c", program], env={}, check=True, capture_output=True, text=True
    )
    assert json.loads(done.stdout) == [["Haswell", "Haswell"], False]


def test_make_help_lists_every_target():
    output = subprocess.run(
        ["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), flags=re.M)
    assert {"repro", "test", "test-all", "lab", "serve", "clean", "help", "hooks"} <= set(targets)
    assert all(f"make {target}" in output for target in targets)


def test_the_readmes_commands_are_there():
    "What the README tells a person to type is a target, a program, or a file that a run writes."
    text = (ROOT / "README.md").read_text()
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), flags=re.M)
    assert set(re.findall(r"make ([a-z-]+)", text)) <= set(targets)
    assert "-d @models/final/example.json" in text and "bentoml serve" in text
    for path in re.findall(r"\]\(([\w./]+)\)", text):
        assert (ROOT / path).exists(), path
    programs = {path.name for path in BIN.iterdir()} | {
        "curl",
        "docker",
        "kubectl",
        "make",
        "source",
    }
    typed = [
        line.split("#")[0]
        for block in re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
        for line in block.splitlines()
    ]
    typed += re.findall(r"`(mle [a-z].*?)`", text)
    assert {line.split()[0] for line in typed if line.strip()} <= programs
    for _, name, *words in (line.split() for line in typed if line.startswith("mle ")):
        assert name in main.commands, name
        options = [option for parameter in main.commands[name].params for option in parameter.opts]
        assert {word for word in words if word.startswith("--")} <= set(options), (
            f"mle {name} {words}"
        )


def test_the_table_of_tiers_has_every_test_file():
    "And says of each file what the tests' configuration does."
    text = (ROOT / "tests" / "README.md").read_text()
    tiers = dict(re.findall(r"(?m)^\| `([\w/]+\.py)` \| ([\w-]+) \|", text))
    folder = ROOT / "tests"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("test_*.py")}
    assert set(tiers) == files
    assert {name for name, tier in tiers.items() if tier == "test-all"} == SLOW
