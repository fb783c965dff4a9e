//! Everything that the platform sends against the documents of its interfaces: each answer, each frame, each message on the bus. The clients of
//! this harness use it, so that every test is a test of the documents.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Value, json};
use testing::schema;

static OPENAPI: LazyLock<Value> = LazyLock::new(server::api::openapi);
static ASYNCAPI: LazyLock<Value> = LazyLock::new(server::api::asyncapi);

fn fails(what: &str, why: &str) -> ! {
    panic!("{what} is not as the documents say: {why}")
}

/// The path of the document that fits, and its operations; one without parameters goes before others.
fn path_item(path: &str) -> Option<(&String, &Value)> {
    let path = path.split('?').next().unwrap_or_default();
    let fits = |template: &str| {
        let (mut wanted, mut has) = (template.split('/'), path.split('/'));
        loop {
            match (wanted.next(), has.next()) {
                (None, None) => return true,
                (Some(wanted), Some(has)) if wanted == has || (wanted.starts_with('{') && !has.is_empty()) => {}
                _ => return false,
            }
        }
    };
    let paths = OPENAPI["paths"].as_object().unwrap();
    paths.iter().filter(|(template, _)| fits(template)).min_by_key(|(template, _)| template.matches('{').count())
}

/// An answer over HTTP.
pub(crate) fn answer(method: &str, path: &str, status: u16, content_type: &str, body: &Value) {
    let what = format!("{status} to {method} {path}");
    // A listener has not all routes: those of operators may be on one of their own.
    if body["code"] == "no_such_route" {
        assert_eq!(status, 404, "{what}");
        return problem(&what, content_type, body);
    }
    if let Some((_, operations)) = path_item(path)
        && let Some(operation) = operations.get(method.to_ascii_lowercase())
    {
        return answer_of(&what, operation, status, content_type, body);
    }
    assert!([404, 405].contains(&status), "{what}: the documents do not have it");
    problem(&what, content_type, body);
}

fn answer_of(what: &str, operation: &Value, status: u16, content_type: &str, body: &Value) {
    let Some(mut response) = operation["responses"].get(status.to_string()) else {
        fails(what, "there is no such status");
    };
    if let Some(to) = response["$ref"].as_str() {
        response = OPENAPI.pointer(to.trim_start_matches('#')).unwrap();
    }
    match response.get("content") {
        None if body == "" => {}
        None => fails(what, "it has no body"),
        Some(content) => match content.get(content_type) {
            None => fails(what, &format!("there is no content type {content_type}")),
            Some(media) => schema::check(&OPENAPI, &media["schema"], body).unwrap_or_else(|why| fails(what, &why)),
        },
    }
}

fn problem(what: &str, content_type: &str, body: &Value) {
    assert_eq!(content_type, "application/problem+json", "{what}");
    let problem = json!({"$ref": "#/components/schemas/Problem"});
    schema::check(&OPENAPI, &problem, body).unwrap_or_else(|why| fails(what, &why));
}

fn message(key: &str) -> Option<&'static Value> {
    ASYNCAPI["components"]["messages"].get(key)
}

/// A server-sent event for operators.
pub(crate) fn operators_event(name: &str, data: &Value) {
    let what = format!("a server-sent event `{name}`");
    let Some(message) = message(&format!("operators.{name}")) else { fails(&what, "there is none") };
    schema::check(&ASYNCAPI, &message["payload"], data).unwrap_or_else(|why| fails(&what, &why));
}

/// A frame from the server.
pub(crate) fn frame(frame: &Value) {
    let kind = frame["type"].as_str().unwrap_or_default();
    let what = format!("a frame `{kind}`");
    let Some(message) = message(&format!("frame.{kind}")) else { fails(&what, "there is none") };
    schema::check(&ASYNCAPI, &message["payload"], frame).unwrap_or_else(|why| fails(&what, &why));
}

/// A command that the server has acked with this data.
pub(crate) fn acked(command: &Value, data: &Value) {
    let kind = command["type"].as_str().unwrap_or_default();
    let what = format!("the command `{kind}`, which was acked,");
    let Some(message) = message(&format!("command.{kind}")) else { fails(&what, "there is none") };
    schema::check_sent(&ASYNCAPI, &message["payload"], command).unwrap_or_else(|why| fails(&what, &why));
    schema::check(&ASYNCAPI, &message["x-ack-data"], data)
        .unwrap_or_else(|why| fails(&format!("its ack {data}"), &why));
}

/// Messages on the bus, in their order.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    /// Where replies to requests are awaited, with their messages.
    inboxes: BTreeMap<String, String>,
    /// How many were checked, by the names of their messages.
    pub(crate) checked: BTreeMap<String, usize>,
}

/// The key of the channel of a subject.
fn channel(subject: &str) -> Option<&'static str> {
    let channels = ASYNCAPI["channels"].as_object()?;
    let fits = |address: &str| {
        let (mut wanted, mut has) = (address.split('.'), subject.split('.'));
        loop {
            match (wanted.next(), has.next()) {
                (None, None) => return true,
                (Some(wanted), Some(has)) if wanted == has || wanted.starts_with('{') => {}
                _ => return false,
            }
        }
    };
    let found = channels.iter().find(|(_, channel)| channel["address"].as_str().is_some_and(fits));
    found.map(|(key, _)| key.as_str())
}

impl Messages {
    /// # Errors
    /// What is not as the document says. `headers` are those of the message, if it has any.
    pub(crate) fn check(
        &mut self,
        subject: &str,
        reply: Option<&str>,
        headers: Option<&Value>,
        payload: &[u8],
    ) -> Result<(), String> {
        if let Some(name) = self.inboxes.remove(subject) {
            // Without a body it is the server: nobody answers there.
            return if payload.is_empty() { Ok(()) } else { self.check_as(&name, headers, payload) };
        }
        // Of the server itself, and of its clients' own.
        if subject.starts_with("$JS.") || subject.starts_with("_INBOX") || subject.starts_with("$SYS.") {
            return Ok(());
        }
        let Some(key) = channel(subject) else {
            let is_service_api = subject.starts_with("$SRV.");
            return if is_service_api { Ok(()) } else { Err(format!("{subject}: there is no such subject")) };
        };
        // An event without them is of a test, and not of the platform.
        let is_event = ASYNCAPI["channels"][key].get("x-jetstream").is_some();
        if is_event && headers.is_none_or(|headers| headers.get("ce-source").is_none()) {
            return Ok(());
        }
        let messages = ASYNCAPI["channels"][key]["messages"].as_object().unwrap();
        let target = |name: &String| messages[name]["$ref"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        let (replies, bodies): (Vec<_>, Vec<_>) = messages.keys().partition(|name| name.ends_with(".reply"));
        if let (Some(reply), Some(name)) = (reply, replies.first()) {
            self.inboxes.insert(reply.to_owned(), target(name));
        }
        self.check_as(&target(bodies[0]), headers, payload).map_err(|why| format!("{subject}: {why}"))
    }

    fn check_as(&mut self, name: &str, headers: Option<&Value>, payload: &[u8]) -> Result<(), String> {
        let message = message(name).ok_or_else(|| format!("{name}: there is no such message"))?;
        *self.checked.entry(name.to_owned()).or_default() += 1;
        if let (Some(schema), Some(headers)) = (message.get("headers"), headers) {
            schema::check(&ASYNCAPI, schema, headers).map_err(|why| format!("headers of {name}: {why}"))?;
        }
        let is_sealed = message["payload"]["contentMediaType"] == "application/octet-stream";
        let is_any = message["payload"].as_object().is_some_and(|schema| schema.keys().all(|key| key == "description"));
        if is_sealed || is_any {
            return Ok(());
        }
        let (schema, payload) = match message["payload"].get("x-second-line") {
            Some(schema) => (schema, payload.splitn(2, |byte| *byte == b'\n').nth(1).unwrap_or_default()),
            None => (&message["payload"], payload),
        };
        if payload.is_empty() && schema != &message["payload"] {
            return Ok(());
        }
        let body: Value = serde_json::from_slice(payload).map_err(|error| format!("{name}: {error}"))?;
        schema::check(&ASYNCAPI, schema, &body).map_err(|why| format!("{name}: {why}"))
    }
}
