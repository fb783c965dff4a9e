"""The documents against their specifications, and a running rideshare against its documents."""

import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import jsonschema
from openapi_spec_validator import OpenAPIV31SpecValidator

RIDESHARE = os.environ["RIDESHARE"]
SEED = os.environ.get("SEED", "1")
# So many generated requests for each operation, beside those of the phase `coverage`.
EXAMPLES = "30"
# No limit of a rate is reached: all requests are of one address and two people.
RATES = (
    "http_address http_user sign_in_address nearby shares commands points refresh codes_address codes_asker codes_number"
    " codes_first codes_prefix codes_all wrong_codes_address wrong_codes_first wrong_codes_all"
).split()
LIMITS = ",".join([f"{name}=10000000/1000000" for name in RATES] + ["connections_address=1000000"])
# What ends the sign-in with which it is called: each in a run of its own, after all others.
ENDS = ["deleteMe", "postAuthSignOut", "deleteAuthSignInsById"]


# An event stream does not end; it is checked by the tests.
ENDLESS = ["getAdminStream"]
OPERATOR = "an operator's token for check-api"


def document(name):
    return json.loads(subprocess.run([RIDESHARE, "api", name], check=True, capture_output=True).stdout)


def check_documents():
    """Returns what is wrong with the documents."""
    openapi, asyncapi = document("openapi"), document("asyncapi")
    wrong = [f"openapi{list(error.absolute_path)}: {error.message:.300}" for error in OpenAPIV31SpecValidator(openapi).iter_errors()]
    schema = json.loads(Path(os.environ["ASYNCAPI_SCHEMA"]).read_text())
    for error in jsonschema.Draft7Validator(schema).iter_errors(asyncapi):
        error = jsonschema.exceptions.best_match([error])
        wrong.append(f"asyncapi{list(error.absolute_path)}: {error.message:.300}")
    for name, of in (("openapi", openapi), ("asyncapi", asyncapi)):
        for type_name, schema in of["components"]["schemas"].items():
            try:
                jsonschema.Draft202012Validator.check_schema(schema)
            except jsonschema.SchemaError as error:
                wrong.append(f"{name} {type_name}: {error.message:.300}")
    return wrong


def post(url, body, token=None):
    headers = {"content-type": "application/json"}
    if token:
        headers["authorization"] = f"Bearer {token}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def sign_in(base, number):
    phone = f"+1212234{number:04}"
    code = post(f"{base}/v1/auth/otp", {"phone": phone})["code"]
    token = post(f"{base}/v1/auth/token", {"phone": phone, "code": code})["access_token"]
    post(f"{base}/v1/drivers", {"vehicle_type": "car", "plate": f"T {number}"}, token)
    return token


def wait_until_ready(base, process):
    for _ in range(300):
        if process.poll() is not None:
            sys.exit("check-api: rideshare has ended")
        try:
            urllib.request.urlopen(f"{base}/health/ready", timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    sys.exit("check-api: rideshare is not ready after 30 s")


def schemathesis(base, token, operations):
    """Calls the operations that the arguments name. True if nothing was found."""
    program = Path(sys.executable).with_name("schemathesis")
    config = Path(__file__).with_name("schemathesis.toml")
    arguments = ["--phases", "coverage,fuzzing", "-n", EXAMPLES, "--seed", SEED, "--continue-on-failure", "--warnings", "off"]
    run = [program, "--config-file", config, "run", f"{base}/openapi.json", "-H", f"Authorization: Bearer {token}", *arguments, *operations]
    with tempfile.TemporaryDirectory() as scratch:
        return subprocess.run(run, cwd=scratch, check=False, timeout=300).returncode == 0


def without(operations):
    return [argument for operation in operations for argument in ("--exclude-operation-id", operation)]


def main():
    wrong = check_documents()
    print("\n".join(wrong) or "both documents are what they say they are")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    base = f"http://{address}"
    tokens = tempfile.NamedTemporaryFile("w", suffix=".tokens")
    tokens.write(f"check admin {hashlib.sha256(OPERATOR.encode()).hexdigest()}\n")
    tokens.flush()
    arguments = ["--http-addr", address, "--otp-delivery", "response", "--limits", LIMITS, "--log", "error", "--admin-tokens-file", tokens.name]
    process = subprocess.Popen([RIDESHARE, *arguments])
    try:
        wait_until_ready(base, process)
        found = not schemathesis(base, sign_in(base, 1), ["--exclude-tag", "operators", *without(ENDS)])
        found |= not schemathesis(base, OPERATOR, ["--include-tag", "operators", *without(ENDLESS)])
        for number, end in enumerate(ENDS, 2):
            found |= not schemathesis(base, sign_in(base, number), ["--include-operation-id", end])
        died = process.poll() is not None
    finally:
        process.terminate()
        process.wait(timeout=60)
    sys.exit(1 if wrong or found or died else 0)


main()
