"""Checks manifests before a cluster sees them.

    kubectl kustomize FOLDER | python deploy/kubernetes/check.py

Strictly against the schemas that Kubernetes publishes, and against each other: labels, ports,
names, times, and what the image needs. Ends with 1 and one sentence for each fault. Kinds without
a published schema (custom resources) are read, not checked.
"""

import base64
import re
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

Object = dict[str, Any]
OLDEST = "1.30"  # the first that knows `preStop: sleep`
IMAGE = (Path(__file__).resolve().parents[1] / "image" / "Dockerfile.j2").read_text()
HEALTH = ("/livez", "/readyz", "/healthz")  # BentoML's; the tests ask a running service for them
LONGEST = {
    "MLE_SERVICE_READ_TIMEOUT": 10.0,
    "MLE_SERVICE_TIMEOUT": 30.0,
}  # what a request may take where nothing else is set


def label(thing: Object) -> str:
    return f"{thing['kind']} {thing['metadata']['name']}"


def schema_faults(objects: list[Object]) -> list[str]:
    """What the published schemas refuse, unknown fields included.

    In the oldest version meant, and in the newest that is known.
    """
    errors = []
    for thing in objects:
        for version in (OLDEST, kubernetes_validate.latest_version()):
            try:
                kubernetes_validate.validate(thing, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                place = ".".join(map(str, error.path))
                errors.append(
                    f"{label(thing)}: {place}: {error.message} (Kubernetes {error.version})"
                )
            except kubernetes_validate.SchemaNotFoundError:
                pass
    return errors


def pods(objects: list[Object]) -> list[tuple[Object, Object]]:
    "Each workload with its pod's specification."
    return [
        (thing, thing["spec"]["template"])
        for thing in objects
        if "template" in thing.get("spec", {})
    ]


def chooses_any(selector: Object, labels: list[Object]) -> bool:
    "Whether a selector chooses one of some pods, by their labels."
    return any(selector.items() <= labels_of_pod.items() for labels_of_pod in labels)


def selector_faults(objects: list[Object]) -> list[str]:
    "Selectors that choose no pod of these manifests."
    labels = [pod["metadata"].get("labels", {}) for _, pod in pods(objects)]
    selector_paths = {
        "Service": ("selector",),
        "NetworkPolicy": ("podSelector", "matchLabels"),
        "Deployment": ("selector", "matchLabels"),
    }
    selector_paths |= {
        kind: ("selector", "matchLabels") for kind in ("StatefulSet", "PodDisruptionBudget")
    }
    wanted = []
    for thing in objects:
        if thing["kind"] in selector_paths:
            selector = thing["spec"]
            for step in selector_paths[thing["kind"]]:
                selector = selector.get(step, {})
            wanted.append((label(thing), selector))
    for thing, pod in pods(objects):
        wanted += [
            (label(thing), spread["labelSelector"]["matchLabels"])
            for spread in pod["spec"].get("topologySpreadConstraints", [])
        ]
    return [
        f"{who}: the selector {selector} chooses no pod"
        for who, selector in wanted
        if not chooses_any(selector, labels)
    ]


def port_faults(objects: list[Object]) -> list[str]:
    """Ports that are named where no container has them.

    Also a container's port that is not the image's, or that no rule lets in.
    """
    faults: list[str] = []
    names: set[str] = set()
    numbers: set[int] = set()
    exposed_ports = {int(port) for port in re.findall(r"(?m)^EXPOSE (\d+)", IMAGE)}
    for thing, pod in pods(objects):
        for container in pod["spec"]["containers"]:
            ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
            names |= set(ports)
            numbers |= set(ports.values())
            faults += [
                f"{label(thing)}: the image serves {exposed_ports}, not {port}"
                for port in set(ports.values()) - exposed_ports
            ]
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                probe = container.get(kind, {}).get("httpGet", {})
                if probe.get("port") not in {*ports, *ports.values()}:
                    faults.append(
                        f"{label(thing)}: {kind} asks the port {probe.get('port')}, "
                        "which the container does not have"
                    )
                if probe.get("path") not in HEALTH:
                    faults.append(
                        f"{label(thing)}: {kind} asks {probe.get('path')}; "
                        f"the service has {', '.join(HEALTH)}"
                    )
    for thing in objects:
        for port in thing["spec"].get("ports", []) if thing["kind"] == "Service" else []:
            if port.get("targetPort", port["port"]) not in names | numbers:
                faults.append(
                    f"{label(thing)}: targetPort {port.get('targetPort')} is no port of a container"
                )
        if thing["kind"] == "NetworkPolicy":
            open_ = {
                port["port"]
                for rule in thing["spec"].get("ingress", [])
                for port in rule.get("ports", [])
            }
            if open_ - numbers - names or not open_ & (numbers | names):
                faults.append(f"{label(thing)}: lets in {open_}; the containers have {numbers}")
    return faults


def reference_faults(objects: list[Object]) -> list[str]:
    """Names of configuration, secrets and workloads that are not there.

    Also two objects that both say how many pods there are.
    """
    there = {(thing["kind"], thing["metadata"]["name"]) for thing in objects}
    wanted: list[tuple[str, str, Object]] = []
    faults: list[str] = []
    for thing, pod in pods(objects):
        for container in pod["spec"]["containers"]:
            for source in container.get("envFrom", []):
                kinds = {"configMapRef": "ConfigMap", "secretRef": "Secret"}
                wanted += [
                    (label(thing), kind, source[key])
                    for key, kind in kinds.items()
                    if key in source
                ]
        for volume in pod["spec"].get("volumes", []):
            if "secret" in volume:
                secret = {**volume["secret"], "name": volume["secret"]["secretName"]}
                wanted.append((label(thing), "Secret", secret))
            if "configMap" in volume:
                wanted.append((label(thing), "ConfigMap", volume["configMap"]))
    for thing in objects:
        if thing["kind"] == "HorizontalPodAutoscaler":
            target = thing["spec"]["scaleTargetRef"]
            wanted.append((label(thing), target["kind"], target))
            faults += [
                f"{label(other)}: replicas is set, and {label(thing)} sets it too"
                for other, _ in pods(objects)
                if other["metadata"]["name"] == target["name"] and "replicas" in other["spec"]
            ]
    absent = [
        (who, kind, ref["name"])
        for who, kind, ref in wanted
        if not ref.get("optional") and (kind, ref["name"]) not in there
    ]
    return faults + [f"{who}: there is no {kind} {name}" for who, kind, name in absent]


def time_faults(objects: list[Object]) -> list[str]:
    "Pods that are killed before a request that they took may have been answered."
    seconds = {
        key: float(value)
        for thing in objects
        if thing["kind"] == "ConfigMap"
        for key, value in thing["data"].items()
        if key in LONGEST
    }
    longest = sum({**LONGEST, **seconds}.values())
    faults = []
    for thing, pod in pods(objects):
        sleeps = [
            container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
            for container in pod["spec"]["containers"]
        ]
        grace = pod["spec"].get("terminationGracePeriodSeconds", 30)
        if grace <= max(sleeps) + longest:
            faults.append(
                f"{label(thing)}: terminationGracePeriodSeconds is {grace}; "
                f"sleep ({max(sleeps)} s) and request ({longest:g} s) need more"
            )
        if not min(sleeps):
            faults.append(
                f"{label(thing)}: no preStop sleep, "
                "so requests still arrive when the service has stopped"
            )
    return faults


def hardening_faults(objects: list[Object]) -> list[str]:
    "What a pod may do or write that it need not, and what it must have that is missing."
    faults = []
    for thing, pod in pods(objects):
        spec = pod["spec"]
        general = spec.get("securityContext", {})
        writable = [volume["name"] for volume in spec.get("volumes", []) if "emptyDir" in volume]
        token = spec.get("automountServiceAccountToken")
        user = general.get("runAsUser")
        profile = general.get("seccompProfile", {}).get("type")
        bad = {
            "the service account's token is mounted": token is not False,
            "it may run as root": general.get("runAsNonRoot") is not True or not user,
            "system calls are not filtered": profile != "RuntimeDefault",
        }
        for container in spec["containers"]:
            own = container.get("securityContext", {})
            resources = container.get("resources", {})
            limits = resources.get("limits", {})
            requests = resources.get("requests", {})
            mounts = [
                mount["mountPath"]
                for mount in container.get("volumeMounts", [])
                if mount["name"] in writable
            ]
            folders = re.findall(r"\b(?:BENTOML_HOME|HOME)=(/\S+)", IMAGE)
            bad |= {
                "it may gain privileges": own.get("allowPrivilegeEscalation") is not False,
                "its root can be written": own.get("readOnlyRootFilesystem") is not True,
                "it keeps capabilities": own.get("capabilities") != {"drop": ["ALL"]},
                "it has no limit of memory": "memory" not in limits,
                "it asks for no processor, which the autoscaler needs": "cpu" not in requests,
            }
            for path in folders:
                bad[f"{path} is not on a writable volume"] = not any(
                    path == mount or path.startswith(f"{mount}/") for mount in mounts
                )
        faults += [f"{label(thing)}: {what}" for what, is_so in bad.items() if is_so]
    return faults


def key_faults(objects: list[Object]) -> list[str]:
    """A file of keys that the settings name and no secret brings.

    Or one that holds something else than digests.
    """
    faults = []
    named = {
        data.get("MLE_SERVICE_API_KEY_HASHES_FILE")
        for thing in objects
        if thing["kind"] == "ConfigMap"
        for data in [thing["data"]]
    } - {None}
    secrets = {thing["metadata"]["name"]: thing for thing in objects if thing["kind"] == "Secret"}
    for thing, pod in pods(objects):
        mounts = {
            mount["name"]: mount["mountPath"]
            for container in pod["spec"]["containers"]
            for mount in container.get("volumeMounts", [])
        }
        volumes = {
            mounts[volume["name"]]: volume["secret"]["secretName"]
            for volume in pod["spec"].get("volumes", [])
            if "secret" in volume
        }
        for path in sorted(named):
            folder, _, name = path.rpartition("/")
            if folder not in volumes:
                faults.append(
                    f"{label(thing)}: MLE_SERVICE_API_KEY_HASHES_FILE is {path}, "
                    f"and no secret is mounted at {folder}"
                )
            elif volumes[folder] in secrets:  # else it comes from elsewhere, sealed
                data = secrets[volumes[folder]].get("data", {})
                lines = base64.b64decode(data.get(name, "")).decode().splitlines()
                digests = [line.split()[0] for line in lines if line.split("#")[0].strip()]
                if not digests or not all(
                    re.fullmatch("[0-9a-f]{64}", digest) for digest in digests
                ):
                    faults.append(
                        f"Secret {volumes[folder]}: {name} must hold SHA-256 digests, one a line; "
                        "never the keys themselves"
                    )
    return faults


def faults(objects: list[Object]) -> list[str]:
    "All of them, as sentences."
    errors = schema_faults(objects)
    if errors:  # the rest reads what the schemas promise
        return errors
    checks = (
        selector_faults,
        port_faults,
        reference_faults,
        time_faults,
        hardening_faults,
        key_faults,
    )
    return [fault for check in checks for fault in check(objects)]


if __name__ == "__main__":
    manifests = [thing for thing in yaml.safe_load_all(sys.stdin) if thing]
    messages = faults(manifests)
    print("\n".join(messages) or f"{len(manifests)} objects, no fault")
    sys.exit(bool(messages) or not manifests)
