"""The manifests: what kustomize makes of them keeps Kubernetes' schemas and fits the service; a planted mistake is found."""

import base64
import copy
import importlib.util
import shutil
import subprocess
import time
import urllib.error
import urllib.request

import pytest
import yaml
from projects import BIN, ROOT
from servers import free_port

from mle_project.serving.settings import Settings, variable_name

FOLDER = ROOT / "deploy" / "kubernetes"
specification = importlib.util.spec_from_file_location("manifests", FOLDER / "check.py")
manifests = importlib.util.module_from_spec(specification)
specification.loader.exec_module(manifests)


def render(folder: str) -> list[dict]:
    "What would be applied."
    for program in (["kubectl", "kustomize"], ["kustomize", "build"]):
        if shutil.which(program[0]):
            text = subprocess.run(
                [*program, str(FOLDER / folder)], check=True, capture_output=True, text=True
            ).stdout
            return list(yaml.safe_load_all(text))
    pytest.skip("neither kubectl nor kustomize is installed")


def base_objects() -> list[dict]:
    "The base's files as they stand, and its settings; needs no program."
    names = yaml.safe_load((FOLDER / "base" / "kustomization.yaml").read_text())["resources"]
    lines = [
        line
        for line in (FOLDER / "base" / "settings.env").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    settings = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "mle-project"},
        "data": dict(line.split("=", 1) for line in lines),
    }
    return [yaml.safe_load((FOLDER / "base" / name).read_text()) for name in names] + [settings]


def test_the_base_as_written_has_no_fault():
    assert manifests.faults(base_objects()) == []


@pytest.mark.parametrize("folder", [".", "overlays/example"])
def test_what_would_be_applied_has_no_fault(folder):
    objects = render(folder)
    assert {thing["kind"] for thing in objects} >= {thing["kind"] for thing in base_objects()}
    assert manifests.faults(objects) == []


def test_no_key_is_in_git():
    for path in FOLDER.rglob("*.txt"):
        digests = [
            line.split()[0] for line in path.read_text().splitlines() if line.split("#")[0].strip()
        ]
        assert digests == ["0" * 64], path


def of(objects: list[dict], kind: str) -> dict:
    return next(thing for thing in objects if thing["kind"] == kind)


def pod(objects: list[dict]) -> dict:
    return of(objects, "Deployment")["spec"]["template"]["spec"]


def container(objects: list[dict]) -> dict:
    return pod(objects)["containers"][0]


MISTAKES = {
    "a misspelt field": (manifests.schema_faults, lambda o: of(o, "Deployment")["spec"].update(replica=2), "replica"),
    "a word for a number": (manifests.schema_faults, lambda o: of(o, "HorizontalPodAutoscaler")["spec"].update(maxReplicas="six"), "six"),
    "a misplaced field": (manifests.schema_faults, lambda o: container(o).update(runAsNonRoot=True), "runAsNonRoot"),
    "a field that is missing": (manifests.schema_faults, lambda o: of(o, "Service").pop("spec") and o[1].update(spec={"ports": [{}]}), "port"),
    "a service of no pod": (manifests.selector_faults, lambda o: of(o, "Service")["spec"].update(selector={"app": "other"}), "Service"),
    "a budget of no pod": (
        manifests.selector_faults, lambda o: of(o, "PodDisruptionBudget")["spec"].update(selector={"matchLabels": {"a": "b"}}), "Budget"),
    "another port": (manifests.port_faults, lambda o: container(o)["ports"][0].update(containerPort=8080), "8080"),
    "a port of no container": (manifests.port_faults, lambda o: of(o, "Service")["spec"]["ports"][0].update(targetPort="web"), "web"),
    "a port that is let in": (manifests.port_faults, lambda o: of(o, "NetworkPolicy")["spec"]["ingress"][0]["ports"].append({"port": 22}), "22"),
    "a path that is not there": (manifests.port_faults, lambda o: container(o)["livenessProbe"]["httpGet"].update(path="/health"), "/health"),
    "a lost configuration": (manifests.reference_faults, lambda o: o.remove(of(o, "ConfigMap")), "ConfigMap"),
    "two who count pods": (manifests.reference_faults, lambda o: of(o, "Deployment")["spec"].update(replicas=2), "replicas"),
    "an end too soon": (manifests.time_faults, lambda o: pod(o).pop("terminationGracePeriodSeconds"), "terminationGracePeriodSeconds is 30"),
    "longer requests": (manifests.time_faults, lambda o: of(o, "ConfigMap")["data"].update(MLE_SERVICE_TIMEOUT="120"), "130 s"),
    "no sleep": (manifests.time_faults, lambda o: container(o).pop("lifecycle"), "preStop"),
    "root": (manifests.hardening_faults, lambda o: pod(o)["securityContext"].update(runAsNonRoot=False), "root"),
    "a root that can be written": (manifests.hardening_faults, lambda o: container(o)["securityContext"].pop("readOnlyRootFilesystem"), "written"),
    "nowhere to write": (manifests.hardening_faults, lambda o: container(o)["volumeMounts"].pop(0), "/tmp/bentoml"),
    "capabilities": (manifests.hardening_faults, lambda o: container(o)["securityContext"].pop("capabilities"), "capabilities"),
    "a token": (manifests.hardening_faults, lambda o: pod(o).pop("automountServiceAccountToken"), "token"),
    "keys from nowhere": (manifests.key_faults, lambda o: of(o, "ConfigMap")["data"].update(MLE_SERVICE_API_KEY_HASHES_FILE="/keys/all"), "/keys"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_planted_mistake_is_found(name):
    check, plant, word = MISTAKES[name]
    objects = copy.deepcopy(base_objects())
    plant(objects)
    errors = check(objects)
    assert errors and any(word in fault for fault in errors), errors


def test_the_program_names_a_planted_mistake():
    objects = base_objects()
    container(objects).pop("lifecycle")
    ran = subprocess.run(
        [BIN / "python", FOLDER / "check.py"],
        input=yaml.safe_dump_all(objects),
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 1 and ran.stdout.count("\n") == 1 and "preStop" in ran.stdout


def test_a_key_in_the_place_of_its_digest_is_found():
    objects = base_objects()
    of(objects, "ConfigMap")["data"]["MLE_SERVICE_API_KEY_HASHES_FILE"] = "/run/keys/digests"
    data = {"digests": base64.b64encode(b"my key\n").decode()}
    objects.append(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mle-project"}, "data": data}
    )
    assert "never the keys themselves" in manifests.key_faults(objects)[0]


def status(url: str, body: bytes | None = None) -> int:
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, body, {"content-type": "application/json"}), timeout=5
        ) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def test_the_check_knows_the_services_timeouts():
    fields = ("read_timeout", "timeout")
    defaults = {variable_name(field): Settings.model_fields[field].default for field in fields}
    assert defaults == manifests.LONGEST


def test_the_service_takes_these_settings_and_answers_these_probes(sample, tmp_path):
    "With the example's settings and keys: probes need none, a prediction does."
    objects = render("overlays/example")
    (tmp_path / "keys").write_bytes(base64.b64decode(of(objects, "Secret")["data"]["digests"]))
    settings = {
        **of(objects, "ConfigMap")["data"],
        "MLE_SERVICE_API_KEY_HASHES_FILE": str(tmp_path / "keys"),
    }
    port = free_port()
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(
            ["bentoml", "serve", "--port", str(port)],
            cwd=sample.root,
            env={**sample.env, **settings},
            stdout=log,
            stderr=log,
        )
    try:
        until = time.monotonic() + 60
        while status(f"http://127.0.0.1:{port}/readyz") != 200:
            assert process.poll() is None and time.monotonic() < until, (
                tmp_path / "log"
            ).read_text()
            time.sleep(0.2)
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert (
                status(f"http://127.0.0.1:{port}{container(objects)[kind]['httpGet']['path']}")
                == 200
            )
        example = (sample.root / "models" / "final" / "example.json").read_bytes()
        assert status(f"http://127.0.0.1:{port}/predict", example) == 401
    finally:
        process.terminate()
        process.wait(30)
