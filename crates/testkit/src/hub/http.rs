//! Requests and answers.

use std::io::BufRead;

use serde_json::Value;

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    /// Without the query.
    pub path: String,
    pub authorization: Option<String>,
    /// From this byte to that one, both included.
    pub range: Option<(usize, usize)>,
}

/// What is answered.
pub(super) struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// The length to state; `None` states none.
    pub length: Option<usize>,
}

impl Answer {
    pub fn new(status: u16, body: Vec<u8>) -> Self {
        Self { status, headers: Vec::new(), length: Some(body.len()), body }
    }

    pub fn json(value: &Value) -> Self {
        Self::new(200, value.to_string().into_bytes()).with("Content-Type", "application/json")
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// Method, path, token and length of the body of the next request; `None` if the connection is closed.
pub(super) fn head(reader: &mut impl BufRead) -> Option<(Request, usize)> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let (mut authorization, mut length, mut range) = (None, 0, None);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => authorization = Some(value.trim().to_owned()),
            "range" => {
                let (from, to) = value.trim().strip_prefix("bytes=")?.split_once('-')?;
                range = Some((from.parse().ok()?, to.parse().ok()?));
            }
            "content-length" => length = value.trim().parse().ok()?,
            _ => {}
        }
    }
    let path = target.split('?').next().unwrap_or_default().to_owned();
    Some((Request { method, path, authorization, range }, length))
}
