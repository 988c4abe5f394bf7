//! Where the Hub is, where its files are kept, and who asks: the environment variables of huggingface_hub.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// How to reach the Hub and where to keep what it sends.
#[derive(Clone, PartialEq, Eq)]
pub struct HubSettings {
    /// The Hub's address (`HF_ENDPOINT`); `None` is the public Hub.
    pub endpoint: Option<String>,
    /// The folder of downloads: `HF_HUB_CACHE`, else `hub` in `HF_HOME`, else in `~/.cache/huggingface`.
    pub cache: PathBuf,
    /// `HF_TOKEN`, else what the file `HF_TOKEN_PATH` or `token` in `HF_HOME` holds.
    pub token: Option<String>,
    /// `HF_HUB_OFFLINE`: never ask, use the cache only.
    pub offline: bool,
}

impl HubSettings {
    /// The settings that the environment gives. A token file that cannot be read is warned of and passed over.
    pub fn from_env() -> Self {
        Self::from_variables(&|name| std::env::var_os(name))
    }

    /// As [`from_env`](Self::from_env), with any variables.
    fn from_variables(variable: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let given = |name: &str| variable(name).filter(|value| !value.is_empty());
        let text = |name: &str| given(name).map(|value| value.to_string_lossy().into_owned());
        let yes = |name: &str| text(name).is_some_and(|value| is_true(&value));
        let user = given("HOME").or_else(|| given("USERPROFILE")).map(PathBuf::from).unwrap_or_default();
        let path = |name: &str| given(name).map(|value| expand(PathBuf::from(value), &user));
        let caches = || path("XDG_CACHE_HOME").unwrap_or_else(|| user.join(".cache"));
        let home = path("HF_HOME").unwrap_or_else(|| caches().join("huggingface"));
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE"));
        let token = || text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")).and_then(|token| clean(&token));
        let token_file = || read_token(&path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token")));
        Self {
            endpoint: text("HF_ENDPOINT").map(|endpoint| endpoint.trim_end_matches('/').to_owned()),
            cache: cache.unwrap_or_else(|| home.join("hub")),
            token: if yes("HF_HUB_DISABLE_IMPLICIT_TOKEN") { None } else { token().or_else(token_file) },
            offline: text("HF_HUB_OFFLINE").or_else(|| text("TRANSFORMERS_OFFLINE")).is_some_and(|on| is_true(&on)),
        }
    }
}

/// A token is shown as whether there is one.
impl fmt::Debug for HubSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, cache, token, offline } = self;
        let token = token.as_ref().map(|_| "…");
        let mut shown = f.debug_struct("HubSettings");
        shown
            .field("endpoint", endpoint)
            .field("cache", cache)
            .field("token", &token)
            .field("offline", offline)
            .finish()
    }
}

/// The words that huggingface_hub takes for yes.
fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"].iter().any(|yes| value.eq_ignore_ascii_case(yes))
}

/// `~/x` in the user's folder.
fn expand(path: PathBuf, user: &Path) -> PathBuf {
    path.strip_prefix("~").map(|rest| user.join(rest)).unwrap_or(path)
}

/// The token without blanks and line ends around it; `None` if nothing is left.
fn clean(token: &str) -> Option<String> {
    let token = token.trim();
    (!token.is_empty()).then(|| token.to_owned())
}

fn read_token(path: &Path) -> Option<String> {
    match fs::read_to_string(path) {
        Ok(token) => clean(&token),
        Err(cause) => {
            if cause.kind() != io::ErrorKind::NotFound {
                tracing::warn!(file = %path.display(), %cause, "the token file cannot be read: asking without a token");
            }
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(variables: &[(&str, &str)]) -> HubSettings {
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
        HubSettings::from_variables(&find)
    }

    #[test]
    fn the_cache_is_where_huggingface_hub_has_it() {
        let cache = |variables: &[(&str, &str)]| from(variables).cache;
        assert_eq!(cache(&[("HOME", "/u")]), Path::new("/u/.cache/huggingface/hub"));
        assert_eq!(cache(&[("HOME", "/u"), ("XDG_CACHE_HOME", "/x")]), Path::new("/x/huggingface/hub"));
        assert_eq!(cache(&[("HOME", "/u"), ("HF_HOME", "~/hf")]), Path::new("/u/hf/hub"));
        assert_eq!(
            cache(&[("HF_HUB_CACHE", "/c"), ("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HOME", "/h")]),
            Path::new("/c")
        );
        assert_eq!(cache(&[("HUGGINGFACE_HUB_CACHE", "/old")]), Path::new("/old"));
    }

    #[test]
    fn the_variable_wins_over_the_token_file_and_blanks_are_no_token() {
        let home = tempfile::tempdir().unwrap();
        let hf_home = home.path().to_str().unwrap();
        assert_eq!(from(&[("HF_HOME", hf_home)]).token, None);
        taper_base::files::write(&home.path().join("token"), b" filed\n").unwrap();
        assert_eq!(from(&[("HF_HOME", hf_home)]).token.as_deref(), Some("filed"));
        assert_eq!(from(&[("HF_HOME", hf_home), ("HF_TOKEN", "given\r\n")]).token.as_deref(), Some("given"));
        assert_eq!(from(&[("HF_HOME", hf_home), ("HF_TOKEN", " ")]).token.as_deref(), Some("filed"));
        assert_eq!(from(&[("HF_HOME", hf_home), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]).token, None);
        let other = home.path().join("other");
        taper_base::files::write(&other, b"named").unwrap();
        let named = from(&[("HF_HOME", hf_home), ("HF_TOKEN_PATH", other.to_str().unwrap())]);
        assert_eq!(named.token.as_deref(), Some("named"));
    }

    #[test]
    fn offline_and_endpoint_are_read_as_huggingface_hub_reads_them() {
        for (value, offline) in [("1", true), ("True", true), ("on", true), ("0", false), ("", false), ("no", false)] {
            assert_eq!(from(&[("HF_HUB_OFFLINE", value)]).offline, offline, "{value}");
        }
        assert!(from(&[("TRANSFORMERS_OFFLINE", "yes")]).offline);
        assert_eq!(from(&[("HF_ENDPOINT", "")]).endpoint, None);
        assert_eq!(from(&[("HF_ENDPOINT", "http://localhost:1/")]).endpoint.as_deref(), Some("http://localhost:1"));
    }

    #[test]
    fn debug_output_holds_no_token() {
        let shown = format!("{:?}", from(&[("HF_TOKEN", "secret")]));
        assert!(!shown.contains("secret") && shown.contains('…'), "{shown}");
    }
}
