use taper_kernels::{Heads, Sight};

/// q, k, v and what they give.
pub struct Reference<'a> {
    pub heads: Heads<'a>,
    pub q: &'a [f64],
    pub k: &'a [f64],
    pub v: &'a [f64],
}

impl Reference<'_> {
    fn sees(&self, sequence: usize, query: usize, key: usize) -> bool {
        let Heads { tokens, window, first, .. } = self.heads;
        let first = first.map_or(0, |first| first[sequence * tokens + query] as usize);
        match self.heads.sight {
            Sight::Full { .. } => true,
            Sight::Causal => key <= query && query - key < window.unwrap_or(usize::MAX) && key >= first,
        }
    }

    fn at(&self, sequence: usize, token: usize, head: usize, n_heads: usize) -> usize {
        ((sequence * self.heads.tokens + token) * n_heads + head) * self.heads.d_head
    }

    /// Weights of one query over the tokens of its sequence.
    fn weights(&self, sequence: usize, head: usize, query: usize) -> Vec<f64> {
        let Heads { tokens, d_head, kv_of, n_kv_heads, .. } = self.heads;
        let q = self.at(sequence, query, head, kv_of.len());
        let score = |key: usize| {
            let k = self.at(sequence, key, kv_of[head], n_kv_heads);
            (0..d_head).map(|i| self.q[q + i] * self.k[k + i]).sum::<f64>() / (d_head as f64).sqrt()
        };
        let terms = (0..tokens).map(|key| if self.sees(sequence, query, key) { score(key).exp() } else { 0.0 });
        let terms: Vec<f64> = terms.collect();
        let sum: f64 = terms.iter().sum();
        terms.into_iter().map(|term| term / sum).collect()
    }

    fn each(&self, mut f: impl FnMut(usize, usize, usize, Vec<f64>)) {
        for sequence in 0..self.heads.sequences {
            for head in 0..self.heads.kv_of.len() {
                for query in 0..self.heads.tokens {
                    f(sequence, head, query, self.weights(sequence, head, query));
                }
            }
        }
    }

    pub fn forward(&self) -> Vec<f64> {
        let Heads { d_head, kv_of, n_kv_heads, .. } = self.heads;
        let mut out = vec![0.0; self.q.len()];
        self.each(|sequence, head, query, weights| {
            let o = self.at(sequence, query, head, kv_of.len());
            for (key, p) in weights.iter().enumerate() {
                let v = self.at(sequence, key, kv_of[head], n_kv_heads);
                (0..d_head).for_each(|i| out[o + i] += p * self.v[v + i]);
            }
        });
        out
    }

    /// Gradients of q, k, v by the chain rule through the whole matrix: `dS_s = Σ_u dp_u p_u (δ_us − p_s)`.
    pub fn backward(&self, dout: &[f64]) -> [Vec<f64>; 3] {
        let Heads { tokens, d_head, kv_of, n_kv_heads, .. } = self.heads;
        let scale = 1.0 / (d_head as f64).sqrt();
        let (mut dq, mut dk, mut dv) = (vec![0.0; self.q.len()], vec![0.0; self.k.len()], vec![0.0; self.v.len()]);
        self.each(|sequence, head, query, p| {
            let q = self.at(sequence, query, head, kv_of.len());
            let kv: Vec<usize> = (0..tokens).map(|key| self.at(sequence, key, kv_of[head], n_kv_heads)).collect();
            let dp = |key: usize| (0..d_head).map(|i| dout[q + i] * self.v[kv[key] + i]).sum::<f64>();
            let dp: Vec<f64> = (0..tokens).map(dp).collect();
            for key in 0..tokens {
                let slope = |other: usize| p[other] * (f64::from(u8::from(other == key)) - p[key]);
                let ds = scale * (0..tokens).map(|other| dp[other] * slope(other)).sum::<f64>();
                for i in 0..d_head {
                    dv[kv[key] + i] += p[key] * dout[q + i];
                    dq[q + i] += ds * self.k[kv[key] + i];
                    dk[kv[key] + i] += ds * self.q[q + i];
                }
            }
        });
        [dq, dk, dv]
    }
}
