//! Where the Hub and its cache are, by the variables that huggingface_hub reads.

use std::fmt;
use std::path::PathBuf;

/// Endpoint, cache and token.
#[derive(Clone)]
pub struct HubSettings {
    /// `HF_ENDPOINT`; `None` is the public Hub.
    pub endpoint: Option<String>,
    /// `HF_HUB_CACHE`, else `HF_HOME`/hub, else the user's cache folder/huggingface/hub.
    pub cache: PathBuf,
    /// `HF_TOKEN`, else the content of `HF_TOKEN_PATH` or `HF_HOME`/token.
    pub token: Option<String>,
    /// `HF_HUB_OFFLINE`: only what is cached.
    pub offline: bool,
}

impl HubSettings {
    /// What the environment says.
    pub fn from_env() -> Self {
        Self::from(&|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn from(get: &dyn Fn(&str) -> Option<String>) -> Self {
        let home = get("HF_HOME").map(PathBuf::from).unwrap_or_else(|| {
            let cache = get("XDG_CACHE_HOME").map(PathBuf::from);
            let user = || get("HOME").or_else(|| get("USERPROFILE")).map(PathBuf::from).unwrap_or_default().join(".cache");
            cache.unwrap_or_else(user).join("huggingface")
        });
        let cache = get("HF_HUB_CACHE").or_else(|| get("HUGGINGFACE_HUB_CACHE")).map(PathBuf::from);
        let cache = cache.unwrap_or_else(|| home.join("hub"));
        let on = |name| get(name).is_some_and(|v| matches!(v.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on"));
        let file = get("HF_TOKEN_PATH").map(PathBuf::from).unwrap_or_else(|| home.join("token"));
        let stored = || std::fs::read_to_string(&file).ok(); // no token file is the usual case
        let token = if on("HF_HUB_DISABLE_IMPLICIT_TOKEN") { None } else { get("HF_TOKEN").or_else(stored) };
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        Self { endpoint: get("HF_ENDPOINT"), cache, token, offline: on("HF_HUB_OFFLINE") }
    }
}

/// Without the token.
impl fmt::Debug for HubSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = self.token.as_ref().map(|_| "…");
        let (endpoint, cache, offline) = (&self.endpoint, &self.cache, self.offline);
        write!(f, "HubSettings {{ endpoint: {endpoint:?}, cache: {cache:?}, token: {token:?}, offline: {offline} }}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(pairs: &[(&str, &str)]) -> HubSettings {
        HubSettings::from(&|name| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.to_owned()))
    }

    #[test]
    fn variables_win_in_huggingface_hub_s_order() {
        assert_eq!(from(&[("HOME", "/u")]).cache, PathBuf::from("/u/.cache/huggingface/hub"));
        assert_eq!(from(&[("HOME", "/u"), ("XDG_CACHE_HOME", "/x")]).cache, PathBuf::from("/x/huggingface/hub"));
        assert_eq!(from(&[("HF_HOME", "/h")]).cache, PathBuf::from("/h/hub"));
        assert_eq!(from(&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/c")]).cache, PathBuf::from("/c"));
        let given = from(&[("HF_TOKEN", " t \n"), ("HF_HUB_OFFLINE", "1"), ("HF_ENDPOINT", "http://e")]);
        assert_eq!((given.token.as_deref(), given.offline, given.endpoint.as_deref()), (Some("t"), true, Some("http://e")));
        assert!(!format!("{:?}", from(&[("HF_TOKEN", "secret")])).contains("secret"));
        assert_eq!(from(&[("HF_TOKEN", "t"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]).token, None);
    }

    #[test]
    fn a_token_file_is_read() {
        let dir = tempfile::tempdir().unwrap();
        taper_base::files::write(&dir.path().join("token"), b"from-file\n").unwrap();
        assert_eq!(from(&[("HF_HOME", dir.path().to_str().unwrap())]).token.as_deref(), Some("from-file"));
    }
}
