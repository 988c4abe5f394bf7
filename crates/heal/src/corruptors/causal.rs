//! Nothing is corrupted: each token predicts the next one, and a document's last token nothing.

use serde::Deserialize;
use taper_base::registry::{Entry, params};

use super::{Corruptor, Example, Sequence};

const NAME: &str = "causal";

/// The table's entry.
pub const ENTRY: Entry<dyn Corruptor> = Entry {
    name: NAME,
    summary: "each token predicts the next",
    source: "",
    build: |value| params::<Causal>(NAME, value).map(|made| Box::new(made) as _),
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Causal {}

impl Corruptor for Causal {
    fn example(&self, sequence: Sequence<'_>, apart: bool) -> Example {
        let Sequence { ids, starts, .. } = sequence;
        let target = |place: usize| ids.get(place + 1).copied().filter(|_| starts.binary_search(&(place + 1)).is_err());
        let first = |place: usize| {
            let before = starts.partition_point(|start| *start <= place);
            if apart && before > 0 { starts[before - 1] as u32 } else { 0 }
        };
        Example {
            input: ids.to_vec(),
            targets: (0..ids.len()).map(target).collect(),
            first: (0..ids.len()).map(first).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_do_not_predict_one_another() {
        let sequence = Sequence { ids: &[5, 6, 7, 8, 9], starts: &[2, 4], vocab: 10, seed: 0, index: 0 };
        let example = Causal {}.example(sequence, true);
        assert_eq!(example.input, [5, 6, 7, 8, 9]);
        assert_eq!(example.targets, [Some(6), None, Some(8), None, None]);
        assert_eq!(example.first, [0, 0, 2, 2, 4]);
        assert_eq!(Causal {}.example(sequence, false).first, [0; 5]);
    }
}
