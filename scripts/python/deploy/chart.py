"""The chart: lint, render, and the schemas of Kubernetes, of the CRDs, and of the values."""

import copy

import helm_python
import jsonschema
import kubernetes_validate

from . import CHART, NAMESPACE, RELEASE, documents, read_json, read_yaml

# The oldest that Chart.yaml takes, and the newest whose schemas there are.
KUBERNETES = ("1.29", "1.37")
CRDS = {
    "keda.sh/v1alpha1": ("ScaledObject",),
    "jetstream.nats.io/v1beta2": ("Stream", "Consumer"),
    "monitoring.coreos.com/v1": ("ServiceMonitor", "PrometheusRule"),
}
# Values that values.schema.json must refuse, and a word of the reason.
REFUSED = [
    ({}, "postgres"),
    ({"queue": "memory", "keda": {"enabled": True}}, "keda"),
    ({"queue": "kafka"}, "queue"),
    ({"postgres": {"trial": {"enabled": True}, "external": {"host": "db"}}}, "host"),
    ({"postgres": {"trial": {"enabled": True}}, "settings": {"JWT_SECRET": "x"}}, "JWT_SECRET"),
    ({"postgres": {"trial": {"enabled": True}}, "settings": {"NATS_PASSWORD": "x"}}, "NATS_PASSWORD"),
    ({"postgres": {"trial": {"enabled": True}}, "settings": {"CORE_NATS_QUEUE_GROUP": "x"}}, "CORE_NATS_QUEUE_GROUP"),
    ({"postgres": {"trial": {"enabled": True}}, "settings": {"MARKETS_FILE": "x"}}, "MARKETS_FILE"),
    ({"postgres": {"trial": {"enabled": True}}, "markets": {"type": "FeatureCollection"}}, "markets"),
    ({"postgres": {"trial": {"enabled": True}}, "markets": "markets.geojson"}, "markets"),
    ({"postgres": {"trial": {"enabled": True}}, "markets": '{"type": "Feature"}'}, "FeatureCollection"),
    ({"postgres": {"trial": {"enabled": True}}, "markets": '{"type": "FeatureCollection"'}, "FeatureCollection"),
    ({"postgres": {"trial": {"enabled": True}}, "terminationGracePeriodSeconds": 30}, "terminationGracePeriodSeconds"),
    ({"postgres": {"trial": {"enabled": True}}, "preStopSeconds": 20}, "terminationGracePeriodSeconds"),
    ({"postgres": {"trial": {"enabled": True}}, "keda": {"enabled": True, "services": {"users": {"maxReplicas": 1}}}}, "maxReplicas"),
    ({"postgres": {"trial": {"enabled": True}}, "nats": {"enabled": False}}, "url"),
    ({"postgres": {"trial": {"enabled": True}}, "nats": {"external": {"url": "nats://rs:hunter2@host:4222"}}}, "url"),
    ({"postgres": {"trial": {"enabled": True}}, "user": {"replicas": 3}}, "user"),
    ({"postgres": {"trial": {"enabled": True}}, "ingress": {"enabled": True}}, "host"),
    ({"postgres": {"trial": {"enabled": True}}, "users": {"resources": {"limits": None}}}, "limits"),
]
# More shapes than the files of ci/: their objects are held to the same rules.
SHAPES = {
    "external NATS": {
        "nats": {"enabled": False, "external": {"url": "tls://nats.example.com:4222", "cidrs": ["10.3.0.0/24"]}, "tls": {"secretName": "ca"}},
        "postgres": {"external": {"host": "db.example.com", "cidrs": ["10.2.0.0/24"]}},
        "keda": {"enabled": True, "external": {"monitoringEndpoint": "nats.example.com:8222", "account": "RIDES"}},
        "topology": {"apply": False},
    },
    "memory without a database": {"queue": "memory"},
    "memory with markets": {"queue": "memory", "markets": '{"type": "FeatureCollection", "features": []}\n'},
}


def values():
    """All values that are rendered, by name."""
    files = {path.stem: read_yaml(path) for path in sorted((CHART / "ci").glob("*.yaml"))}
    return {**files, **SHAPES}


def render(chart, of):
    """The objects and the notes."""
    rendered = chart.render(of, name=RELEASE, namespace=NAMESPACE, revision=3, is_install=True)
    objects = [d for name, text in sorted(rendered.items()) if name.endswith(".yaml") for d in documents(text)]
    return objects, next(text for name, text in rendered.items() if name.endswith("NOTES.txt"))


def strict(schema):
    """The schema of a CRD, refusing fields that it does not name, as the API server does under strict validation."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    is_object = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    if is_object and "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made["additionalProperties"] = False
    return made


def crd_schema(kind):
    schema = strict(read_json(CHART / "schemas" / f"{kind.lower()}.json"))
    # These the API server adds.
    schema["properties"].update({"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}})
    return schema


def validate(document, where, faults):
    """An object against its schema, which refuses unknown fields."""
    name = f"{where}: {document['kind']} {document['metadata'].get('name')}"
    if document["apiVersion"] in CRDS:
        kinds = CRDS[document["apiVersion"]]
        faults.expect(document["kind"] in kinds, f"{name}: no schema of this kind")
        for error in jsonschema.Draft202012Validator(crd_schema(document["kind"])).iter_errors(document):
            faults.expect(False, f"{name}: {error.json_path}: {error.message}")
        faults.checked += 1
        return
    for version in KUBERNETES:
        try:
            kubernetes_validate.validate(copy.deepcopy(document), version, strict=True)
            faults.checked += 1
        except Exception as error:  # of several unrelated types
            faults.expect(False, f"{name}: Kubernetes {version}: {error}")


def check(faults):
    """Returns the objects by the name of their values."""
    for name, of in values().items():
        report = helm_python.lint(str(CHART), of, strict=True)
        bad = [m for m in report["messages"] if m["severity"] > 1] + report["errors"]
        faults.expect(not bad, f"lint with {name}: {bad}")
    all_objects = {}
    with helm_python.Chart.load(str(CHART)) as chart:
        for of, word in REFUSED:
            try:
                chart.render(of, name=RELEASE)
                faults.expect(False, f"values.schema.json takes {of}")
            except helm_python.HelmError as error:
                faults.expect(word in str(error), f"{of} is refused without naming {word}: {error}")
        for name, of in values().items():
            try:
                objects, notes = render(chart, of)
            except helm_python.HelmError as error:
                faults.expect(False, f"{name}: {error}")
                continue
            faults.expect(notes.strip(), f"{name}: NOTES.txt is empty")
            for document in objects:
                validate(document, name, faults)
            names = [(d["kind"], d["metadata"]["name"]) for d in objects]
            faults.expect(len(names) == len(set(names)), f"{name}: two objects have one name: {names}")
            all_objects[name] = (chart.merge_values(of), objects)
    return all_objects
