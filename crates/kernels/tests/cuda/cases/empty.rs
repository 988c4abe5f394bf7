//! No tokens, no units: a batch or a kept set may be empty.

use super::{BOTH, Gpu, given};
use taper_kernels::cuda::{
    Activation, Array, CudaError, Norm, add, attention, attention_backward, column_square_sums, cross_entropy,
    from_units, gate, into_units, moments, norm_weight_gradient, rms_norm, row_abs_sums, unit_gradient,
};
use taper_kernels::{Heads, Moments, Sight};

pub fn nothing_in_gives_nothing_out_or_zeros(machine: &Gpu) {
    for storage in BOTH {
        let array = |name, shape: &[usize]| given(machine, name, shape, storage).array;
        let (none, w, units) = (array("x", &[0, 4]), array("w", &[4]), array("u", &[0, 4]));
        let is_empty = |array: Array| assert!(array.shape()[0] == 0 && array.to_host().unwrap().is_empty());
        is_empty(rms_norm(&none, &w, 1e-5).unwrap());
        is_empty(add(&none, &none).unwrap());
        is_empty(gate(Activation::Silu, &none, Some(&none)).unwrap());
        is_empty(into_units(&none, &array("w", &[3, 4]), None).unwrap());
        let (x, f32s) = (array("x", &[2, 4]), given(machine, "x", &[0, 4], BOTH[0]).array);
        assert_eq!(into_units(&x, &units, None).unwrap().shape(), [2, 0]);
        let zeros = |array: Array, count| assert_eq!(array.to_host().unwrap(), vec![0.0; count]);
        zeros(from_units(None, &[(&array("h", &[2, 0]), &units)], None).unwrap(), 8);
        zeros(unit_gradient(&array("h", &[0, 3]), &none).unwrap(), 12);
        zeros(norm_weight_gradient(Norm::Rms, &none, 1e-5, &none).unwrap(), 4);
        assert_eq!(column_square_sums(&none).unwrap(), [0.0; 4]);
        assert!(row_abs_sums(&none).unwrap().is_empty());
        assert_eq!(moments(&f32s, &x, Some(&[])).unwrap().wait().unwrap().moments, Moments::default());
        let heads = Heads {
            sequences: 1,
            tokens: 0,
            d_head: 4,
            kv_of: &[0],
            n_kv_heads: 1,
            window: None,
            first: None,
            sight: Sight::Causal,
        };
        let attended = attention(&none, &none, &none, heads).unwrap();
        let gradients = attention_backward([&none; 3], heads, &attended, &none).unwrap();
        gradients.into_iter().for_each(is_empty);
        let (losses, gradient) = cross_entropy::<CudaError>(&none, &array("w", &[3, 4]), &[], &[], None).unwrap();
        is_empty(gradient);
        is_empty(losses);
    }
}
