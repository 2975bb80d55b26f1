//! The inverted residual with linear bottleneck (arXiv:1801.04381), with squeeze-excite the bneck of
//! MobileNetV3.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use kernels::ops::branch::fork;

use crate::activation::Activation;
use crate::block::conv_norm_activation::{ConvNormActivation, Norm};
use crate::block::convolution::{Conv, Padding};
use crate::block::squeeze_excite::SqueezeExcite;
use crate::layer_spec::LayerListBuilder;

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
    /// Dilation of the depthwise convolution.
    pub dilation: usize,
    /// Border of the depthwise convolution.
    pub padding: Padding,
}

/// Keys of a block's layers: convolution and norm, or the two convolutions of squeeze-excite.
pub struct BottleneckKeys {
    /// 1x1 expansion.
    pub expand: [String; 2],
    /// Depthwise convolution.
    pub depthwise: [String; 2],
    /// Squeeze-excite.
    pub gate: [String; 2],
    /// Linear 1x1.
    pub project: [String; 2],
}

impl Bottleneck {
    /// The expansion, absent when it would not widen.
    pub fn expand(&self) -> Option<Conv> {
        (self.expanded != self.input).then(|| Conv::pointwise(self.input, self.expanded))
    }

    /// The depthwise convolution.
    pub fn depthwise(&self) -> Conv {
        Conv::depthwise(self.expanded, self.kernel, self.stride)
            .with_dilation(self.dilation)
            .with_padding(self.padding)
    }

    /// The linear projection.
    pub fn project(&self) -> Conv {
        Conv::pointwise(self.expanded, self.output)
    }

    /// Whether the input is added: stride 1 and equal widths.
    pub fn is_residual(&self) -> bool {
        self.stride == 1 && self.input == self.output
    }

    /// Draws the block's layers in forward order.
    pub fn draw(&self, draft: &mut LayerListBuilder, keys: &BottleneckKeys) {
        if let Some(expand) = self.expand() {
            draft.conv_norm(&keys.expand, expand, self.activation);
        }
        draft.conv_norm(&keys.depthwise, self.depthwise(), self.activation);
        if let Some(squeezed) = self.squeezed {
            draft.squeeze_excite(&keys.gate, squeezed);
        }
        draft.conv_norm(&keys.project, self.project(), Activation::Linear);
    }
}

/// 1x1 expansion (absent when it would not widen), depthwise, squeeze-excite, linear 1x1; the input is
/// added when stride is 1 and the widths agree.
#[derive(Module, Debug)]
pub struct InvertedResidual {
    expand: Option<ConvNormActivation>,
    depthwise: ConvNormActivation,
    squeeze_excite: Option<SqueezeExcite>,
    project: ConvNormActivation,
    #[module(skip)]
    bottleneck: Bottleneck,
}

impl InvertedResidual {
    /// Builds the block.
    pub fn new(b: &Bottleneck, norm: Norm, device: &Device) -> Self {
        let layer = |conv, activation| ConvNormActivation::new(conv, norm, activation, device);
        Self {
            expand: b.expand().map(|expand| layer(expand, b.activation)),
            depthwise: layer(b.depthwise(), b.activation),
            squeeze_excite: b.squeezed.map(|s| SqueezeExcite::new(b.expanded, s, device)),
            project: layer(b.project(), Activation::Linear),
            bottleneck: *b,
        }
    }

    /// Stride of the depthwise convolution.
    pub fn stride(&self) -> usize {
        self.bottleneck.stride
    }

    /// # Shapes
    /// `[b, input, h, w]` to `[b, output, ceil(h / stride), ceil(w / stride)]`.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use nn::activation::Activation;
    /// use nn::block::conv_norm_activation::Norm;
    /// use nn::block::convolution::Padding;
    /// use nn::block::inverted_residual::{Bottleneck, InvertedResidual};
    ///
    /// let (device, norm) = (Device::flex(), Norm { epsilon: 1e-5, momentum: 0.1 });
    /// // MobileNetV2's second row: t = 6, c = 24, s = 2.
    /// let row = Bottleneck {
    ///     input: 16, kernel: 3, expanded: 6 * 16, output: 24, squeezed: None,
    ///     activation: Activation::Relu6, stride: 2, dilation: 1, padding: Padding::Symmetric,
    /// };
    /// let block = InvertedResidual::new(&row, norm, &device);
    /// assert_eq!(block.forward(Tensor::zeros([1, 16, 9, 6], &device)).dims(), [1, 24, 5, 3]);
    /// ```
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let (x, skip) = match self.bottleneck.is_residual() {
            true => {
                let x = fork(x);
                (x.clone(), Some(x))
            }
            false => (x, None),
        };
        let x = match &self.expand {
            Some(expand) => expand.forward(x),
            None => x,
        };
        let x = self.depthwise.forward(x);
        let x = match &self.squeeze_excite {
            Some(gate) => gate.forward(x),
            None => x,
        };
        self.project.forward_with(x, skip)
    }
}

/// Block after block; `tap` is shown the last map of every stride.
pub(crate) fn along(
    blocks: &[InvertedResidual],
    mut x: Tensor<4>,
    tap: &mut dyn FnMut(&Tensor<4>),
) -> Tensor<4> {
    for block in blocks {
        if block.stride() > 1 {
            tap(&x);
        }
        x = block.forward(x);
    }
    x
}
