//! What the signature of a handler says of its operation: its arguments are what a client sends, its result is what a client gets.

use std::marker::PhantomData;

use axum::Json as AxumJson;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, Request, State};
use axum::handler::Handler;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::operation::{JSON, Operation, RequestBody};
use super::schemas::Schemas;
use crate::limits::ClientAddress;
use crate::problem::{Json, Problem, Query};
use crate::token::{Access, SignedIn};

/// An argument of a handler.
pub trait Input {
    fn describe(operation: &mut Operation);
}

/// The result of a handler.
pub trait Output {
    fn describe(operation: &mut Operation);
}

/// A handler whose arguments and result describe its operation.
pub trait Described<T, S>: Handler<T, S> {
    fn describe(operation: &mut Operation);
}

/// 201 with a body.
#[derive(Debug, Clone, Copy)]
pub struct Created<T>(pub T);

/// 202 with a body.
#[derive(Debug, Clone, Copy)]
pub struct Accepted<T>(pub T);

/// 204.
#[derive(Debug, Clone, Copy)]
pub struct NoContent;

/// 200 with JSON that another process made from a `T`: it passes as it came.
#[derive(Debug)]
pub struct Passed<T>(Value, PhantomData<fn() -> T>);

impl<T> Passed<T> {
    pub fn new(made: Value) -> Self {
        Self(made, PhantomData)
    }
}

impl<T> IntoResponse for Passed<T> {
    fn into_response(self) -> Response {
        AxumJson(self.0).into_response()
    }
}

impl<T: Serialize> IntoResponse for Created<T> {
    fn into_response(self) -> Response {
        (StatusCode::CREATED, AxumJson(self.0)).into_response()
    }
}

impl<T: Serialize> IntoResponse for Accepted<T> {
    fn into_response(self) -> Response {
        (StatusCode::ACCEPTED, AxumJson(self.0)).into_response()
    }
}

impl IntoResponse for NoContent {
    fn into_response(self) -> Response {
        StatusCode::NO_CONTENT.into_response()
    }
}

/// What is not of the client, or is read by the handler itself.
macro_rules! says_nothing {
    ($($input:ty),+) => {$(
        impl Input for $input {
            fn describe(_: &mut Operation) {}
        }
    )+};
}

says_nothing!(ClientAddress, HeaderMap, RawQuery, Request);

impl<S> Input for State<S> {
    fn describe(_: &mut Operation) {}
}

impl Input for SignedIn {
    fn describe(operation: &mut Operation) {
        operation.needs_sign_in = true;
        operation.add_codes(&["unauthorized"]);
    }
}

impl Input for Access {
    fn describe(operation: &mut Operation) {
        SignedIn::describe(operation);
    }
}

impl<T: JsonSchema> Input for Path<T> {
    fn describe(operation: &mut Operation) {
        operation.path = Some(Schemas::read::<T>);
        operation.add_codes(&["not_found"]);
    }
}

/// A parameter that cannot be read names nothing that there is.
impl<T: JsonSchema> Input for Result<Path<T>, PathRejection> {
    fn describe(operation: &mut Operation) {
        operation.path = Some(Schemas::read::<T>);
        operation.add_codes(&["not_found"]);
    }
}

impl<T: JsonSchema> Input for Query<T> {
    fn describe(operation: &mut Operation) {
        operation.query = Some(Schemas::read::<T>);
        operation.add_codes(&["invalid_field"]);
    }
}

const BODY_CODES: [&str; 5] =
    ["invalid_json", "body_too_slow", "body_too_large", "unsupported_media_type", "invalid_field"];

impl<T: JsonSchema> Input for Json<T> {
    fn describe(operation: &mut Operation) {
        operation.body = Some(RequestBody { schema: Schemas::read::<T>, is_optional: false });
        operation.add_codes(&BODY_CODES);
    }
}

impl<T: JsonSchema> Input for Option<Json<T>> {
    fn describe(operation: &mut Operation) {
        operation.body = Some(RequestBody { schema: Schemas::read::<T>, is_optional: true });
        operation.add_codes(&BODY_CODES);
    }
}

impl<T: JsonSchema> Output for Json<T> {
    fn describe(operation: &mut Operation) {
        operation.add_answer(200, Some((JSON, Schemas::written::<T>)));
    }
}

impl<T: JsonSchema> Output for Passed<T> {
    fn describe(operation: &mut Operation) {
        <Json<T> as Output>::describe(operation);
    }
}

impl<T: JsonSchema> Output for Created<T> {
    fn describe(operation: &mut Operation) {
        operation.add_answer(201, Some((JSON, Schemas::written::<T>)));
    }
}

impl<T: JsonSchema> Output for Accepted<T> {
    fn describe(operation: &mut Operation) {
        operation.add_answer(202, Some((JSON, Schemas::written::<T>)));
    }
}

impl Output for NoContent {
    fn describe(operation: &mut Operation) {
        operation.add_answer(204, None);
    }
}

/// It may be anything: the route has to say what.
impl Output for Response {
    fn describe(_: &mut Operation) {}
}

impl<T: Output> Output for Result<T, Problem> {
    fn describe(operation: &mut Operation) {
        T::describe(operation);
    }
}

/// For each number of arguments. axum's `M` tells whether the last argument reads the body.
macro_rules! described {
    ($($input:ident)*) => {
        impl<F, Answer, S, M, $($input),*> Described<(M, $($input,)*), S> for F
        where
            F: Handler<(M, $($input,)*), S> + FnOnce($($input),*) -> Answer,
            Answer: Future,
            Answer::Output: Output,
            $($input: Input,)*
        {
            fn describe(operation: &mut Operation) {
                $($input::describe(operation);)*
                Answer::Output::describe(operation);
            }
        }
    };
}

impl<F, Answer, S> Described<((),), S> for F
where
    F: Handler<((),), S> + FnOnce() -> Answer,
    Answer: Future,
    Answer::Output: Output,
{
    fn describe(operation: &mut Operation) {
        Answer::Output::describe(operation);
    }
}

described!(A);
described!(A B);
described!(A B C);
described!(A B C D);
described!(A B C D E);
