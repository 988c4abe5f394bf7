//! YAML in, with places in it.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeOwned, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_saphyr::{Location, Spanned};

use super::check::Finding;
use super::error::{Place, RecipeError, Source};
use super::{VERSION, explain};

/// `source` as a `T`, with the limits and the strictness of recipes.
pub(super) fn yaml<T: DeserializeOwned>(source: &Source<'_>) -> Result<T, RecipeError> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 20_000,
            max_nodes: 10_000,
            max_aliases: 100,
            max_anchors: 100,
            max_recorded_anchor_events: 10_000,
            max_depth: 32,
            flow_nesting_limit: 32,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 10_000, max_replay_stack_depth: 8 },
        merge_keys: serde_saphyr::options::MergeKeyPolicy::Error,
        strict_booleans: true,
        reject_unsupported_tags: true,
        reject_tagged_field_names: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(source.text, options)
        .map_err(|error| source.fault(error.location().and_then(place), explain::reason(&error)))
}

fn place(location: Location) -> Option<Place> {
    let (line, column) = (usize::try_from(location.line()).ok()?, usize::try_from(location.column()).ok()?);
    (line > 0).then_some(Place { line, column })
}

/// Refuses recipes of another version before anything else in them is judged.
pub(super) fn version(source: &Source<'_>) -> Result<(), RecipeError> {
    #[derive(Deserialize)]
    struct Head {
        #[serde(default)]
        version: Option<Spanned<u64>>,
    }
    let start = Some(Place { line: 1, column: 1 });
    if source.text.trim_start_matches('\u{feff}').trim().is_empty() {
        return Err(source.fault(start, "the recipe is empty".to_owned()));
    }
    match yaml::<Head>(source)?.version {
        None => Err(source.fault(start, format!("missing field `version`; this taper reads `version: {VERSION}`"))),
        Some(version) if version.value == VERSION => Ok(()),
        Some(version) => {
            let reason = format!("version {} is not one that this taper reads; known: {VERSION}", version.value);
            Err(source.fault(place(version.referenced), reason))
        }
    }
}

/// The error for `finding`, at the deepest part of its key path that the text has.
pub(super) fn fault(source: &Source<'_>, finding: &Finding) -> RecipeError {
    match yaml::<Tree>(source) {
        Ok(tree) => source.fault(tree.find(&finding.path), finding.reason.clone()),
        Err(error) => error,
    }
}

/// Where each value of a document stands.
struct Tree {
    place: Option<Place>,
    children: BTreeMap<String, Tree>,
}

impl Tree {
    /// The place of the value at `path`, or of the nearest value above it; `None` for the document itself.
    fn find(&self, path: &[String]) -> Option<Place> {
        let (first, rest) = path.split_first()?;
        let child = self.children.get(first)?;
        child.find(rest).or(child.place)
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned { value: Children(children), referenced, .. } = Spanned::deserialize(deserializer)?;
        Ok(Self { place: place(referenced), children })
    }
}

/// The values of a mapping by their keys, of a list by their numbers; none of anything else.
struct Children(BTreeMap<String, Tree>);

impl<'de> Deserialize<'de> for Children {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyNode;
        impl<'de> Visitor<'de> for AnyNode {
            type Value = Children;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Children, A::Error> {
                let mut children = BTreeMap::new();
                while let Some((key, tree)) = map.next_entry()? {
                    children.insert(key, tree);
                }
                Ok(Children(children))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Children, A::Error> {
                let mut children = BTreeMap::new();
                while let Some(tree) = list.next_element()? {
                    children.insert(children.len().to_string(), tree);
                }
                Ok(Children(children))
            }
            fn visit_str<E>(self, _: &str) -> Result<Children, E> {
                Ok(Children(BTreeMap::new()))
            }
            fn visit_bool<E>(self, _: bool) -> Result<Children, E> {
                Ok(Children(BTreeMap::new()))
            }
            fn visit_i64<E>(self, _: i64) -> Result<Children, E> {
                Ok(Children(BTreeMap::new()))
            }
            fn visit_u64<E>(self, _: u64) -> Result<Children, E> {
                Ok(Children(BTreeMap::new()))
            }
            fn visit_f64<E>(self, _: f64) -> Result<Children, E> {
                Ok(Children(BTreeMap::new()))
            }
            fn visit_unit<E>(self) -> Result<Children, E> {
                Ok(Children(BTreeMap::new()))
            }
        }
        deserializer.deserialize_any(AnyNode)
    }
}
