//! A router that knows its routes, so that a test can hold every route against a table and an ingress against every route; and each with its
//! operation, which follows from the types of the handler and is in the documents of the interfaces.

use axum::Router;
use axum::routing::{MethodFilter, on};

use crate::api::{Described, Operation};

/// One method of one path, as in `GET /v1/rides/{id}`.
#[derive(Debug, Clone)]
pub struct Route {
    pub path: &'static str,
    pub method: &'static str,
    pub operation: Operation,
}

/// Routes under construction; `S` is the state that their handlers still miss.
#[derive(Debug)]
pub struct Routes<S = ()> {
    router: Router<S>,
    list: Vec<Route>,
}

impl<S: Clone + Send + Sync + 'static> Default for Routes<S> {
    fn default() -> Self {
        Self { router: Router::new(), list: Vec::new() }
    }
}

impl<S: Clone + Send + Sync + 'static> Routes<S> {
    pub fn get<H: Described<T, S>, T: 'static>(self, path: &'static str, handler: H) -> Self {
        self.add("GET", MethodFilter::GET, path, handler)
    }

    pub fn post<H: Described<T, S>, T: 'static>(self, path: &'static str, handler: H) -> Self {
        self.add("POST", MethodFilter::POST, path, handler)
    }

    pub fn put<H: Described<T, S>, T: 'static>(self, path: &'static str, handler: H) -> Self {
        self.add("PUT", MethodFilter::PUT, path, handler)
    }

    pub fn patch<H: Described<T, S>, T: 'static>(self, path: &'static str, handler: H) -> Self {
        self.add("PATCH", MethodFilter::PATCH, path, handler)
    }

    pub fn delete<H: Described<T, S>, T: 'static>(self, path: &'static str, handler: H) -> Self {
        self.add("DELETE", MethodFilter::DELETE, path, handler)
    }

    fn add<H, T>(mut self, method: &'static str, filter: MethodFilter, path: &'static str, handler: H) -> Self
    where
        H: Described<T, S>,
        T: 'static,
    {
        let mut operation = Operation::default();
        H::describe(&mut operation);
        self.list.push(Route { path, method, operation });
        self.router = self.router.route(path, on(filter, handler));
        self
    }

    /// What the operation of the last route does, in a sentence, and the codes of its problems that do not follow from the types of its
    /// handler.
    #[must_use]
    pub fn described(self, summary: &'static str, codes: &[&'static str]) -> Self {
        self.with(|operation| {
            operation.summary = summary;
            operation.add_codes(codes);
        })
    }

    /// Changes the operation of the last route, where the types of its handler do not say what a client sends or gets.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Operation)) -> Self {
        change(&mut self.list.last_mut().expect("an operation is described after its route").operation);
        self
    }

    /// The routes of both. The same method of the same path in both is a fault in the program, and panics at start.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        self.router = self.router.merge(other.router);
        self.list.extend(other.list);
        self
    }

    pub fn with_state(self, state: S) -> Routes {
        Routes { router: self.router.with_state(state), list: self.list }
    }

    pub fn list(&self) -> &[Route] {
        &self.list
    }

    pub fn into_list(self) -> Vec<Route> {
        self.list
    }
}

impl Routes {
    pub fn into_router(self) -> Router {
        self.router
    }
}
