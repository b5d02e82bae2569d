"""The contracts that tests share, this project's and three others; values of strategies."""

from hypothesis import HealthCheck, given, settings
from tables_of_other_kinds import HOUSES, PLANTS

from mle_project.core.contract import EXAMPLE, parse_contract
from mle_project.core.project import root

TEXTS = {
    "project": (root() / "contract.yaml").read_text(),
    "visits": EXAMPLE,
    "plants": PLANTS,
    "houses": HOUSES,
}
CONTRACTS = {name: parse_contract(text) for name, text in TEXTS.items()}
quietly = settings(
    max_examples=1,
    database=None,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def draw_values(strategy, count):
    """`count` values of a strategy, the same in every run."""
    records = []

    @settings(quietly, max_examples=count)
    @given(strategy)
    def collect(value):
        records.append(value)

    collect()
    return records[:count]
