//! Disjoint splits: a document's own bytes decide where it goes.
//!
//! `u = SHA-256(bytes)[0..8] / 2^64`, compared with the cumulative shares. So duplicates always share a split, whatever file
//! they stand in, and adding text never moves a document.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use taper_base::Fingerprint;

use crate::DataError;

/// What a document may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// Statistics, gradients and healing.
    Calibration,
    /// What the search is guided by; never used to report a result.
    Validation,
    /// What results are reported on; seen by nothing before.
    Test,
}

impl Split {
    /// All splits.
    pub const ALL: [Self; 3] = [Self::Calibration, Self::Validation, Self::Test];
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Calibration => "calibration",
            Self::Validation => "validation",
            Self::Test => "test",
        })
    }
}

/// The share of the documents that each split gets; together 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Fields", into = "Fields")]
#[schemars(with = "Fields")]
pub struct Shares {
    /// Exclusive upper ends of the calibration and the validation split on [0, 1).
    ends: [f64; 2],
    fields: Fields,
}

/// Shares of the text for calibration, for the search's validation and for the test; together 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Shares")]
struct Fields {
    /// Statistics, gradients and healing.
    calibration: f64,
    /// What the search is guided by.
    validation: f64,
    /// What results are reported on.
    test: f64,
}

impl Default for Fields {
    fn default() -> Self {
        Self { calibration: 0.8, validation: 0.1, test: 0.1 }
    }
}

impl Default for Shares {
    fn default() -> Self {
        Self::from_valid(Fields::default())
    }
}

impl Shares {
    /// Shares that are not negative and sum to 1 (up to 1e-9, for sums of decimals).
    ///
    /// # Errors
    /// [`DataError::Shares`] otherwise.
    pub fn new(calibration: f64, validation: f64, test: f64) -> Result<Self, DataError> {
        let shares = [calibration, validation, test];
        let refuse = |reason| Err(DataError::Shares { calibration, validation, test, reason });
        if shares.iter().any(|share| !(0.0..=1.0).contains(share)) {
            return refuse("each must lie in [0, 1]");
        }
        if (shares.iter().sum::<f64>() - 1.0).abs() > 1e-9 {
            return refuse("the sum must be 1");
        }
        Ok(Self::from_valid(Fields { calibration, validation, test }))
    }

    /// Divided by their own sum, so that where a last share is 0 the end before it is exactly 1 and nothing falls past it.
    fn from_valid(fields: Fields) -> Self {
        let Fields { calibration, validation, test } = fields;
        let sum = calibration + validation + test;
        Self { ends: [calibration / sum, (calibration + validation) / sum], fields }
    }

    /// The share of `split`.
    pub fn of(&self, split: Split) -> f64 {
        match split {
            Split::Calibration => self.fields.calibration,
            Split::Validation => self.fields.validation,
            Split::Test => self.fields.test,
        }
    }

    /// Where `document` belongs.
    pub fn split_of(&self, document: &str) -> Split {
        self.split_of_bytes(document.as_bytes())
    }

    /// Where a document of these bytes belongs.
    pub(crate) fn split_of_bytes(&self, document: &[u8]) -> Split {
        let digest = Fingerprint::of_bytes(document).to_bytes();
        let [a, b, c, d, e, f, g, h, ..] = digest;
        let bits = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        let place = (bits >> 11) as f64 / (1_u64 << 53) as f64; // 53 bits: exact, and never rounded up to 1
        match self.ends {
            [end, _] if place < end => Split::Calibration,
            [_, end] if place < end => Split::Validation,
            _ => Split::Test,
        }
    }
}

impl TryFrom<Fields> for Shares {
    type Error = DataError;
    fn try_from(fields: Fields) -> Result<Self, DataError> {
        Self::new(fields.calibration, fields.validation, fields.test)
    }
}

impl From<Shares> for Fields {
    fn from(shares: Shares) -> Self {
        shares.fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Documents;

    #[test]
    fn a_document_goes_where_its_digest_says() {
        // SHA-256 of "abc" starts with ba7816bf, so its place is 0xba7816bf / 2^32 = 0.72839...
        let place = f64::from(0xba78_16bf_u32) / f64::from(2.0_f32.powi(32));
        assert_eq!(Shares::new(0.7284, 0.1716, 0.1).unwrap().split_of("abc"), Split::Calibration);
        assert_eq!(Shares::new(0.7283, 0.1717, 0.1).unwrap().split_of("abc"), Split::Validation);
        assert_eq!(Shares::new(0.6283, 0.1, 0.2717).unwrap().split_of("abc"), Split::Test);
        assert!((0.72839..0.72840).contains(&place));
    }

    #[test]
    fn splits_are_disjoint_complete_and_near_their_shares() {
        let texts: Vec<String> = (0..20_000).map(|n| format!("document {}", n / 2)).collect(); // each twice
        let documents = Documents::new("", texts).unwrap();
        let shares = Shares::default();
        let parts = Split::ALL.map(|split| documents.of_split(&shares, split));
        assert_eq!(parts.iter().map(Vec::len).sum::<usize>(), 20_000);
        let sets = parts.each_ref().map(|part| part.iter().collect::<std::collections::BTreeSet<_>>());
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            assert!(sets[a].is_disjoint(&sets[b]));
        }
        for (split, set) in Split::ALL.into_iter().zip(&sets) {
            let share = set.len() as f64 / 10_000.0;
            assert!((share - shares.of(split)).abs() < 0.016, "{split}: {share}"); // 4 standard errors
        }
    }

    #[test]
    fn a_share_of_zero_gets_nothing() {
        let splits = |shares: Shares| (0..5000).map(move |n| shares.split_of(&n.to_string()));
        assert!(splits(Shares::new(0.9, 0.1, 0.0).unwrap()).all(|split| split != Split::Test));
        assert!(splits(Shares::new(0.0, 0.0, 1.0).unwrap()).all(|split| split == Split::Test));
        assert_eq!(Shares::new(0.7, 0.3 - 1e-10, 0.0).unwrap().ends[1], 1.0);
    }

    #[test]
    fn shares_are_checked_when_made_and_when_read() {
        let parse = |text: &str| serde_json::from_str::<Shares>(text).map_err(|cause| cause.to_string());
        assert_eq!(parse("{}").unwrap(), Shares::default());
        assert_eq!(parse(r#"{"calibration": 0.5, "test": 0.4}"#).unwrap(), Shares::new(0.5, 0.1, 0.4).unwrap());
        let sum = parse(r#"{"test": 0.2}"#).unwrap_err();
        assert_eq!(sum, "shares of calibration 0.8, validation 0.1 and test 0.2: the sum must be 1");
        assert!(parse(r#"{"test": -0.1, "validation": 0.3}"#).unwrap_err().ends_with("each must lie in [0, 1]"));
        assert!(Shares::new(f64::NAN, 0.5, 0.5).is_err());
        assert!(
            parse(r#"{"tets": 0.1}"#).unwrap_err().starts_with("unknown field `tets`, expected one of `calibration`")
        );
        assert_eq!(
            serde_json::to_string(&Shares::default()).unwrap(),
            r#"{"calibration":0.8,"validation":0.1,"test":0.1}"#
        );
    }
}
