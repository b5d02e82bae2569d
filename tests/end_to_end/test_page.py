"""The page in a real browser, against `bentoml serve`.

Two classes, more classes in a long contract, and a value behind a key.
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import raw_files_of_a_shop as raw_files
from projects import ROOT, Project, copy_project, example_only
from servers import Server, serving
from tables_of_other_kinds import Kind, houses, plants

import mle_project.candidates  # noqa: F401 - fills the register of families
from mle_project.artifact.export import save, write_manifest
from mle_project.artifact.feature_store import (
    StoredFeatures,
    contract_digest,
    write_features,
)
from mle_project.artifact.predictor import Predictor
from mle_project.core.arrays import encode_target, feature_frame
from mle_project.core.request_model import example_record
from mle_project.evaluation.attributions import attributions
from mle_project.modeling.families import build_family
from mle_project.serving.page import content_security_policy, model_info

CHROMIUM = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")
QUIET = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
KEY = "a key for the test of the page"


class Locked(Project):
    "A project whose service asks for a key."

    @property
    def env(self) -> dict[str, str]:
        return super().env | {
            "MLE_SERVICE_API_KEY_HASHES": hashlib.sha256(KEY.encode()).hexdigest()
        }


def long_plants() -> Kind:
    "Leaves with 60 more readings."
    kind = plants(300)
    chance = np.random.default_rng(1)
    more = pd.DataFrame(
        {
            f"reading_{number}": chance.normal(number, 1 + number, len(kind.frame)).round(2)
            for number in range(60)
        }
    )
    line = "  {}: {{type: number, description: A <b>reading</b>., unit: mm, role: feature, "
    line += "available: before_prediction, nullable: true, example: 1.5}}\n"
    text = kind.text.replace(
        "  species:", "".join(line.format(name) for name in more) + "  species:"
    )
    return Kind(text, pd.concat([kind.frame, more], axis=1), kind.split)


def with_model(project: Project, kind: Kind) -> Project:
    "The project with a small model for a table of another kind, and its contract."
    folder = project.root / "models" / "final"
    contract = kind.contract
    about = {"family": "boosting", "fitted_on": {"rows": len(kind.frame)}}
    x = feature_frame(kind.frame, contract)
    interval = {"half_width": 30_000.0, "coverage": 0.9} if contract.task == "regression" else None
    model = build_family("boosting", {"max_iter": 30}, contract, 0).fit(
        x, encode_target(kind.frame, contract)
    )
    save(
        folder,
        model,
        contract,
        kind.text,
        about | {"interval": interval, "threshold": None},
        x,
        tolerance=1e-3,
    )
    (folder / "card.md").write_text("# Model card\n")
    (project.root / ".mle").mkdir(exist_ok=True)
    write_manifest(folder)
    return project


@pytest.fixture(scope="module")
def browser() -> Iterator:
    if not (CHROMIUM and DRIVER):
        pytest.skip("there is no chromium and chromedriver (Debian: chromium, chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in QUIET:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER)) as driver:
        yield driver


class Form:
    "The page of a service, as a person uses it."

    def __init__(self, browser, served: Server) -> None:
        self.browser = browser
        self.served = served
        self.contract = served.predictor.contract
        self.fields = self.contract.role("feature")
        self.size(1200, 900)
        browser.get(f"{served.url}/")

    def size(self, width: int, height: int) -> None:
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)

    def all(self, selector: str) -> list:
        return self.browser.find_elements("css selector", selector)

    def one(self, selector: str):
        return self.browser.find_element("css selector", selector)

    def run(self, script: str, *arguments):
        return self.browser.execute_script(script, *arguments)

    def input(self, name: str):
        "The input of a field."
        return self.run("return inputs.get(arguments[0])", name)

    def put(self, name: str, text: str) -> None:
        "Type into a field, as if by hand."
        self.run(
            "const more = inputs.get(arguments[0]).closest('details'); if (more) more.open = true;",
            name,
        )
        self.input(name).clear()
        self.input(name).send_keys(text)

    def ask(self, outcome: str, key: str = "") -> str:
        """Press the button, or a key on it, and wait for an element of the answer.

        Return the answer's text.
        """
        from selenium.webdriver.support.ui import WebDriverWait

        self.run("document.getElementById('answer').replaceChildren()")
        if key:
            self.one("#ask").send_keys(key)
        else:
            self.one("#ask").click()
        WebDriverWait(self.browser, 20).until(lambda _: self.all(f"#answer {outcome}"))
        return self.one("#answer").text

    def faults(self) -> list[str]:
        "What the browser complained of since it was last asked."
        return [entry["message"] for entry in self.browser.get_log("browser")]


@pytest.fixture(scope="module")
def server(sample) -> Iterator[Server]:
    with serving(sample) as one:
        yield one


@pytest.fixture(scope="module")
def binary(browser, server) -> Form:
    return Form(browser, server)


@pytest.fixture(scope="module")
def multiclass(browser, tmp_path_factory) -> Iterator[Form]:
    with serving(
        with_model(copy_project(tmp_path_factory.mktemp("plants")), long_plants())
    ) as server:
        yield Form(browser, server)


@pytest.fixture(scope="module")
def raw(browser, tmp_path_factory) -> Iterator[Form]:
    "A model that takes a raw row alone."
    project = copy_project(tmp_path_factory.mktemp("raw"))
    folder = tmp_path_factory.mktemp("shop")
    shop = raw_files.Shop(folder, raw_files.ROW_LOCAL, raw_files.raw_visits())
    (shop.model / "card.md").write_text("# Model card\n")
    write_manifest(shop.model)
    shutil.copytree(shop.model, project.root / "models" / "final", dirs_exist_ok=True)
    with serving(project) as server:
        yield Form(browser, server)


def test_a_form_of_raw_columns_asks_with_a_raw_row(raw):
    example = raw.served.predictor.query["example"]
    assert json.loads(raw.run("return JSON.stringify(request())")) == {"rows": [example]}
    assert len(raw.all(".field")) == len(example)
    assert not raw.one("[data-fill=typical]").is_displayed()
    text = raw.ask(".attributions")
    status, answer = raw.served.post({"rows": [example]})
    assert status == 200 and raw.one(".verdict").text == answer["predictions"][0]["label"]
    assert f"{100 * answer['predictions'][0]['probability']:.1f} %" in text
    program = raw.run("return document.getElementById('python').textContent")
    assert '"rows": [row]' in program
    raw.put("minutes", "soon")
    raw.ask(".alert")
    spot = raw.input("minutes")
    assert spot.get_attribute("aria-invalid") == "true"
    error = raw.one(f"#{spot.get_attribute('id')}-error").text
    assert "cannot make `minutes` of; write it as in" in error
    for width in (320, 1200):
        raw.size(width, 800)
        assert raw.run("return document.documentElement.scrollWidth") <= width
    assert all("422" in fault for fault in raw.faults())


@example_only
def test_a_key_is_asked_and_fills_the_form(browser, sample, tmp_path):
    predictor = Predictor(sample.root / "models" / "final")
    record = example_record(predictor.contract)
    stored = StoredFeatures("a key", "2013-12-05T20:00:00", record, {})
    about = {"contract": contract_digest(predictor.folder)}
    write_features(tmp_path / "features.sqlite", [stored], about)
    with serving(sample, MLE_SERVICE_FEATURE_STORE=str(tmp_path / "features.sqlite")) as server:
        form = Form(browser, server)
        form.one("[data-fill=nothing]").click()
        form.one("#key-0").send_keys("a key")
        form.one("#by-key button").click()
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(browser, 20).until(lambda _: form.all("#answer .attributions"))
        assert "known at 2013-12-05 20:00:00 UTC" in form.one("#answer").text
        assert json.loads(form.run("return JSON.stringify(record())")) == record
        form.one("#key-0").send_keys(" of no flight")
        form.one("#by-key button").click()
        WebDriverWait(browser, 20).until(lambda _: form.all("#answer .alert"))
        assert "There are no features for this key" in form.one("#answer").text
        assert all("404" in fault for fault in form.faults())


@example_only
def test_the_example_is_asked_and_explained(binary):
    assert binary.all(".field") and len(binary.all(".field")) == len(binary.fields)
    filled = json.loads(binary.run("return JSON.stringify(record())"))
    assert filled == binary.served.example and list(filled) == binary.fields
    text = binary.ask(".attributions")
    predictor = binary.served.predictor
    prediction = predictor.format_predictions(predictor.predict_records([binary.served.example]))[0]
    assert (
        binary.one(".verdict").text == prediction["label"]
        and f"{100 * prediction['probability']:.1f} %" in text
    )
    assert len(binary.all(".bars tbody tr")) == 2
    first = attributions(predictor, binary.served.example)[0]
    row = binary.one(".attributions tbody tr")
    assert row.find_element("css selector", "th").text.startswith(f"{first['field']} = ")
    assert row.find_element("css selector", ".number").text.startswith(
        "+" if first["contribution"] > 0 else "−"
    )
    assert predictor.digest[:12] in text and binary.faults() == []


@example_only
def test_a_error_stands_beside_its_field(binary):
    name = next(name for name in binary.fields if not binary.contract.columns[name].nullable)
    binary.run("inputs.get(arguments[0]).value = ''", name)
    binary.ask(".alert")
    spot = binary.input(name)
    assert (
        spot.get_attribute("aria-invalid") == "true"
        and binary.browser.switch_to.active_element == spot
    )
    assert binary.one(f"#{spot.get_attribute('id')}-error").text == "A value is needed here."
    assert len(
        binary.all("[aria-invalid]")
    ) == 1 and f"{spot.get_attribute('id')}-error" in spot.get_attribute("aria-describedby")
    binary.one("[data-fill=example]").click()
    assert not binary.all("[aria-invalid]") and binary.ask(".verdict")


def test_nothing_strange_runs_and_nothing_else_is_asked(binary):
    with urllib.request.urlopen(f"{binary.served.url}/", timeout=30) as answer:
        assert (
            answer.headers["content-security-policy"]
            == f"{content_security_policy()}; frame-ancestors 'none'"
        )
        assert answer.headers.get_content_type() == "text/html"
    hurt = (
        "const s = document.createElement('script'); s.textContent = 'window.hurt = 1'; "
        "document.body.append(s); return window.hurt ?? null"
    )
    assert binary.run(hurt) is None and any(
        "Content Security Policy" in fault for fault in binary.faults()
    )
    binary.ask(".verdict")
    requested = binary.run(
        "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    )
    assert requested and all(address.startswith(f"{binary.served.url}/") for address in requested)
    for link in binary.all("nav a"):
        with urllib.request.urlopen(link.get_attribute("href"), timeout=30) as answer:
            assert answer.status == 200 and answer.read()


def test_the_model_says_what_it_is(binary, sample):
    with urllib.request.urlopen(f"{binary.served.url}/model", timeout=30) as answer:
        facts = json.load(answer)
    expected = model_info(binary.served.predictor, sample.root / "models" / "final")
    assert facts == expected
    assert (
        facts["metrics"]["test"]
        == json.loads((sample.root / "metrics" / "final_model.json").read_text())["test"]
    )
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=sample.root, check=True, capture_output=True, text=True
    ).stdout.strip()
    assert facts["revision"] in (commit, f"{commit}-dirty")


def test_everybody_can_use_it(binary):
    "Names for screen readers, the keyboard alone, narrow screens, light and dark."
    from selenium.webdriver.common.keys import Keys

    binary.browser.refresh()
    controls = binary.all("input, select, button")
    assert [
        control for control in controls if control.is_displayed() and not control.accessible_name
    ] == []
    binary.one("body").send_keys(Keys.TAB)
    assert "skip" in binary.browser.switch_to.active_element.get_attribute("class")
    binary.ask(".verdict", Keys.SPACE)
    for width in (320, 700, 1200):
        binary.size(width, 800)
        assert binary.run("return document.documentElement.scrollWidth") <= width
    grounds = set()
    for scheme in ("light", "dark"):
        binary.browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
        )
        grounds.add(binary.run("return getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2


def contrast(one: str, other: str) -> float:
    "The contrast of two colours as WCAG 2 counts it."
    shades = []
    for colour in (one, other):
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        ]
        shades.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)
    return max(shades) / min(shades)


def test_the_colours_can_be_told_apart():
    style = (ROOT / "mle_project" / "serving" / "page" / "style.css").read_text()
    blocks = [
        dict(re.findall(r"--([\w-]+): (#\w{6});", block))
        for block in re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL)
    ]
    assert len(blocks) == 2
    for colours in blocks:
        for ground in ("ground", "panel"):
            assert all(
                contrast(colours[ink], colours[ground]) >= 4.5
                for ink in ("ink", "quiet", "accent", "bad")
            ), colours
            assert all(
                contrast(colours[shape], colours[ground]) >= 3 for shape in ("line", "up", "down")
            ), colours
        assert contrast(colours["on-accent"], colours["accent"]) >= 4.5


def output_of(*command: str, folder: Path = ROOT) -> str:
    return subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True, timeout=60
    ).stdout


def test_the_readmes_requests_work_as_typed(server, sample):
    "The curl command and the Python client, in the project's folder; only the port is another."
    text = (sample.root / "README.md").read_text()
    blocks = [
        block
        for block in re.findall(r"```(?:sh|python)\n(.*?)```", text, flags=re.DOTALL)
        if "localhost:3000/predict" in block
    ]
    expected = server.predictor.format_predictions(
        server.predictor.predict_records([server.example])
    )
    shell, client = (
        block.replace("localhost:3000", server.url.removeprefix("http://")) for block in blocks
    )
    assert json.loads(output_of("bash", "-c", shell, folder=sample.root))["predictions"] == expected
    assert output_of(sys.executable, "-c", client, folder=sample.root).strip() == str(expected)


def test_a_long_contract(multiclass):
    assert len(multiclass.all(".field")) == len(multiclass.fields) == 67
    assert (
        multiclass.run("return document.querySelectorAll('b').length") == 0
    )  # a description is text, not markup
    hidden = next(field for field in multiclass.all("details .field") if not field.is_displayed())
    name = hidden.find_element("css selector", "label").get_attribute("textContent").split()[0]
    multiclass.one("#search").send_keys(name)
    assert (
        hidden.is_displayed()
        and len([field for field in multiclass.all(".field") if field.is_displayed()]) < 20
    )
    multiclass.one("#search").clear()
    multiclass.one("#search").send_keys(" ")
    multiclass.ask(".attributions")
    outputs = multiclass.served.predictor.predict_records([multiclass.served.example])[0]
    table_rows = [row.text.split() for row in multiclass.all(".bars tbody tr")]
    assert [row[0] for row in table_rows] == [
        multiclass.contract.labels[place] for place in np.argsort(-outputs)
    ]


def test_values_of_every_type(multiclass):
    "What is typed arrives as the contract's type, and what is cleared as null."
    multiclass.put("width", "31.25")
    multiclass.put("finder", 'O\'Hara "Ü"')
    multiclass.input("hairy").send_keys("true")
    clear = multiclass.input("lobes").find_element("xpath", "following-sibling::button")
    clear.click()
    sent = multiclass.served.example | {
        "width": 31.25,
        "finder": 'O\'Hara "Ü"',
        "hairy": True,
        "lobes": None,
    }
    assert multiclass.run("return record()") == sent
    predictor = multiclass.served.predictor
    expected = predictor.format_predictions(predictor.predict_records([sent]))[0]
    assert multiclass.ask(".verdict") and multiclass.one(".verdict").text == expected["label"]
    curl = multiclass.run("return document.getElementById('curl').textContent")
    assert json.loads(output_of("bash", "-c", curl))["predictions"] == [expected]
    client = multiclass.run("return document.getElementById('python').textContent")
    assert output_of(sys.executable, "-c", client).strip() == str(expected)
    multiclass.put("width", "1e")
    assert (
        "One field" in multiclass.ask(".alert")
        and multiclass.one(".field:has([aria-invalid]) .error").text == "This is no number."
    )
    multiclass.one("[data-fill=typical]").click()
    assert multiclass.run("return record()") == {
        name: predictor.baselines[name]["typical"] for name in multiclass.fields
    }


def test_a_value_behind_a_key(browser, tmp_path):
    """Without the key the page asks for it.

    With it comes the value, its interval, and commands that name the key's variable.
    """
    project = with_model(copy_project(tmp_path / "houses"), houses(300))
    with serving(Locked(project.root)) as server:
        form = Form(browser, server)
        assert not form.one("#key").is_displayed()
        assert "401" in form.ask(".alert") and browser.switch_to.active_element == form.one("#key")
        form.one("#key").send_keys(KEY)
        text = form.ask(".attributions")
        prediction = server.predictor.format_predictions(
            server.predictor.predict_records([server.example])
        )[0]
        assert (
            form.one(".verdict").text == f"{prediction['value']:,.0f} euro"
            and f"{prediction['low']:,.0f} and {prediction['high']:,.0f} euro in 90 %" in text
        )
        client = form.run("return document.getElementById('python').textContent")
        assert KEY not in client and output_of(
            "env", f"API_KEY={KEY}", sys.executable, "-c", client
        ).strip() == str(prediction)
        curl = form.run("return document.getElementById('curl').textContent")
        assert json.loads(output_of("env", f"API_KEY={KEY}", "bash", "-c", curl))[
            "predictions"
        ] == [prediction]
