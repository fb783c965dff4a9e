//! Schemas of types, and the one list of those that have a name.
//!
//! What is read and what is written are two sides of a type: a field that may be left out when it is read may be written always. Where both
//! sides of a type are described and differ, the side that is read is called `…Input`.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value};
use streams::Subject;

const WRITTEN: &str = "#/components/schemas/";
const READ: &str = "#/components/read/";

/// Schemas for one document.
#[derive(Debug)]
pub struct Schemas {
    read: SchemaGenerator,
    written: SchemaGenerator,
}

impl Default for Schemas {
    fn default() -> Self {
        let mut read = SchemaSettings::draft2020_12();
        read.definitions_path = READ.trim_start_matches('#').to_owned().into();
        let mut written = SchemaSettings::draft2020_12().for_serialize();
        written.definitions_path = WRITTEN.trim_start_matches('#').to_owned().into();
        Self { read: read.into_generator(), written: written.into_generator() }
    }
}

impl Schemas {
    /// The schema of what the program reads as a `T`.
    pub fn read<T: JsonSchema>(&mut self) -> Value {
        self.read.subschema_for::<T>().to_value()
    }

    /// The schema of what the program writes of a `T`.
    pub fn written<T: JsonSchema>(&mut self) -> Value {
        self.written.subschema_for::<T>().to_value()
    }

    /// The schema itself, where `schema` only refers to one that has a name.
    pub fn resolve(&mut self, schema: &Value) -> Value {
        let reference = schema["$ref"].as_str().unwrap_or_default();
        let found = match (reference.strip_prefix(READ), reference.strip_prefix(WRITTEN)) {
            (Some(name), _) => self.read.definitions().get(name),
            (_, Some(name)) => self.written.definitions().get(name),
            _ => None,
        };
        found.unwrap_or(schema).clone()
    }

    /// The schema of the body of an event, as the program publishes it.
    pub fn event(&mut self, subject: Subject) -> Value {
        streams::event::schema(subject, &mut self.written).to_value()
    }

    /// Adds the schemas that have a name to the components of `document`, and leads all references to them.
    pub fn add_to(mut self, document: &mut Value) {
        let (read, written) = (self.read.take_definitions(true), self.written.take_definitions(true));
        let names = names_of_read(&read, &written);
        let mut all = written;
        for (name, mut schema) in read {
            let named = names.get(&name).unwrap_or(&name).clone();
            lead(&mut schema, &names);
            all.entry(named).or_insert(schema);
        }
        lead(document, &names);
        document["components"]["schemas"] = Value::Object(used(all, document));
        clean(document);
    }
}

/// Those of `all` to which `document` refers, also by others of them.
fn used(mut all: Map<String, Value>, document: &Value) -> Map<String, Value> {
    let mut used = Map::new();
    let mut names = references(document);
    while let Some(name) = names.pop() {
        if let Some(schema) = all.remove(&name) {
            names.extend(references(&schema));
            used.insert(name, schema);
        }
    }
    used
}

fn references(value: &Value) -> Vec<String> {
    match value {
        Value::Object(fields) => {
            let own = fields.get("$ref").and_then(Value::as_str).and_then(|to| to.strip_prefix(WRITTEN));
            own.map(str::to_owned).into_iter().chain(fields.values().flat_map(references)).collect()
        }
        Value::Array(items) => items.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}

/// The name in the document of each type that is read.
fn names_of_read(read: &Map<String, Value>, written: &Map<String, Value>) -> BTreeMap<String, String> {
    let as_if_written = |schema: &Value| {
        let mut schema = schema.clone();
        lead(&mut schema, &read.keys().map(|name| (name.clone(), name.clone())).collect());
        schema
    };
    let both = || read.iter().filter_map(|(name, schema)| Some((name, schema, written.get(name)?)));
    let mut differ: BTreeSet<&String> =
        both().filter(|(_, read, written)| as_if_written(read) != **written).map(|(name, ..)| name).collect();
    loop {
        let refers =
            |schema: &Value| differ.iter().any(|name| schema.to_string().contains(&format!("\"{READ}{name}\"")));
        let more: Vec<&String> =
            both().filter(|(name, read, _)| !differ.contains(name) && refers(read)).map(|(name, ..)| name).collect();
        if more.is_empty() {
            break;
        }
        differ.extend(more);
    }
    let named = |name: &String| if differ.contains(name) { format!("{name}Input") } else { name.clone() };
    read.keys().map(|name| (name.clone(), named(name))).collect()
}

/// Leads references to types that are read to the names that they have in the document.
fn lead(value: &mut Value, names: &BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(to)) = fields.get_mut("$ref")
                && let Some(name) = to.strip_prefix(READ)
            {
                *to = format!("{WRITTEN}{}", names.get(name).map_or(name, String::as_str));
            }
            fields.values_mut().for_each(|field| lead(field, names));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| lead(item, names)),
        _ => {}
    }
}

/// Doc comments as sentences for readers who have no sources: one line, and no links to items of the code. And every object is open: who reads
/// one ignores fields that a later version adds.
fn clean(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if fields.get("additionalProperties") == Some(&Value::Bool(false)) {
                fields.remove("additionalProperties");
            }
            if let Some(Value::String(text)) = fields.get_mut("description") {
                *text = text.replace("[`", "`").replace("`]", "`").replace('\n', " ");
            }
            fields.values_mut().for_each(clean);
        }
        Value::Array(items) => items.iter_mut().for_each(clean),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};
    use serde_json::json;

    use super::*;

    #[derive(Serialize, Deserialize, JsonSchema)]
    struct Same {
        n: u8,
    }

    #[derive(Serialize, Deserialize, JsonSchema)]
    struct Differs {
        #[serde(default)]
        n: u8,
    }

    #[derive(Serialize, Deserialize, JsonSchema)]
    struct Outer {
        same: Same,
        differs: Differs,
    }

    #[test]
    fn what_is_read_has_a_name_of_its_own_if_it_differs() {
        let mut schemas = Schemas::default();
        let mut document = json!({"in": schemas.read::<Outer>(), "out": schemas.written::<Outer>()});
        schemas.add_to(&mut document);
        assert_eq!(document["in"]["$ref"], "#/components/schemas/OuterInput");
        assert_eq!(document["out"]["$ref"], "#/components/schemas/Outer");
        let names: Vec<_> = document["components"]["schemas"].as_object().unwrap().keys().collect();
        assert_eq!(names, ["Differs", "DiffersInput", "Outer", "OuterInput", "Same"]);
        let read = &document["components"]["schemas"]["OuterInput"]["properties"];
        assert_eq!(read["differs"]["$ref"], "#/components/schemas/DiffersInput");
        assert_eq!(read["same"]["$ref"], "#/components/schemas/Same");
        assert!(!document.to_string().contains(READ));
    }
}
