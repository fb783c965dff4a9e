//! What the program says of its own interfaces, in the words of OpenAPI and AsyncAPI. A schema is made from the type that the code reads or
//! writes, an operation from the signature of its handler; by hand there are sentences and codes of problems. No document is made here: the
//! server has all routes.

pub mod codes;
mod handler;
mod operation;
mod schemas;

pub use handler::{Accepted, Created, Described, Input, NoContent, Output, Passed};
pub use operation::{Answer, JSON, Operation, RequestBody, SchemaOf};
pub use schemas::Schemas;
