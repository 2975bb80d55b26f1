//! The inverted residual with linear bottleneck (arXiv:1801.04381), with squeeze-excite the bneck of
//! MobileNetV3.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::activation::Activation;
use crate::block::conv_norm_activation::{Conv, ConvNormActivation, Norm};
use crate::block::squeeze_excite::SqueezeExcite;

/// One block, widths already scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bottleneck {
    /// Channels in.
    pub input: usize,
    /// Depthwise kernel.
    pub kernel: usize,
    /// Width between the 1x1 convolutions.
    pub expanded: usize,
    /// Channels out.
    pub output: usize,
    /// Squeezed width, if there is squeeze-excite.
    pub squeezed: Option<usize>,
    /// After expansion and depthwise convolution.
    pub activation: Activation,
    /// Stride of the depthwise convolution.
    pub stride: usize,
}

/// 1x1 expansion (absent when it would not widen), depthwise, squeeze-excite, linear 1x1; the input is
/// added when stride is 1 and the widths agree.
#[derive(Module, Debug)]
pub struct InvertedResidual {
    expand: Option<ConvNormActivation>,
    depthwise: ConvNormActivation,
    squeeze_excite: Option<SqueezeExcite>,
    project: ConvNormActivation,
    residual: bool,
}

impl InvertedResidual {
    /// Builds the block.
    pub fn new(b: &Bottleneck, norm: Norm, device: &Device) -> Self {
        let layer = |conv, activation| ConvNormActivation::new(conv, norm, activation, device);
        Self {
            expand: (b.expanded != b.input)
                .then(|| layer(Conv::pointwise(b.input, b.expanded), b.activation)),
            depthwise: layer(Conv::depthwise(b.expanded, b.kernel, b.stride, 1), b.activation),
            squeeze_excite: b.squeezed.map(|s| SqueezeExcite::new(b.expanded, s, device)),
            project: layer(Conv::pointwise(b.expanded, b.output), Activation::Linear),
            residual: b.stride == 1 && b.input == b.output,
        }
    }

    /// # Shapes
    /// `[b, input, h, w]` to `[b, output, ceil(h / stride), ceil(w / stride)]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let skip = self.residual.then(|| x.clone());
        let x = match &self.expand {
            Some(expand) => expand.forward(x),
            None => x,
        };
        let x = self.depthwise.forward(x);
        let x = match &self.squeeze_excite {
            Some(gate) => gate.forward(x),
            None => x,
        };
        let x = self.project.forward(x);
        match skip {
            Some(skip) => x + skip,
            None => x,
        }
    }

    /// Whether the block has (an expansion, squeeze-excite): what its tensors' names depend on.
    pub fn has(&self) -> (bool, bool) {
        (self.expand.is_some(), self.squeeze_excite.is_some())
    }
}
