//! An operation: one method of one path, as a client sees it.

use serde_json::Value;

use super::schemas::Schemas;

pub const JSON: &str = "application/json";

/// Makes the schema of one type, when a document is made.
pub type SchemaOf = fn(&mut Schemas) -> Value;

/// The body of a request.
#[derive(Debug, Clone, Copy)]
pub struct RequestBody {
    pub schema: SchemaOf,
    pub is_optional: bool,
}

/// An answer that is no problem.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    pub status: u16,
    /// Its content type and its schema; `None` without a body.
    pub content: Option<(&'static str, SchemaOf)>,
}

/// What is known of an operation: most of it from the types of its handler, the rest by [`Routes::described`] and
/// [`Routes::with`](crate::routes::Routes::with).
///
/// [`Routes::described`]: crate::routes::Routes::described
#[derive(Debug, Clone, Default)]
pub struct Operation {
    /// One sentence; empty if nobody has described it.
    pub summary: &'static str,
    /// The codes of its problems, of whatever status.
    pub codes: Vec<&'static str>,
    pub needs_sign_in: bool,
    /// The token of an operator instead of a user's.
    pub needs_operator: bool,
    /// Operators' routes are described and not for clients.
    pub is_for_operators: bool,
    /// The parameters in the path: the schema of one, or of all of them as a tuple, in their order.
    pub path: Option<SchemaOf>,
    /// An object whose fields are the parameters of the query.
    pub query: Option<SchemaOf>,
    /// Headers that a client may send: the name, what it is for, and its schema.
    pub headers: Vec<(&'static str, &'static str, SchemaOf)>,
    pub body: Option<RequestBody>,
    pub answers: Vec<Answer>,
}

impl Operation {
    /// Adds codes that it does not have yet.
    pub fn add_codes(&mut self, codes: &[&'static str]) {
        codes.iter().for_each(|code| {
            if !self.codes.contains(code) {
                self.codes.push(code);
            }
        });
    }

    pub fn add_answer(&mut self, status: u16, content: Option<(&'static str, SchemaOf)>) {
        self.answers.push(Answer { status, content });
    }
}
