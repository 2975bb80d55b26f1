//! The images of a batch on their way to the device: as normalised numbers, or as bytes that the
//! device normalises.

use burn::tensor::{Device, Tensor, TensorData};
use kernels::ops::images::from_bytes;

use crate::datasets::batch::Batch;

/// The images of a batch as a tensor `[n, 3, height, width]`, taken out of it.
pub fn images(batch: &mut Batch, device: &Device) -> Tensor<4> {
    let [n, _, height, width] = batch.shape;
    match batch.bytes.take() {
        Some(bytes) => {
            from_bytes(bytes.pixels, [n, height, width], [bytes.mean, bytes.std], device)
        }
        None => {
            let values = std::mem::take(&mut batch.images);
            Tensor::from_data(TensorData::new(values, batch.shape), device)
        }
    }
}
