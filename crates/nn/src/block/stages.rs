//! The stages of the MobileNets: a convolution of stride 2, blocks one after another and, in V2 and
//! V3, a last 1x1 convolution.

use burn::module::Module;
use burn::tensor::Tensor;
use kernels::ops::threads::image_by_image;

use crate::block::backbone::OnStride;
use crate::block::conv_norm_activation::ConvNormActivation;
use crate::block::pooling::global_mean;

/// A block that may have a stride.
pub(crate) trait StridedBlock: Module + Sync {
    /// 1, or 2 where the block halves the map.
    fn stride(&self) -> usize;

    /// `[b, input, h, w]` to `[b, output, ceil(h / stride), ceil(w / stride)]`.
    fn forward(&self, x: Tensor<4>) -> Tensor<4>;
}

/// The stages of a MobileNet; fields in forward order.
#[derive(Module, Debug)]
pub(crate) struct Stages<B: StridedBlock> {
    /// First convolution, of stride 2.
    pub(crate) stem: ConvNormActivation,
    /// The rows of the paper's table.
    pub(crate) blocks: Vec<B>,
    /// Last 1x1 convolution.
    pub(crate) last: Option<ConvNormActivation>,
}

impl<B: StridedBlock> Stages<B> {
    /// `[b, 3, h, w]` to the first map of stride 16.
    fn stages_to_stride16(&self, images: Tensor<4>, on_stride: OnStride<'_>) -> Tensor<4> {
        let x = self.stem.forward(images); // [b, c, h/2, w/2]
        run_blocks(&self.blocks[..stride16_index(&self.blocks)], x, on_stride)
    }

    /// The first map of stride 16 to the last one, of stride 32.
    fn stages_to_stride32(&self, x: Tensor<4>, on_stride: OnStride<'_>) -> Tensor<4> {
        let x = run_blocks(&self.blocks[stride16_index(&self.blocks)..], x, on_stride);
        let x = match &self.last {
            Some(last) => last.forward(x),
            None => x,
        };
        on_stride(&x);
        x
    }

    /// `[b, 3, h, w]` to the last map; `on_stride` is called with the last map of every stride.
    pub(crate) fn forward(&self, images: Tensor<4>, on_stride: OnStride<'_>) -> Tensor<4> {
        let x = self.stages_to_stride16(images, on_stride);
        self.stages_to_stride32(x, on_stride)
    }

    /// The mean of the last map in inference: all images through the first stages, then all through
    /// the last ones. The weights of a part stay in the cache from image to image, as do the maps
    /// that one image's layers hand on.
    pub(crate) fn forward_pooled(&self, images: Tensor<4>) -> Tensor<2> {
        let x = image_by_image(images, |image| self.stages_to_stride16(image, &mut |_| ()));
        image_by_image(x, |x| global_mean(self.stages_to_stride32(x, &mut |_| ())))
    }
}

/// Number of blocks up to the first whose map has stride 16, after a first convolution of stride 2.
fn stride16_index(blocks: &[impl StridedBlock]) -> usize {
    let third = blocks.iter().enumerate().filter(|(_, block)| block.stride() > 1).nth(2);
    third.expect("blocks that halve the map three times").0 + 1
}

/// The blocks in turn; `on_stride` is called with the last map before every block that halves it.
fn run_blocks(
    blocks: &[impl StridedBlock],
    mut x: Tensor<4>,
    on_stride: OnStride<'_>,
) -> Tensor<4> {
    for block in blocks {
        if block.stride() > 1 {
            on_stride(&x);
        }
        x = block.forward(x);
    }
    x
}
