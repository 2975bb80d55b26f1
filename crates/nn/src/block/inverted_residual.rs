//! The inverted residual with linear bottleneck (arXiv:1801.04381). With squeeze-excite it is
//! MobileNetV3's bneck block.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use kernels::ops::branch::branch;

use crate::activation::Activation;
use crate::block::conv_norm_activation::ConvNormActivation;
use crate::block::squeeze_excite::SqueezeExcite;
use crate::block::stages::StridedBlock;
use crate::config::Norm;
use crate::geometry::{Conv, Padding};
use crate::graph_builder::{GraphBuilder, names_below};

/// An inverted residual without its weights; the width multiplier is already applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bottleneck {
    /// Channels in.
    pub input: usize,
    /// Depthwise kernel.
    pub kernel: usize,
    /// Channels between the two 1x1 convolutions.
    pub expanded: usize,
    /// Channels out.
    pub output: usize,
    /// Hidden channels of squeeze-excite; none without it.
    pub squeezed: Option<usize>,
    /// Activation after the expansion and after the depthwise convolution.
    pub activation: Activation,
    /// Stride of the depthwise convolution.
    pub stride: usize,
    /// Dilation of the depthwise convolution.
    pub dilation: usize,
    /// Padding of the depthwise convolution.
    pub padding: Padding,
}

/// Names of a block's layers in weight files: a convolution and its norm, or the two convolutions
/// of squeeze-excite.
pub(crate) struct BottleneckKeys {
    /// 1x1 expansion.
    pub(crate) expand: [String; 2],
    /// Depthwise convolution.
    pub(crate) depthwise: [String; 2],
    /// Squeeze-excite.
    pub(crate) gate: [String; 2],
    /// Linear 1x1 projection.
    pub(crate) project: [String; 2],
}

impl BottleneckKeys {
    /// timm's names: its `InvertedResidual`, or its `DepthwiseSeparableConv` where there is no
    /// expansion.
    pub(crate) fn timm(prefix: &str, block: &Bottleneck) -> Self {
        let gate = names_below(prefix, "se.conv_reduce", "se.conv_expand");
        match block.expand() {
            Some(_) => Self {
                expand: names_below(prefix, "conv_pw", "bn1"),
                depthwise: names_below(prefix, "conv_dw", "bn2"),
                gate,
                project: names_below(prefix, "conv_pwl", "bn3"),
            },
            None => Self {
                expand: [String::new(), String::new()],
                depthwise: names_below(prefix, "conv_dw", "bn1"),
                gate,
                project: names_below(prefix, "conv_pw", "bn2"),
            },
        }
    }
}

impl Bottleneck {
    /// The 1x1 expansion; none when it would not widen.
    pub fn expand(&self) -> Option<Conv> {
        (self.expanded != self.input).then(|| Conv::pointwise(self.input, self.expanded))
    }

    /// The depthwise convolution.
    pub fn depthwise(&self) -> Conv {
        Conv::depthwise(self.expanded, self.kernel, self.stride)
            .with_dilation(self.dilation)
            .with_padding(self.padding)
    }

    /// The linear 1x1 projection.
    pub fn project(&self) -> Conv {
        Conv::pointwise(self.expanded, self.output)
    }

    /// Whether the input is added to the output: stride 1 and equal channel counts.
    pub fn is_residual(&self) -> bool {
        self.stride == 1 && self.input == self.output
    }

    /// Adds the block's layers in forward order.
    pub(crate) fn add_to(&self, layers: &mut GraphBuilder, keys: &BottleneckKeys) {
        let input = layers.map();
        if let Some(expand) = self.expand() {
            layers.add_conv_norm(&keys.expand, expand, self.activation);
        }
        layers.add_conv_norm(&keys.depthwise, self.depthwise(), self.activation);
        if let Some(squeezed) = self.squeezed {
            layers.add_squeeze_excite(&keys.gate, squeezed);
        }
        layers.add_conv_norm(&keys.project, self.project(), Activation::Linear);
        if self.is_residual() {
            layers.add_sum(input);
        }
    }
}

/// The inverted residual: 1x1 expansion (absent when it would not widen), depthwise convolution,
/// squeeze-excite, linear 1x1 projection. The input is added when the stride is 1 and the channel
/// counts agree.
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
    /// Builds the block; the weights are zero until [`crate::init::fill`].
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

    /// The layers in turn, plus the input where the block is residual.
    ///
    /// # Shapes
    /// `[b, input, h, w]` to `[b, output, ceil(h / stride), ceil(w / stride)]`.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use nn::activation::Activation;
    /// use nn::block::inverted_residual::{Bottleneck, InvertedResidual};
    /// use nn::config::Norm;
    /// use nn::geometry::Padding;
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
                let x = branch(x);
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
        self.project.forward_with_skip(x, skip)
    }
}

impl StridedBlock for InvertedResidual {
    fn stride(&self) -> usize {
        self.bottleneck.stride
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        InvertedResidual::forward(self, x)
    }
}
