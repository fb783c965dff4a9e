//! The documents of the interfaces against the program: every route is in them, every code, and everything that a whole city is sent.

use std::collections::BTreeSet;

use platform::api::codes::CODES;
use platform::routes::Route;
use server::api;

use crate::harness::running::{Running, Shape};

/// Routes that may have no description yet: those of operators, until the branches `api` and `admin` are one.
const UNDESCRIBED: &str = "/admin/v1/";

fn names(routes: &[Route]) -> BTreeSet<String> {
    routes.iter().map(|route| format!("{} {}", route.method, route.path)).collect()
}

#[tokio::test]
async fn every_route_is_described() {
    let running = Running::start(Shape::Embedded, &[]).await;
    let (served, described) = (names(&running.apps[0].routes), names(&api::operations()));
    running.stop().await;
    assert_eq!(served, described, "api::operations lists what a process serves");
    for route in api::operations().iter().filter(|route| !route.path.starts_with(UNDESCRIBED)) {
        let (operation, name) = (&route.operation, format!("{} {}", route.method, route.path));
        assert!(operation.summary.ends_with('.'), "{name} has no description: add .described(…) after the route");
        assert!(!operation.answers.is_empty(), "{name} has no answer: say it with .with(…), if its types do not");
        let in_path = route.path.matches('{').count();
        assert!(in_path == 0 || operation.path.is_some(), "{name}: nothing says what its path parameters are");
    }
    let document = api::openapi();
    let paths = document["paths"].as_object().unwrap();
    let operations: Vec<_> = paths.values().flat_map(|path| path.as_object().unwrap().values()).collect();
    let ids: BTreeSet<_> = operations.iter().map(|operation| operation["operationId"].as_str().unwrap()).collect();
    assert_eq!((operations.len(), ids.len()), (described.len(), described.len()), "each has an id of its own");
}

/// A code that nothing has any more misleads whoever handles it.
#[test]
fn every_code_is_in_the_sources() {
    let services = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (mut directories, mut sources) = (vec![services.clone(), services.join("../streams")], String::new());
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && !["tests", "target"].contains(&&*name) {
                directories.push(path);
            } else if name.ends_with(".rs") && name != "codes.rs" && name != "tests.rs" {
                let source = std::fs::read_to_string(&path).unwrap();
                // The lists of operations name codes as well.
                let lines = source.lines().filter(|line| !line.trim_start().starts_with('"'));
                sources.extend(lines.filter(|line| !line.contains(".described(")).flat_map(|line| [line, "\n"]));
            }
        }
    }
    let names: Vec<_> = CODES.iter().map(|code| code.name).filter(|name| !sources.contains(&format!("\"{name}\""))).collect();
    assert_eq!(names, Vec::<&str>::new(), "no source has these codes");
}
