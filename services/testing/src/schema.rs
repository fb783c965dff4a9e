//! Whether a JSON value is what a schema says: the part of JSON Schema 2020-12 that the documents of this project use. A keyword that it does
//! not know is an error, so that nothing in a document goes unchecked. So is a field that no schema of its object names, although the
//! documents allow it to clients, which ignore it.

use std::collections::BTreeSet;

use regex::Regex;
use serde_json::Value;
use uuid::Uuid;

/// Keywords that say nothing about a value.
const ANNOTATIONS: &[&str] = &["description", "title", "default", "examples", "contentMediaType", "$ref"];
/// Formats that `type` and the ranges already say, or that are not checked.
const NUMBERS: &[&str] = &["double", "float", "int64", "uint64", "int32", "uint32", "uint", "uint8", "uint16"];

/// Checks `value` against `schema`, whose references lead into `document`.
///
/// # Errors
/// The place in the value and what is wrong there; or a keyword that is not known here.
pub fn check(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    whole(Document { root: document, allows_unknown: false }, schema, value, "")
}

/// Checks what a client sends, which may have fields that nobody knows: they are ignored.
///
/// # Errors
/// As those of [`check`].
pub fn check_sent(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    whole(Document { root: document, allows_unknown: true }, schema, value, "")
}

#[derive(Clone, Copy)]
struct Document<'a> {
    root: &'a Value,
    /// Fields that no schema names.
    allows_unknown: bool,
}

/// The fields of an object that schemas name.
#[derive(Default)]
struct Named {
    names: BTreeSet<String>,
    /// A schema says of any field what it is.
    is_any: bool,
}

impl Named {
    fn add(&mut self, other: Self) {
        self.names.extend(other.names);
        self.is_any |= other.is_any;
    }
}

/// The value against all that is said of it in this place.
fn whole(document: Document<'_>, schema: &Value, value: &Value, path: &str) -> Result<(), String> {
    let named = part(document, schema, value, path)?;
    // A schema that names none is of any object.
    if document.allows_unknown || named.is_any || named.names.is_empty() {
        return Ok(());
    }
    let unknown = value.as_object().into_iter().flatten().find(|(name, _)| !named.names.contains(*name));
    unknown.map_or(Ok(()), |(name, _)| Err(format!("{path}/{name}: the document has no such field")))
}

/// The value against a schema that may be one of several for its place.
fn part(document: Document<'_>, schema: &Value, value: &Value, path: &str) -> Result<Named, String> {
    let rules = match schema {
        Value::Bool(true) => return Ok(Named { is_any: true, ..Named::default() }),
        Value::Object(rules) => rules,
        _ => return Err(format!("{path}: nothing is allowed here")),
    };
    let mut named = Named::default();
    if let Some(to) = rules.get("$ref").and_then(Value::as_str) {
        let target = document.root.pointer(to.trim_start_matches('#')).ok_or(format!("{to} leads nowhere"))?;
        named.add(part(document, target, value, path)?);
    }
    for (keyword, rule) in rules {
        keyword_at(document, (keyword, rule), rules, value, path, &mut named)?;
    }
    Ok(named)
}

fn keyword_at(
    document: Document<'_>,
    (keyword, rule): (&str, &Value),
    rules: &serde_json::Map<String, Value>,
    value: &Value,
    path: &str,
    named: &mut Named,
) -> Result<(), String> {
    let wrong = |why: String| Err(format!("{}: {why}: {value:.200}", if path.is_empty() { "/" } else { path }));
    let schemas = || rule.as_array().into_iter().flatten();
    let number = || rule.as_f64().unwrap_or(f64::NAN);
    match keyword {
        "type" if !matches_type(rule, value) => return wrong(format!("is not of type {rule}")),
        "const" if value != rule => return wrong(format!("is not {rule}")),
        "enum" if !schemas().any(|one| one == value) => return wrong(format!("is none of {rule}")),
        "allOf" => {
            for schema in schemas() {
                named.add(part(document, schema, value, path)?);
            }
        }
        "anyOf" | "oneOf" => {
            let results: Vec<_> = schemas().map(|schema| part(document, schema, value, path)).collect();
            let fit = results.iter().filter(|result| result.is_ok()).count();
            if fit == 0 || (keyword == "oneOf" && fit > 1) {
                let why: Vec<&str> =
                    results.iter().filter_map(|result| result.as_ref().err().map(String::as_str)).collect();
                return wrong(format!("{fit} of {keyword} fit ({})", why.join(" | ")));
            }
            results.into_iter().flatten().for_each(|of_one| named.add(of_one));
        }
        "required" => {
            let missing =
                schemas().filter_map(Value::as_str).find(|field| value.is_object() && value.get(field).is_none());
            if let Some(field) = missing {
                return wrong(format!("`{field}` is missing"));
            }
        }
        "properties" => {
            for (name, schema) in rule.as_object().into_iter().flatten() {
                named.names.insert(name.clone());
                if let Some(field) = value.get(name) {
                    whole(document, schema, field, &format!("{path}/{name}"))?;
                }
            }
        }
        "additionalProperties" => {
            named.is_any = true;
            let known = rules.get("properties").and_then(Value::as_object);
            let others = value.as_object().into_iter().flatten();
            for (name, field) in others.filter(|(name, _)| known.is_none_or(|known| !known.contains_key(*name))) {
                whole(document, rule, field, &format!("{path}/{name}"))?;
            }
        }
        "items" => {
            let first = rules.get("prefixItems").and_then(Value::as_array).map_or(0, Vec::len);
            for (n, item) in value.as_array().into_iter().flatten().enumerate().skip(first) {
                whole(document, rule, item, &format!("{path}/{n}"))?;
            }
        }
        "prefixItems" => {
            for (n, (schema, item)) in schemas().zip(value.as_array().into_iter().flatten()).enumerate() {
                whole(document, schema, item, &format!("{path}/{n}"))?;
            }
        }
        "minItems" if value.as_array().is_some_and(|items| (items.len() as f64) < number()) => {
            return wrong(format!("has fewer than {rule} items"));
        }
        "maxItems" if value.as_array().is_some_and(|items| items.len() as f64 > number()) => {
            return wrong(format!("has more than {rule} items"));
        }
        "minimum" if value.as_f64().is_some_and(|value| value < number()) => return wrong(format!("is below {rule}")),
        "maximum" if value.as_f64().is_some_and(|value| value > number()) => return wrong(format!("is above {rule}")),
        "minLength" if value.as_str().is_some_and(|text| (text.chars().count() as f64) < number()) => {
            return wrong(format!("is shorter than {rule}"));
        }
        "maxLength" if value.as_str().is_some_and(|text| text.chars().count() as f64 > number()) => {
            return wrong(format!("is longer than {rule}"));
        }
        "pattern" => {
            let pattern = Regex::new(rule.as_str().unwrap_or_default()).map_err(|error| error.to_string())?;
            if value.as_str().is_some_and(|text| !pattern.is_match(text)) {
                return wrong(format!("does not match {rule}"));
            }
        }
        "format" => {
            let format = rule.as_str().unwrap_or_default();
            let fits = |text: &str| match format {
                "uuid" => Ok(Uuid::parse_str(text).is_ok()),
                "date-time" => Ok(chrono::DateTime::parse_from_rfc3339(text).is_ok()),
                "date" => Ok(text.parse::<chrono::NaiveDate>().is_ok()),
                other => Err(format!("the format {other} is not known here")),
            };
            if let Some(text) = value.as_str().filter(|_| !NUMBERS.contains(&format))
                && !fits(text)?
            {
                return wrong(format!("is no {format}"));
            }
        }
        "type" | "const" | "enum" | "minItems" | "maxItems" | "minimum" | "maximum" | "minLength" | "maxLength" => {}
        _ if ANNOTATIONS.contains(&keyword) || keyword.starts_with("x-") => {}
        _ => return Err(format!("the keyword {keyword} is not known here")),
    }
    Ok(())
}

fn matches_type(rule: &Value, value: &Value) -> bool {
    let is = |name: &str| match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0),
        _ => false,
    };
    match rule {
        Value::String(name) => is(name),
        Value::Array(names) => names.iter().filter_map(Value::as_str).any(is),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_keyword_refuses_what_it_is_for() {
        let document = json!({"a": {"type": "string", "format": "uuid"}});
        let cases = [
            (json!({"type": ["string", "null"]}), json!(null), json!(1)),
            (json!({"type": "integer"}), json!(2.0), json!(2.5)),
            (json!({"const": "x"}), json!("x"), json!("y")),
            (json!({"enum": ["x"]}), json!("x"), json!("y")),
            (json!({"allOf": [{"minimum": 1}, {"maximum": 2}]}), json!(2), json!(3)),
            (json!({"anyOf": [{"type": "null"}, {"minimum": 1, "type": "number"}]}), json!(null), json!(0)),
            (json!({"oneOf": [{"minimum": 1}, {"minimum": 2}]}), json!(1), json!(3)),
            (json!({"required": ["x"]}), json!({"x": null}), json!({})),
            (json!({"properties": {"x": {"type": "null"}}}), json!({}), json!({"x": 1})),
            (json!({"properties": {"x": true}}), json!({"x": 1}), json!({"y": 1})),
            (
                json!({"properties": {"x": true}, "oneOf": [{"required": ["y"], "properties": {"y": true}}, {"required": ["z"]}]}),
                json!({"x": 1, "y": 1}),
                json!({"x": 1, "z": 1}),
            ),
            (json!({"properties": {"x": true}, "additionalProperties": false}), json!({"x": 1}), json!({"y": 1})),
            (json!({"items": {"type": "null"}}), json!([null]), json!([1])),
            (json!({"prefixItems": [{"type": "null"}], "items": {"const": 1}}), json!([null, 1]), json!([null, 2])),
            (json!({"prefixItems": [{"type": "null"}]}), json!([null, 1]), json!([1])),
            (json!({"minItems": 1, "maxItems": 1}), json!([1]), json!([])),
            (json!({"minItems": 1, "maxItems": 1}), json!([1]), json!([1, 2])),
            (json!({"minLength": 2}), json!("éé"), json!("é")),
            (json!({"maxLength": 1}), json!("é"), json!("éé")),
            (json!({"pattern": "^a$"}), json!("a"), json!("ab")),
            (json!({"format": "date-time"}), json!("2026-01-01T00:00:00.000001Z"), json!("2026-01-01")),
            (json!({"$ref": "#/a"}), json!("0190b7a0-0000-7000-8000-000000000001"), json!("x")),
        ];
        for (schema, good, bad) in cases {
            assert_eq!(check(&document, &schema, &good), Ok(()), "{schema}");
            assert!(check(&document, &schema, &bad).is_err(), "{schema} takes {bad}");
        }
        let sent = json!({"properties": {"x": {"type": "null"}}});
        assert_eq!(check_sent(&document, &sent, &json!({"y": 1})), Ok(()));
        assert!(check_sent(&document, &sent, &json!({"x": 1, "y": 1})).is_err());
        for unknown in [json!({"not": {}}), json!({"format": "email"}), json!({"$ref": "#/b"})] {
            assert!(check(&document, &unknown, &json!("x")).is_err(), "{unknown}");
        }
    }
}
