//! The Inception module (GoogLeNet, arXiv:1409.4842, figure 2b) and the step from it to the
//! separable convolution (Xception, arXiv:1610.02357, figures 2 to 4).

use burn::module::Module;
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Device, Tensor, TensorData};
use kernels::ops::branch::branch;
use kernels::ops::concat::concat;

use crate::activation::Activation;
use crate::block::conv_norm_activation::ConvNormActivation;
use crate::block::convolution::Convolution;
use crate::block::pooling::max_pool;
use crate::config::Norm;
use crate::geometry::{Conv, Pool};
use crate::graph_builder::{GraphBuilder, names_below};
use crate::init::uniform;

/// The widths of an Inception module, a row of GoogLeNet's table 1: channels in, then
/// `#1x1 | #3x3 reduce, #3x3 | #5x5 reduce, #5x5 | pool proj`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inception {
    /// Channels in.
    pub input: usize,
    /// `#1x1`.
    pub one: usize,
    /// `#3x3 reduce`, `#3x3`.
    pub three: [usize; 2],
    /// `#5x5 reduce`, `#5x5`.
    pub five: [usize; 2],
    /// `pool proj`.
    pub pool: usize,
}

/// The pooling of the fourth branch.
const POOL: Pool = Pool::new(3, 1).padded(1).ceil();

impl Inception {
    /// Channels out: the sum of the four branches, concatenated in the order 1x1, 3x3, 5x5, pool.
    ///
    /// ```
    /// use nn::block::inception::Inception;
    /// // Module 3a: 64 + 128 + 32 + 32. The paper's table has 16 for the third branch's reduction.
    /// let module = Inception { input: 192, one: 64, three: [96, 128], five: [16, 32], pool: 32 };
    /// assert_eq!(module.output(), 256);
    /// ```
    pub const fn output(&self) -> usize {
        self.one + self.three[1] + self.five[1] + self.pool
    }

    /// The module's convolutions in forward order under torchvision's names; `five` is the kernel
    /// of the third branch.
    pub fn convolutions(&self, five: usize) -> [(&'static str, Conv); 6] {
        let conv = |input, output, kernel| Conv::standard(input, output, kernel, 1);
        [
            ("branch1", conv(self.input, self.one, 1)),
            ("branch2.0", conv(self.input, self.three[0], 1)),
            ("branch2.1", conv(self.three[0], self.three[1], 3)),
            ("branch3.0", conv(self.input, self.five[0], 1)),
            ("branch3.1", conv(self.five[0], self.five[1], five)),
            ("branch4.1", conv(self.input, self.pool, 1)),
        ]
    }

    /// Adds the module's layers under torchvision's names; `five` is the kernel of the third
    /// branch.
    pub(crate) fn add_to(&self, layers: &mut GraphBuilder, name: &str, five: usize) {
        let convolutions = self.convolutions(five);
        let add = |layers: &mut GraphBuilder, i: usize| {
            let (branch, conv) = convolutions[i];
            let names = names_below(&format!("{name}.{branch}"), "conv", "bn");
            layers.add_conv_norm(&names, conv, Activation::Relu);
        };
        layers.add_concat(&mut [
            &mut |layers| add(layers, 0),
            &mut |layers| (1..3).for_each(|i| add(layers, i)),
            &mut |layers| (3..5).for_each(|i| add(layers, i)),
            &mut |layers| {
                layers.add_max_pool(&format!("{name}.branch4.0"), POOL);
                add(layers, 5);
            },
        ]);
    }
}

/// The Inception module. Four branches read one input: 1x1; 1x1 then 3x3; 1x1 then 5x5; pooling
/// then 1x1. Batch norm and ReLU follow every convolution.
#[derive(Module, Debug)]
pub struct InceptionModule {
    one: ConvNormActivation,
    three_reduce: ConvNormActivation,
    three: ConvNormActivation,
    five_reduce: ConvNormActivation,
    five: ConvNormActivation,
    pool_projection: ConvNormActivation,
}

impl InceptionModule {
    /// Builds the module; the weights are zero until [`crate::init::fill`]. `five` is the kernel of
    /// the third branch: 5 in the paper, 3 in torchvision's weights.
    pub fn new(inception: &Inception, five: usize, norm: Norm, device: &Device) -> Self {
        let [one, three_reduce, three, five_reduce, five, pool_projection] = inception
            .convolutions(five)
            .map(|(_, conv)| ConvNormActivation::new(conv, norm, Activation::Relu, device));
        Self { one, three_reduce, three, five_reduce, five, pool_projection }
    }

    /// The four branches, concatenated.
    ///
    /// # Shapes
    /// `[b, input, h, w]` to `[b, output, h, w]`.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use nn::block::inception::{Inception, InceptionModule};
    /// use nn::config::Norm;
    ///
    /// let (device, norm) = (Device::flex(), Norm { epsilon: 1e-3, momentum: 0.1 });
    /// let widths = Inception { input: 192, one: 64, three: [96, 128], five: [16, 32], pool: 32 };
    /// let module = InceptionModule::new(&widths, 5, norm, &device);
    /// let y = module.forward(Tensor::zeros([1, 192, 28, 28], &device));
    /// assert_eq!(y.dims(), [1, 256, 28, 28]);
    /// ```
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = branch(x);
        let one = self.one.forward(x.clone());
        let three = self.three.forward(self.three_reduce.forward(x.clone()));
        let five = self.five.forward(self.five_reduce.forward(x.clone()));
        let pool = self.pool_projection.forward(max_pool(x, POOL));
        concat(vec![one, three, five, pool])
    }
}

/// The simplified Inception module (Xception paper, figure 2) in its equivalent form (figure 3):
/// one 1x1 convolution, then 3x3 convolutions on `towers` groups of its channels. One tower per
/// channel is the extreme form (figure 4): a separable convolution with the 1x1 convolution first.
#[derive(Module, Debug)]
pub struct SimplifiedInception {
    pointwise: Convolution,
    spatial: Convolution,
}

impl SimplifiedInception {
    /// From `input` to `output` channels through `towers` towers of 3x3 convolutions.
    ///
    /// # Panics
    /// When `towers` does not divide `output`.
    pub fn new(input: usize, output: usize, towers: usize, device: &Device) -> Self {
        Self {
            pointwise: Convolution::new(Conv::pointwise(input, output), device),
            spatial: Convolution::new(Self::spatial(output, towers), device),
        }
    }

    /// The 3x3 convolution; it has `9 * channels^2 / towers` weights.
    ///
    /// ```
    /// use nn::block::inception::SimplifiedInception;
    /// assert_eq!(SimplifiedInception::spatial(256, 1).weights(), 589_824);
    /// assert_eq!(SimplifiedInception::spatial(256, 256).weights(), 2_304);
    /// ```
    pub const fn spatial(channels: usize, towers: usize) -> Conv {
        Conv::standard(channels, channels, 3, 1).with_groups(towers)
    }

    /// The two convolutions without norm or activation: the equivalence of figures 2 and 3 is one
    /// of convolutions.
    ///
    /// # Shapes
    /// `[b, input, h, w]` to `[b, output, h, w]`.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use nn::block::inception::SimplifiedInception;
    ///
    /// let device = Device::flex();
    /// let extreme = SimplifiedInception::new(4, 6, 6, &device);
    /// assert_eq!(extreme.forward(Tensor::zeros([1, 4, 5, 7], &device)).dims(), [1, 6, 5, 7]);
    /// ```
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.spatial.forward(self.pointwise.forward(x))
    }
}

/// The identity of figures 2 and 3, computed: the largest absolute difference, in f64 on random
/// numbers of magnitude 1/2, between concatenated towers, each a 1x1 and a 3x3 convolution, and one
/// 1x1 convolution with the towers' weights stacked and one grouped 3x3 convolution behind it.
///
/// # Panics
/// When `towers` does not divide `output`.
///
/// ```
/// assert!(nn::block::inception::grouped_towers(4, 6, 3) < 1e-14);
/// ```
pub fn grouped_towers(input: usize, output: usize, towers: usize) -> f64 {
    assert_eq!(output % towers, 0, "{output} channels in {towers} towers");
    let device = Device::flex();
    let random = |stream: u64, shape: [usize; 4]| {
        let count = shape.iter().product::<usize>() as u64;
        let values: Vec<f64> = (0..count).map(|i| uniform(stream, i) - 0.5).collect();
        Tensor::<4>::from_data(TensorData::new(values, shape), (&device, DType::F64))
    };
    let options = |conv: Conv| ConvOptions {
        stride: [1, 1],
        padding: conv.pads([7, 4]),
        dilation: [1, 1],
        groups: conv.groups,
    };
    let x = random(1, [2, input, 7, 4]);
    let width = output / towers;
    let small = random(2, [output, input, 1, 1]);
    let large = random(3, [output, width, 3, 3]);
    let tower = |t: usize| {
        let rows = t * width..(t + 1) * width;
        let reduce = small.clone().slice([rows.clone(), 0..input, 0..1, 0..1]);
        let spatial = large.clone().slice([rows, 0..width, 0..3, 0..3]);
        let y = conv2d(x.clone(), reduce, None, options(Conv::pointwise(input, width)));
        conv2d(y, spatial, None, options(Conv::standard(width, width, 3, 1)))
    };
    let side_by_side = Tensor::cat((0..towers).map(tower).collect(), 1);
    let y = conv2d(x.clone(), small.clone(), None, options(Conv::pointwise(input, output)));
    let grouped = SimplifiedInception::spatial(output, towers);
    let y = conv2d(y, large.clone(), None, options(grouped));
    let error = (y - side_by_side).abs().max().into_data().convert::<f64>();
    error.try_into_vec::<f64>().expect("one number")[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In f64, for 1, 2, 3 and 6 towers; [`grouped_towers`] measures.
    ///
    /// Mutations caught: the groups' inputs in another order.
    #[test]
    fn towers_equal_one_pointwise_and_one_grouped_convolution() {
        for towers in [1, 2, 3, 6] {
            let error = grouped_towers(5, 6, towers);
            assert!(error < 1e-14, "{towers} towers: {error}");
        }
    }
}
