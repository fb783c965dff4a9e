//! The OpenAPI document, from the operations of all routes. Pure.

use std::collections::BTreeMap;

use platform::api::codes::{self, Code};
use platform::api::{Answer, JSON, Operation, Schemas};
use platform::problem::{PROBLEM_JSON, ProblemBody};
use platform::routes::Route;
use serde_json::{Map, Value, json};

const DESCRIPTION: &str = "Clients sign in with a code that is sent to their phone, and then use an access token. What happens comes over the \
WebSocket `/v1/ws`, which the AsyncAPI document describes (`/asyncapi.json`). Unknown fields are to be ignored: a later version may send more. \
Errors are RFC 9457 problems with a stable `code`. Every request may be repeated.";

/// What every request may be refused for, but those for health.
const CODES_OF_ALL: [&str; 3] = ["too_many_requests", "overloaded", "unavailable"];

pub(super) fn document(routes: &[Route]) -> Value {
    let mut schemas = Schemas::default();
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    let mut tags: Vec<&str> = Vec::new();
    for route in routes {
        let tag = tag(route.path);
        if !tags.contains(&tag) {
            tags.push(tag);
        }
        let operation = operation(route, tag, &mut schemas);
        paths.entry(route.path).or_default().insert(route.method.to_ascii_lowercase(), operation);
    }
    tags.sort_unstable();
    let responses = share_responses(&mut paths);
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "rideshare",
            "version": env!("CARGO_PKG_VERSION"),
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "servers": [{"url": "/", "description": "Where this document is from."}],
        "tags": tags.iter().map(|tag| json!({"name": tag})).collect::<Vec<_>>(),
        "paths": paths,
        "components": {
            "responses": responses,
            "securitySchemes": {
                "accessToken": {
                    "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
                    "description": "The `access_token` of POST /v1/auth/token or /v1/auth/refresh.",
                },
                "operatorToken": {
                    "type": "http", "scheme": "bearer", "description": "A token of ADMIN_TOKENS_FILE.",
                },
            },
        },
    });
    schemas.add_to(&mut document);
    document
}

/// Moves answers that several operations have into the components, where they are called `Problem503`, `Problem503b` and so on.
fn share_responses(paths: &mut BTreeMap<&str, Map<String, Value>>) -> Map<String, Value> {
    let operations = || paths.values().flat_map(Map::values);
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    for (status, response) in operations().filter_map(|operation| operation["responses"].as_object()).flatten() {
        *counts.entry((status.clone(), response.to_string())).or_default() += 1;
    }
    counts.retain(|(_, text), count| *count > 1 && text.contains(PROBLEM_JSON));
    let (mut shared, mut names) = (Map::new(), BTreeMap::new());
    for (status, text) in counts.into_keys() {
        let letters = (b'b'..=b'z').map(|letter| char::from(letter).to_string());
        let mut free = std::iter::once(String::new()).chain(letters).map(|letter| format!("Problem{status}{letter}"));
        let Some(name) = free.find(|name| !shared.contains_key(name)) else { break };
        shared.insert(name.clone(), serde_json::from_str(&text).expect("it was written from JSON"));
        names.insert(text, name);
    }
    for operation in paths.values_mut().flat_map(Map::values_mut) {
        for response in operation["responses"].as_object_mut().into_iter().flat_map(Map::values_mut) {
            if let Some(name) = names.get(&response.to_string()) {
                *response = json!({"$ref": format!("#/components/responses/{name}")});
            }
        }
    }
    shared
}

/// The first word of the path behind the version.
fn tag(path: &'static str) -> &'static str {
    let path = path.trim_start_matches('/');
    if path.starts_with("admin/") || path.starts_with("console") {
        return "operators";
    }
    let path = path.strip_prefix("v1/").unwrap_or(path);
    match path.split('/').next().unwrap_or_default() {
        "s" => "shares",
        "metrics" | "stats" | "health" => "operators",
        "openapi.json" | "asyncapi.json" | "docs" => "documents",
        first => first,
    }
}

/// `getRidesById` of GET /v1/rides/{id}, and `getConsoleIndex` of GET /console/.
fn operation_id(route: &Route) -> String {
    let mut id = route.method.to_ascii_lowercase();
    let mut by = "By";
    for segment in route.path.split('/').filter(|segment| !segment.is_empty() && *segment != "v1") {
        let name = segment.trim_matches(['{', '}']);
        if name != segment {
            id.push_str(by);
            by = "And";
        }
        let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        words.for_each(|word| {
            id.push_str(&word[..1].to_ascii_uppercase());
            id.push_str(&word[1..]);
        });
    }
    if route.path.ends_with('/') {
        id.push_str("Index");
    }
    id
}

fn operation(route: &Route, tag: &str, schemas: &mut Schemas) -> Value {
    let of = &route.operation;
    let mut parameters = path_parameters(route, schemas);
    parameters.extend(query_parameters(of, schemas));
    parameters.extend(of.headers.iter().map(|(name, description, schema)| {
        json!({"name": name, "in": "header", "required": false, "description": description, "schema": schema(schemas)})
    }));
    let mut operation = json!({
        "operationId": operation_id(route),
        "summary": of.summary,
        "tags": [tag],
        "parameters": parameters,
        "responses": responses(route, schemas),
        "security": match (of.needs_sign_in, of.needs_operator) {
            (true, _) => json!([{"accessToken": []}]),
            (_, true) => json!([{"operatorToken": []}]),
            _ => json!([]),
        },
    });
    if let Some(body) = of.body {
        let schema = (body.schema)(schemas);
        operation["requestBody"] = json!({"required": !body.is_optional, "content": {JSON: {"schema": schema}}});
    }
    if of.is_for_operators {
        operation["description"] = "For operators: the ingress does not lead here.".into();
        operation["x-internal"] = true.into();
    }
    operation
}

fn path_parameters(route: &Route, schemas: &mut Schemas) -> Vec<Value> {
    let Some(schema) = route.operation.path else { return Vec::new() };
    let schema = schema(schemas);
    let names = route.path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'));
    let of = |n: usize| schema["prefixItems"].get(n).unwrap_or(&schema).clone();
    let parameter = |(n, name): (usize, &str)| json!({"name": name, "in": "path", "required": true, "schema": of(n)});
    names.enumerate().map(parameter).collect()
}

/// The fields of the object, each a parameter. A field that may be null may be left out.
fn query_parameters(of: &Operation, schemas: &mut Schemas) -> Vec<Value> {
    let Some(query) = of.query else { return Vec::new() };
    let schema = query(schemas);
    let schema = schemas.resolve(&schema);
    let required: Vec<&Value> = schema["required"].as_array().into_iter().flatten().collect();
    let parameter = |(name, schema): (&String, &Value)| {
        let mut schema = schema.clone();
        let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
        if let Some(kinds) = schema.get_mut("type").and_then(Value::as_array_mut) {
            kinds.retain(|kind| kind != "null");
            if let [kind] = kinds.as_slice() {
                schema["type"] = kind.clone();
            }
        }
        let choices = schema["anyOf"].as_array().into_iter().flatten().filter(|one| one["type"] != "null");
        if let [one] = choices.collect::<Vec<_>>()[..] {
            schema = one.clone();
        }
        let required = required.iter().any(|field| *field == name);
        let mut parameter = json!({"name": name, "in": "query", "required": required, "schema": schema});
        if let Some(description) = description {
            parameter["description"] = description;
        }
        parameter
    };
    schema["properties"].as_object().into_iter().flatten().map(parameter).collect()
}

fn responses(route: &Route, schemas: &mut Schemas) -> Value {
    let of = &route.operation;
    let mut responses = Map::new();
    for Answer { status, content } in &of.answers {
        let response = responses.entry(status.to_string());
        let response = response.or_insert_with(|| json!({"description": meaning(*status)}));
        if let Some((kind, schema)) = content {
            response["content"][*kind] = json!({"schema": schema(schemas)});
        }
    }
    for (status, codes) in problems(route) {
        let names: Vec<&str> = codes.iter().map(|code| code.name).collect();
        let lines = codes.iter().map(|code| format!("`{}`: {}", code.name, code.meaning));
        let problem = json!({"schema": {"allOf": [
            schemas.written::<ProblemBody>(),
            {"properties": {"status": {"const": status}, "code": {"enum": names}}},
        ]}});
        let response = responses.entry(status.to_string()).or_insert_with(|| json!({"content": {}}));
        response["description"] = lines.collect::<Vec<_>>().join(" ").into();
        response["content"][PROBLEM_JSON] = problem;
        match status {
            429 | 503 => {
                let seconds = json!({"type": "integer", "minimum": 0});
                response["headers"] =
                    json!({"Retry-After": {"required": true, "schema": seconds, "description": "Seconds."}});
            }
            401 => response["headers"] = json!({"WWW-Authenticate": {"schema": {"type": "string"}}}),
            405 => response["headers"] = json!({"Allow": {"schema": {"type": "string"}}}),
            _ => {}
        }
    }
    Value::Object(responses)
}

/// The codes of an operation by their status. A page for a browser has no problems.
fn problems(route: &Route) -> BTreeMap<u16, Vec<&'static Code>> {
    let of = &route.operation;
    let is_page = of.answers.iter().any(|answer| answer.status == 503 && answer.content.is_some());
    let of_all = if is_page { &[][..] } else { &CODES_OF_ALL };
    let mut by_status: BTreeMap<u16, Vec<&'static Code>> = BTreeMap::new();
    for name in of.codes.iter().chain(of_all) {
        let code = codes::find(name).unwrap_or_else(|| panic!("{} {}: no code is {name}", route.method, route.path));
        let codes = by_status.entry(code.status).or_default();
        if !codes.contains(&code) {
            codes.push(code);
        }
    }
    by_status
}

fn meaning(status: u16) -> &'static str {
    match status {
        101 => "The connection is a WebSocket now.",
        201 => "It exists now.",
        202 => "It is on its way.",
        204 => "It is done.",
        404 => "There is none.",
        410 => "It has ended.",
        429 => "Too many requests.",
        503 => "Not possible at the moment.",
        _ => "The answer.",
    }
}
