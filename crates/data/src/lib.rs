//! Text, tokens and disjoint splits of them.
