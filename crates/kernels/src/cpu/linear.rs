//! Linear layers on a few rows: a product with packed weights, or vector by vector where there are
//! so few rows that packing costs more than it saves.

use crate::cpu::matmul::vector::{f32_matvec, f32_vecmat};
use crate::cpu::matmul::{Epilogue, PackedWeights, f32_matmul};
use crate::isa::Isa;

/// Rows up to which weights `[k, n]` are multiplied without packing.
const UNPACKED_KN: usize = 3;

/// Rows up to which weights `[n, k]` are multiplied without packing.
const UNPACKED_NK: usize = 4;

/// `x [b, k] w [k, n] + bias [n]`.
pub fn f32_linear(isa: Isa, x: &[f32], w: &[f32], bias: &[f32]) -> Vec<f32> {
    let (k, n) = (w.len() / bias.len(), bias.len());
    if x.len() <= UNPACKED_KN * k {
        return x.chunks_exact(k).flat_map(|x| f32_vecmat(isa, x, w, bias)).collect();
    }
    let packed = PackedWeights::new(isa, w, [k, n], [n, 1], None);
    f32_matmul(x, &packed, Epilogue { bias: Some(bias), ..Epilogue::NONE })
}

/// `x [b, k] w^T + bias [n]` with transposed weights `[n, k]`, torch's order.
pub fn f32_linear_transposed(isa: Isa, x: &[f32], w: &[f32], bias: &[f32]) -> Vec<f32> {
    let (n, k) = (bias.len(), w.len() / bias.len());
    if x.len() <= UNPACKED_NK * k {
        let mut out = Vec::with_capacity(x.len() / k * n);
        for x in x.chunks_exact(k) {
            let row = f32_matvec(isa, w, x);
            out.extend(row.iter().zip(bias).map(|(value, bias)| value + bias));
        }
        return out;
    }
    let packed = PackedWeights::new(isa, w, [k, n], [1, k], None);
    f32_matmul(x, &packed, Epilogue { bias: Some(bias), ..Epilogue::NONE })
}
