//! The layers of the workspace: a crate uses only crates of lower layers.
//!
//! A crate says its layer in `[package.metadata.taper] layer = N`. Dependencies of tests are free, since Cargo itself
//! refuses cycles among the others; but `testkit` and `emulation` may be nothing else than dependencies of tests.

use std::collections::BTreeMap;
use std::fmt;

use cargo_metadata::{DependencyKind, Metadata};

/// What only tests may depend on.
const TEST_ONLY: [&str; 2] = ["testkit", "emulation"];

/// One crate of the workspace as far as layers go.
#[derive(Debug)]
pub(crate) struct Crate {
    pub(crate) name: String,
    /// `None` if the manifest names none, or none that is a number from 0 up.
    pub(crate) layer: Option<u64>,
    /// Names and kinds of all dependencies, also those from outside the workspace.
    pub(crate) dependencies: Vec<(String, DependencyKind)>,
}

/// One broken rule.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Violation {
    /// The manifest names no layer.
    NoLayer { name: String },
    /// An edge that does not go down.
    Upward { name: String, layer: u64, used: String, used_layer: u64 },
    /// An edge to a crate for tests outside of tests.
    TestOnly { name: String, used: String },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLayer { name } => {
                write!(f, "{name}: its Cargo.toml lacks `[package.metadata.taper] layer = N`, N a number from 0 up")
            }
            Self::Upward { name, layer, used, used_layer } => {
                write!(f, "{name} (layer {layer}) uses {used} (layer {used_layer}): a crate uses only lower layers")
            }
            Self::TestOnly { name, used } => write!(f, "{name} uses {used} outside of [dev-dependencies]"),
        }
    }
}

/// The workspace's crates out of what `cargo metadata` says.
pub(crate) fn crates(metadata: &Metadata) -> Vec<Crate> {
    let to_crate = |package: &&cargo_metadata::Package| Crate {
        name: package.name.to_string(),
        layer: package.metadata.pointer("/taper/layer").and_then(|layer| layer.as_u64()),
        dependencies: package.dependencies.iter().map(|used| (used.name.clone(), used.kind)).collect(),
    };
    metadata.workspace_packages().iter().map(to_crate).collect()
}

/// All broken rules, by crate name.
pub(crate) fn violations(crates: &[Crate]) -> Vec<Violation> {
    let layers: BTreeMap<&str, Option<u64>> = crates.iter().map(|c| (c.name.as_str(), c.layer)).collect();
    let mut sorted: Vec<&Crate> = crates.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    sorted.into_iter().flat_map(|c| violations_of(c, &layers)).collect()
}

fn violations_of(c: &Crate, layers: &BTreeMap<&str, Option<u64>>) -> Vec<Violation> {
    let missing = c.layer.is_none().then(|| Violation::NoLayer { name: c.name.clone() });
    let used = c.dependencies.iter().filter(|(_, kind)| *kind != DependencyKind::Development);
    let broken = used.filter_map(|(used, _)| {
        if TEST_ONLY.contains(&used.as_str()) {
            return Some(Violation::TestOnly { name: c.name.clone(), used: used.clone() });
        }
        // A crate without a layer is reported once, by itself; one from outside the workspace has none.
        let (layer, used_layer) = (c.layer?, (*layers.get(used.as_str())?)?);
        let upward = used_layer >= layer;
        upward.then(|| Violation::Upward { name: c.name.clone(), layer, used: used.clone(), used_layer })
    });
    missing.into_iter().chain(broken).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cargo_metadata::MetadataCommand;

    const NORMAL: DependencyKind = DependencyKind::Normal;
    const BUILD: DependencyKind = DependencyKind::Build;
    const DEV: DependencyKind = DependencyKind::Development;

    /// Name, layer and dependencies of a crate.
    type Row<'a> = (&'a str, Option<u64>, &'a [(&'a str, DependencyKind)]);

    fn graph(crates: &[Row<'_>]) -> Vec<Crate> {
        let to_crate = |&(name, layer, used): &Row<'_>| Crate {
            name: name.to_owned(),
            layer,
            dependencies: used.iter().map(|&(used, kind)| (used.to_owned(), kind)).collect(),
        };
        crates.iter().map(to_crate).collect()
    }

    fn messages(crates: &[Row<'_>]) -> Vec<String> {
        violations(&graph(crates)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn edges_that_go_down_or_out_of_the_workspace_are_fine() {
        let crates: &[Row<'_>] =
            &[("base", Some(0), &[("serde", NORMAL)]), ("model", Some(4), &[("base", NORMAL), ("base", BUILD)])];
        assert_eq!(violations(&graph(crates)), []);
    }

    #[test]
    fn edges_up_and_across_are_refused_also_from_build_scripts() {
        let crates: &[Row<'_>] = &[
            ("model", Some(4), &[("search", NORMAL), ("proxies", BUILD)]),
            ("search", Some(6), &[("eval", NORMAL)]),
            ("eval", Some(6), &[]),
            ("proxies", Some(5), &[]),
        ];
        let upward = |name: &str, layer, used: &str, used_layer| Violation::Upward {
            name: name.to_owned(),
            layer,
            used: used.to_owned(),
            used_layer,
        };
        let expected =
            [upward("model", 4, "search", 6), upward("model", 4, "proxies", 5), upward("search", 6, "eval", 6)];
        assert_eq!(violations(&graph(crates)), expected);
    }

    #[test]
    fn tests_may_look_up_and_use_the_testkit_which_nothing_else_may() {
        let testkit: Row<'_> = ("testkit", Some(0), &[]);
        let tests: Row<'_> = ("base", Some(0), &[("testkit", DEV), ("model", DEV)]);
        assert_eq!(violations(&graph(&[testkit, tests, ("model", Some(4), &[])])), []);
        let normal = messages(&[testkit, ("model", Some(4), &[("testkit", NORMAL)])]);
        assert_eq!(normal, ["model uses testkit outside of [dev-dependencies]"]);
    }

    #[test]
    fn a_crate_without_a_layer_is_named_once() {
        let found = messages(&[("base", None, &[]), ("model", Some(4), &[("base", NORMAL)])]);
        assert_eq!(found, ["base: its Cargo.toml lacks `[package.metadata.taper] layer = N`, N a number from 0 up"]);
    }

    #[test]
    fn a_message_names_both_crates_and_their_layers() {
        let found = messages(&[("base", Some(0), &[("model", NORMAL)]), ("model", Some(4), &[])]);
        assert_eq!(found, ["base (layer 0) uses model (layer 4): a crate uses only lower layers"]);
    }

    #[test]
    fn the_graph_of_this_workspace_is_read_with_layers_and_edges() {
        let metadata = MetadataCommand::new().no_deps().exec().unwrap();
        let crates = crates(&metadata);
        let xtask = crates.iter().find(|c| c.name == "xtask").unwrap();
        assert_eq!(xtask.layer, Some(12));
        assert!(xtask.dependencies.contains(&("cargo_metadata".to_owned(), NORMAL)));
        assert!(xtask.dependencies.contains(&("tempfile".to_owned(), DEV)));
    }
}
