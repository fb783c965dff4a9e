"""Rules for the pods of the chart: who they run as, what they may, how they end, where secrets come from."""

import re

from . import SERVICES, drain_limit_s, example_variables

# The names of variables whose value is a secret.
SECRET = re.compile(r"SECRET|PASSWORD|TOKEN|NKEY|CREDS")
REFERENCE = re.compile(r"\$\(([A-Z_]+)\)")


def pods(objects):
    """Objects with pods: (object, its pod's template)."""
    for document in objects:
        if document["kind"] in ("Deployment", "StatefulSet", "Job"):
            yield document, document["spec"]["template"]


def component(template):
    return template["metadata"]["labels"]["app.kubernetes.io/component"]


def containers(template):
    return template["spec"].get("initContainers", []) + template["spec"]["containers"]


def environment(container):
    """NAME → value, or (secret, key)."""
    made = {}
    for variable in container.get("env", []):
        source = variable.get("valueFrom", {}).get("secretKeyRef")
        made[variable["name"]] = (source["name"], source["key"]) if source else variable.get("value")
    return made


def check_security(where, template, faults):
    pod = template["spec"]
    security = pod.get("securityContext", {})
    faults.expect(security.get("runAsNonRoot") is True and security.get("runAsUser", 0) > 0, f"{where}: not as another user than root")
    faults.equal(security.get("seccompProfile"), {"type": "RuntimeDefault"}, f"{where}: seccomp")
    faults.expect(pod.get("automountServiceAccountToken") is False, f"{where}: gets a token of the API server")
    faults.expect(not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")), f"{where}: is in the node's namespaces")
    faults.expect(not any("hostPath" in volume for volume in pod.get("volumes", [])), f"{where}: mounts the node")
    for container in containers(template):
        name = f"{where}/{container['name']}"
        security = container.get("securityContext", {})
        faults.expect(security.get("readOnlyRootFilesystem") is True, f"{name}: may write its root file system")
        faults.expect(security.get("allowPrivilegeEscalation") is False, f"{name}: may gain privileges")
        faults.equal(security.get("capabilities"), {"drop": ["ALL"]}, f"{name}: capabilities")
        faults.expect(not security.get("privileged") and "runAsUser" not in security, f"{name}: not as the pod says")
        for kind in ("requests", "limits"):
            faults.expect({"cpu", "memory"} <= set(container.get("resources", {}).get(kind, {})), f"{name}: no {kind}")
        faults.expect(re.search(r"(:[^/]+|@sha256:[0-9a-f]{64})$", container["image"]), f"{name}: image {container['image']}")
        faults.expect(not container["image"].endswith(":latest"), f"{name}: image {container['image']}")


def check_secrets(where, template, secret_name, faults):
    for container in containers(template):
        name = f"{where}/{container['name']}"
        known = set()
        for variable in container.get("env", []):
            value, source = variable.get("value"), variable.get("valueFrom", {})
            if "secretKeyRef" in source:
                reference = source["secretKeyRef"]
                faults.equal(reference["name"], secret_name, f"{name}: {variable['name']}")
                faults.expect(reference["key"] in example_variables(), f"{name}: {reference['key']} is not in docker/.env.example")
            # A file is named by its path.
            elif SECRET.search(variable["name"]) and not variable["name"].endswith("_FILE"):
                faults.expect(re.fullmatch(r'"?\$\([A-Z_]+\)"?', value or ""), f"{name}: {variable['name']} is no reference")
            elif variable["name"] == "DATABASE_URL":
                faults.expect(re.fullmatch(r"postgres://[a-z_]+:\$\([A-Z_]+\)@.+", value), f"{name}: the password in DATABASE_URL")
            # The kubelet expands only what stands before.
            for used in REFERENCE.findall(value or ""):
                faults.expect(used in known, f"{name}: {variable['name']} uses {used}, which does not stand before it")
            known.add(variable["name"])
        faults.expect(not container.get("envFrom"), f"{name}: takes a whole Secret")


def check_end(where, template, faults):
    """A process that serves: its probes, and its end."""
    for container in template["spec"]["containers"]:
        if container.get("args", [""])[0] != "run":
            continue
        name = f"{where}/{container['name']}"
        probes = {kind: container.get(f"{kind}Probe", {}).get("httpGet", {}).get("path") for kind in ("startup", "liveness", "readiness")}
        faults.equal(probes, {"startup": "/health/live", "liveness": "/health/live", "readiness": "/health/ready"}, f"{name}: probes")
        command = container["lifecycle"]["preStop"]["exec"]["command"]
        faults.equal(command[0], "sleep", f"{name}: preStop")
        grace, needed = template["spec"]["terminationGracePeriodSeconds"], int(command[1]) + drain_limit_s()
        faults.expect(grace > needed, f"{name}: killed after {grace} s, while preStop and the drain may take {needed} s")


def check(name, values, objects, faults):
    faults.expect(not any(d["kind"] == "Secret" for d in objects), f"{name}: the chart writes a Secret")
    budgets = [d["spec"]["selector"]["matchLabels"] for d in objects if d["kind"] == "PodDisruptionBudget"]
    for document, template in pods(objects):
        where = f"{name}: {document['kind']} {document['metadata']['name']}"
        check_security(where, template, faults)
        check_secrets(where, template, values["secretName"], faults)
        check_end(where, template, faults)
        if document["kind"] == "Job":
            spec = document["spec"]
            faults.expect(all(key in spec for key in ("activeDeadlineSeconds", "backoffLimit")), f"{where}: may run for ever")
            continue
        selector = document["spec"]["selector"]["matchLabels"]
        faults.expect(selector.items() <= template["metadata"]["labels"].items(), f"{where}: its selector finds other pods")
        if component(template) != "postgres":
            faults.expect(budgets.count(selector) == 1, f"{where}: {budgets.count(selector)} PodDisruptionBudgets")
    running = {component(t) for d, t in pods(objects) if d["kind"] == "Deployment"}
    faults.equal(running, set(SERVICES) if values["queue"] == "nats" else {"all"}, f"{name}: Deployments")
