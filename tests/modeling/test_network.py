"""A network is the same wherever it was fitted: sums in another order end in the same weights."""

import os
import subprocess
import sys

FIT = """
import hashlib
import numpy as np
import pandas as pd
from mle_project.modeling.network import NetworkClassifier

rng = np.random.default_rng(0)
x = pd.DataFrame(rng.normal(size=(20_000, 30)).astype(np.float32))
x["word"] = rng.choice(["a", "b", "c"], len(x))
y = (x[0] + x[1] * x[2] + rng.normal(size=len(x)) > 0).to_numpy().astype(int)
network = NetworkClassifier(numbers=30, task="binary", units=64, epochs=2).fit(x, y)
predictions = network.predict_proba(x)
for array in (*network.weights_, predictions):
    print(hashlib.sha256(array.tobytes()).hexdigest())
"""


def test_threads_and_vectors_do_not_change_a_network():
    "They split its sums in another way, as another processor does."
    digests = set()
    for threads, vectors in (("1", "SSE41"), ("4", "AVX2")):
        settings = {"TF_NUM_INTRAOP_THREADS": threads, "ONEDNN_MAX_CPU_ISA": vectors}
        environment = os.environ | settings
        done = subprocess.run(
            [sys.executable, "-c", FIT], env=environment, check=True, capture_output=True, text=True
        )
        digests.add(done.stdout)
    assert len(digests) == 1
