"""How JupyterLab behaves in this environment; `make env` copies the file into .venv/etc/jupyter.

`jupyter lab` finds it there. It opens `nbs/`, and gives kernels the settings of the stages. Saving
a notebook of `nbs/` strips its outputs and exports its module.
"""

import os
import sys
from pathlib import Path

from mle_project.core.project import DETERMINISTIC_ENV
from mle_project.pipeline.notebooks import pre_save_hook
from mle_project.pipeline.stage_code import post_save_hook

os.environ.update(DETERMINISTIC_ENV)

c = get_config()  # noqa: F821
c.ServerApp.root_dir = str(Path(sys.prefix).parent)
c.LabApp.default_url = "/lab/tree/nbs"
c.ContentsManager.pre_save_hook = pre_save_hook
c.FileContentsManager.post_save_hook = post_save_hook
