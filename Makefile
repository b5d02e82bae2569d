# Targets print their own help: `make help`. Everything runs inside .venv, which is built from requirements/dev.txt.
SHELL := /bin/bash
.DEFAULT_GOAL := help
READY := .venv/.ready
# `value` takes what a person or the environment says as it stands: a path may hold a $.
PYTHON := $(or $(value PYTHON),$(shell command -v python3.11 || command -v python3),python3.11)
export PYTHON
export PATH := $(CURDIR)/.venv/bin:$(value PATH)
export BENTOML_DO_NOT_TRACK := True
unexport VIRTUAL_ENV PYTHONPATH

# Recipes name files from the clone's folder and nothing else, so that no character of its path matters to them.
ifneq ($(words $(wildcard dvc.yaml params.yaml requirements/dev.txt)),3)
$(error $(CURDIR) is not a clone of the project. Go to your clone first, or type make -C CLONE)
endif
# PATH cannot hold a colon, DVC fails on braces, and DuckDB does not write where a backslash is.
REFUSED := $(strip $(foreach sign,\ : { },$(findstring $(sign),$(CURDIR))))
ifneq ($(REFUSED),)
$(error The path $(CURDIR) holds $(REFUSED), which not all programs used here can take. Rename the folder)
endif

.PHONY: help env repro test test-all reproducibility twice drills lab serve image spark shap hooks lock clean

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' Makefile

# Python before 3.11.11 writes the folder's path into bin/activate without quoting it.
define QUOTE_ACTIVATE
import re, shlex
from pathlib import Path
file, folder = Path(".venv/bin/activate"), shlex.quote(str(Path.cwd() / ".venv"))
file.write_text(re.sub("(?m)^VIRTUAL_ENV=.*$$", lambda _: f"VIRTUAL_ENV={folder}", file.read_text()))
endef
export QUOTE_ACTIVATE

# Any Python of .venv has the stages' threads and vectors and no telemetry, unless the caller says otherwise: else a fit takes longer, or differs.
define SETTINGS
import re
import sysconfig
from pathlib import Path
from mle_project.core.project import DETERMINISTIC_ENV
names = [n for n in DETERMINISTIC_ENV if re.search("THREADS|SPIN|TRACK|CORETYPE|CPU_|^TF_", n)]
lines = [f"import os; os.environ.setdefault({n!r}, {DETERMINISTIC_ENV[n]!r})" for n in names]
Path(sysconfig.get_path("purelib"), "mle_settings.pth").write_text("\n".join(lines) + "\n")
endef
export SETTINGS

# Bytecode is compiled once, here: else each process compiles what it imports again wherever PYTHONDONTWRITEBYTECODE is set.
$(READY): Makefile requirements/dev.txt requirements/installer.txt pyproject.toml .jupyter/jupyter_server_config.py
	@"$$PYTHON" -c 'import sys; v = sys.version_info[:2]; v == (3, 11) or sys.exit(f"Python 3.11 is needed; {sys.executable} is {v[0]}.{v[1]}. Say which one to use: make env PYTHON=/path/to/python3.11")'
	@[ ! -L .venv ] || { echo "env: .venv is a link to $$(readlink .venv), and nothing outside this folder is changed. Remove the link: rm .venv" >&2; exit 1; }
	@[ -f .venv/pyvenv.cfg ] || [ -z "$$(ls -A .venv 2> /dev/null)" ] || { \
	  echo "env: $$PWD/.venv is no virtual environment (it has no pyvenv.cfg), so it is not emptied. Move it away, or delete it if nobody needs it." >&2; exit 1; }
	@echo "env: building .venv from requirements/dev.txt (about 2.5 GB, a few minutes)"
	@"$$PYTHON" -m venv --clear .venv || { echo "env: the venv module is incomplete; on Debian or Ubuntu: apt-get install python3.11-venv" >&2; exit 1; }
	@.venv/bin/python -c "$$QUOTE_ACTIVATE"
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/installer.txt
	@.venv/bin/uv pip sync --quiet --compile-bytecode --python .venv/bin/python --require-hashes requirements/dev.txt
	@.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --no-index --editable .
	@.venv/bin/python -c "$$SETTINGS"
	@mkdir -p .venv/etc/jupyter && cp .jupyter/jupyter_server_config.py .venv/etc/jupyter/
	@touch $(READY)

env: $(READY)  ## build .venv from the lock file
	@echo "env: ready. Enter it with: source .venv/bin/activate"

repro: $(READY)  ## run the whole stage graph and print a summary
	@dvc repro
	@mle summary

test: $(READY)  ## what to run before a commit: style, types, notebooks, contracts, the graph on a sample
	ruff check mle_project nbs tests benchmarks deploy .jupyter
	ruff format --check nbs tests benchmarks deploy .jupyter
	mypy
	mle clean --check
	nbdev_test --n_workers 2
	pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow" --durations=10

test-all: test  ## all tests: `make test`, then the slow ones (tests/README.md has the table)
	pytest -n 2 --dist loadfile --no-loadscope-reorder -m slow --durations=10

reproducibility: $(READY)  ## run the graph of this commit in two clones, and compare every byte
	@mle reproduce

twice: reproducibility  # the former word

drills: $(READY)  ## hold every drill (kill -9, Ctrl-C, disk full, flipped bits, ...) ten times
	@python benchmarks/drills.py

lab: $(READY)  ## open nbs/ in JupyterLab; saving strips outputs and exports the module
	@jupyter lab

serve: $(READY)  ## serve the model of the last run on http://localhost:3000
	@bentoml serve

image: $(READY)  ## build the container image of models/bento with Docker, Podman or Buildah
	@deploy/image/build.sh

spark: $(READY)  ## add Apache Spark to .venv, for tables that outgrow one machine
	@command -v java > /dev/null || { echo "spark: Java 17 or newer is needed; on Debian or Ubuntu: apt-get install openjdk-17-jre-headless" >&2; exit 1; }
	@.venv/bin/uv pip install --quiet --compile-bytecode --python .venv/bin/python --require-hashes -r requirements/spark.txt
	@echo "spark: ready. Set tables.engine: pyspark in params.yaml, or say mle score --engine pyspark"

shap: $(READY)  ## add SHAP to .venv, for importance.with_shap in params.yaml
	@.venv/bin/uv pip install --quiet --compile-bytecode --python .venv/bin/python --require-hashes -r requirements/shap.txt
	@echo "shap: ready. Set importance.with_shap: true in params.yaml"

hooks: $(READY)  ## install the git hooks of this clone: outputs stripped, package in step, ruff
	@git config core.hooksPath .githooks && echo "hooks: git now runs .githooks/ in this clone"

lock: $(READY)  ## resolve requirements/*.in into hash-locked requirements/*.txt
	@cd requirements && for name in installer dev; do \
	  uv pip compile --quiet --no-header --no-emit-index-url --generate-hashes --python-version 3.11 --python-platform x86_64-manylinux_2_28 $$name.in -o $$name.txt; done
	@cd requirements && for name in service spark shap; do \
	  uv pip compile --quiet --no-header --no-emit-index-url --generate-hashes --python-version 3.11 --python-platform x86_64-manylinux_2_28 $$name.in -c dev.txt -o $$name.txt; done
	@cd requirements && uv pip compile --quiet --no-header --no-emit-index-url --generate-hashes --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
	  benchmark.in -c dev.txt --override benchmark.override -o benchmark.txt

clean:  ## delete everything that can be made again, the environment and DVC's cache included
	rm -rf .venv .mle .dvc/cache .dvc/tmp .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info models reports dvc_plots
	find data -mindepth 1 -maxdepth 1 ! -name raw -exec rm -rf {} +
	find . -name __pycache__ -prune -exec rm -rf {} +
