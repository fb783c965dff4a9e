//! `docker/ingress.conf` against the routers: every path of a service goes to that service, and none of the operators' paths goes
//! to any.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A `location` of the ingress.
struct Location {
    /// `location = PATH`; otherwise PATH is a prefix.
    is_exact: bool,
    path: String,
    /// The variable of its `proxy_pass`.
    upstream: Option<String>,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn locations() -> Vec<Location> {
    let config = std::fs::read_to_string(repository().join("docker/ingress.conf")).unwrap();
    let lines = config.lines().map(|line| line.split('#').next().unwrap_or_default());
    // Each begins its line: `$location` is a variable.
    let config = lines.map(str::trim).collect::<Vec<_>>().join("\n");
    let mut locations = Vec::new();
    for part in config.split("\nlocation ").skip(1) {
        let (matcher, rest) = part.split_once('{').unwrap();
        let body = rest.split('}').next().unwrap_or_default();
        let (is_exact, path) = match matcher.trim().strip_prefix('=') {
            Some(path) => (true, path),
            None => (false, matcher),
        };
        let upstream = body.split_once("proxy_pass $").map(|(_, rest)| rest.split(';').next().unwrap().to_owned());
        locations.push(Location { is_exact, path: path.trim().to_owned(), upstream });
    }
    locations
}

/// The location that nginx takes: the exact one, else the longest prefix.
fn location_of<'a>(locations: &'a [Location], path: &str) -> &'a Location {
    let exact = locations.iter().find(|location| location.is_exact && location.path == path);
    let prefixes = locations.iter().filter(|location| !location.is_exact && path.starts_with(&location.path));
    exact.or(prefixes.max_by_key(|location| location.path.len())).unwrap()
}

/// The paths in the sources of a service's routers, with `x` for each parameter.
fn routes(service: &str) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    let mut directories = vec![repository().join("services").join(service).join("src")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let source = std::fs::read_to_string(path).unwrap();
            let methods = [".get(", ".post(", ".put(", ".patch(", ".delete("];
            let parts = methods.iter().flat_map(|method| source.split(method).skip(1));
            for route in parts.filter_map(|part| part.trim_start().strip_prefix("\"/")?.split('"').next()) {
                let route = format!("/{route}");
                let segments = route.split('/').map(|segment| if segment.starts_with('{') { "x" } else { segment });
                paths.insert(segments.collect::<Vec<_>>().join("/"));
            }
        }
    }
    paths
}

/// The paths that every process serves to programmers.
fn documents() -> BTreeSet<String> {
    let documents = server::api::operations().into_iter().map(|route| route.path.to_owned());
    documents.filter(|path| path.ends_with("api.json") || path.starts_with("/docs")).collect()
}

#[test]
fn documents_go_to_users() {
    let (locations, documents) = (locations(), documents());
    assert_eq!(documents.len(), 5, "{documents:?}");
    for path in documents {
        assert_eq!(location_of(&locations, &path).upstream.as_deref(), Some("users"), "docker/ingress.conf: {path}");
    }
}

#[test]
fn every_route_of_a_service_goes_to_that_service() {
    let locations = locations();
    for (service, some) in [("users", "/v1/me"), ("rides", "/v1/rides/x"), ("location", "/v1/drivers/nearby")] {
        let routes = routes(service);
        assert!(routes.contains(some), "{service} has {routes:?}");
        for route in routes {
            let upstream = location_of(&locations, &route).upstream.as_deref();
            assert_eq!(upstream, Some(service), "docker/ingress.conf: {route} is a route of {service}");
        }
    }
    assert_eq!(routes("match"), BTreeSet::new(), "a route of match needs an upstream in docker/ingress.conf");
}

#[test]
fn every_location_with_an_upstream_has_a_route() {
    for location in locations().iter().filter(|location| location.upstream.is_some()) {
        let mut routes = routes(location.upstream.as_deref().unwrap());
        routes.extend(documents());
        let is_used = |route: &String| match location.is_exact {
            true => *route == location.path,
            false => route.starts_with(&location.path),
        };
        assert!(routes.iter().any(is_used), "docker/ingress.conf: nothing answers {}", location.path);
    }
}

#[test]
fn operators_routes_are_not_reached_through_the_ingress() {
    let (locations, mut routes) = (locations(), routes("server"));
    routes.retain(|route| !documents().contains(route));
    assert!(routes.contains("/metrics"), "{routes:?}");
    for route in routes {
        assert_eq!(location_of(&locations, &route).upstream, None, "docker/ingress.conf: {route} is for operators");
    }
}
