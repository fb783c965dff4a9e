//! No files of a crate import each other in a circle.
//!
//! A file depends on the files whose items it names: by `use`, or by a path that begins with `crate`, `super`, `self` or a child
//! module. A re-export (`pub use`) is no dependency of its own: whoever uses it depends on the file that it names.

use std::collections::{BTreeMap, BTreeSet};

use super::{crates, sources};

/// A path of modules and then items, from the root of the crate.
type Path = Vec<String>;

/// The modules of a crate with their code; a module is a file.
struct Crate {
    code: BTreeMap<Path, String>,
    /// By module and name, the path that is re-exported.
    exports: BTreeMap<(Path, String), Path>,
}

impl Crate {
    fn read(directory: &str) -> Self {
        let mut code = BTreeMap::new();
        for source in sources(directory) {
            let name = source.path.trim_start_matches(directory).trim_matches('/').trim_end_matches(".rs");
            let mut module: Path = name.split('/').map(str::to_owned).collect();
            module.pop_if(|last| ["mod", "lib", "main"].contains(&last.as_str()));
            code.entry(module).or_insert_with(String::new).push_str(&source.code());
        }
        let mut all = Self { code, exports: BTreeMap::new() };
        for (module, code) in &all.code {
            let exports = statements(code).filter_map(|(_, import)| import.filter(|import| import.is_export));
            for path in exports.flat_map(|export| expand(export.tree)) {
                if let (Some(name), Some(path)) = (path.last(), all.absolute(module, &path)) {
                    all.exports.insert((module.clone(), name.clone()), path);
                }
            }
        }
        all
    }

    fn absolute(&self, module: &Path, path: &[String]) -> Option<Path> {
        let supers = path.iter().take_while(|part| *part == "super").count();
        let base = match path.first()?.as_str() {
            "crate" => &[],
            "super" => &module[..module.len().checked_sub(supers)?],
            "self" => &module[..],
            child if self.code.contains_key(&[&module[..], &[child.to_owned()]].concat()) => {
                return Some([module, path].concat());
            }
            _ => return None,
        };
        Some([base, &path[supers.max(1)..]].concat())
    }

    /// The file in which the item of a path stands.
    fn file_of(&self, path: &[String]) -> Path {
        let module =
            (0..=path.len()).rev().map(|end| path[..end].to_vec()).find(|module| self.code.contains_key(module));
        let module = module.unwrap_or_default();
        match path.get(module.len()).and_then(|name| self.exports.get(&(module.clone(), name.clone()))) {
            Some(exported) if exported != path => self.file_of(exported),
            _ => module,
        }
    }

    fn dependencies(&self, module: &Path) -> BTreeSet<Path> {
        let mut paths = Vec::new();
        for (code, import) in statements(&self.code[module]) {
            let words = code.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
            paths.extend(
                words.filter(|word| word.contains("::")).map(|word| word.split("::").map(str::to_owned).collect()),
            );
            paths.extend(import.filter(|import| !import.is_export).into_iter().flat_map(|import| expand(import.tree)));
        }
        let files = paths.iter().filter_map(|path| self.absolute(module, path)).map(|path| self.file_of(&path));
        files.filter(|file| file != module).collect()
    }
}

/// A `use` or `pub use`.
struct Import<'a> {
    is_export: bool,
    tree: &'a str,
}

/// The code up to each semicolon, and the import that ends there.
fn statements(code: &str) -> impl Iterator<Item = (&str, Option<Import<'_>>)> {
    code.split(';').map(|statement| match statement.rsplit_once("use ") {
        Some((before, tree)) if before.is_empty() || before.ends_with([' ', '\n']) => {
            let visibility = before.rsplit(['\n', '}']).next().unwrap_or_default();
            (before, Some(Import { is_export: visibility.trim().starts_with("pub"), tree }))
        }
        _ => (statement, None),
    })
}

/// `a::{b, c::d as e}` as `a::b` and `a::c::d`.
fn expand(tree: &str) -> Vec<Path> {
    let tree = tree.trim();
    let Some((prefix, list)) = tree.strip_suffix('}').and_then(|tree| tree.split_once('{')) else {
        let path = tree.split(" as ").next().unwrap_or_default();
        return vec![path.split("::").map(|part| part.trim().to_owned()).collect()];
    };
    let prefix: Path = prefix.split("::").map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect();
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for c in list.chars() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        match c {
            ',' if depth == 0 => parts.push(String::new()),
            c => parts.last_mut().unwrap().push(c),
        }
    }
    let parts = parts.iter().filter(|part| !part.trim().is_empty());
    parts.flat_map(|part| expand(part)).map(|path| [&prefix[..], &path].concat()).collect()
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let mut circles = Vec::new();
    for directory in crates() {
        let all = Crate::read(&directory);
        let mut graph: BTreeMap<&Path, BTreeSet<Path>> =
            all.code.keys().map(|module| (module, all.dependencies(module))).collect();
        // Without the files that depend on none that is left, only circles and what leads to them are left.
        while let Some(leaf) = graph.iter().find(|(_, on)| on.iter().all(|file| !graph.contains_key(file))) {
            let leaf = *leaf.0;
            graph.remove(leaf);
        }
        let name = |path: &Path| if path.is_empty() { "the root".to_owned() } else { path.join("::") };
        circles.extend(graph.iter().map(|(module, on)| {
            let on: Vec<String> = on.iter().filter(|file| graph.contains_key(file)).map(name).collect();
            format!("{directory}: {} → {}", name(module), on.join(", "))
        }));
    }
    assert!(circles.is_empty(), "files in circles, or that lead to one:\n{}", circles.join("\n"));
}
