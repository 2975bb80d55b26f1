//! Batches of images from their bytes: a GPU receives a quarter of what normalised numbers are, and
//! normalises them itself.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_cubecl::CubeBackend;

use crate::gpu::{images, map};

/// The normalised images of bytes, `(byte / 255 - mean) / std`, without gradients.
///
/// # Shapes
/// `pixels` `[b, h, w, 3]`, flat, to `[b, 3, h, w]`.
///
/// # Panics
/// When there are more or fewer bytes than `[b, h, w, 3]` has.
pub fn from_bytes(
    mut pixels: Vec<u8>,
    [b, h, w]: [usize; 3],
    [mean, std]: [[f32; 3]; 2],
    device: &Device,
) -> Tensor<4> {
    let (shape, plain) = ([b, h, w, 3], device.clone().without_autodiff());
    assert_eq!(pixels.len(), shape.iter().product::<usize>(), "bytes of {shape:?}");
    let autodiff = |images: Tensor<4>| match device.is_autodiff() {
        true => Tensor::from_inner(images),
        false => images,
    };
    let whole = pixels.len();
    pixels.resize(whole.next_multiple_of(4), 0);
    let count = pixels.len() / 4;
    if plain.supports_dtype(DType::U32) {
        let words = pixels.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word));
        let data = TensorData::new(words.collect::<Vec<u32>>(), [count]);
        let words = Tensor::<1, Int>::from_data(data, (&plain, DType::U32));
        if let Ok(words) = words.try_into_primitive::<CubeBackend>() {
            let images = map::from_nhwc(images::normalise(words, shape, mean, std));
            return autodiff(Tensor::from_primitive::<CubeBackend>(images));
        }
    }
    let value = |(i, byte): (usize, &u8)| (f32::from(*byte) / 255.0 - mean[i % 3]) / std[i % 3];
    let values: Vec<f32> = pixels[..whole].iter().enumerate().map(value).collect();
    let images = Tensor::<4>::from_data(TensorData::new(values, shape), &plain);
    autodiff(images.permute([0, 3, 1, 2]))
}
