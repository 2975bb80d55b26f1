//! From a configuration to a network: the one file that lists the architectures.

use burn::module::Module;
use burn::tensor::{Device, FloatDType, Tensor};

use crate::block::backbone::Backbone;
use crate::block::dropout::DropoutSeed;
use crate::config::{Architecture, NetworkConfig};
use crate::graph::Graph;
use crate::layer_spec::{Key, LayerSpec, Naming};
use crate::models::googlenet::{self, GoogLeNet};
use crate::models::inception_v3::{self, InceptionV3};
use crate::models::mobilenet_v1::{self, MobileNetV1};
use crate::models::mobilenet_v2::{self, MobileNetV2};
use crate::models::mobilenet_v3::{self, MobileNetV3, MobileNetV3Size};
use crate::models::xception::{self, Xception};
use crate::models::xception_aligned::{self, XceptionAligned, XceptionDepth};
use crate::outputs::TrainingOutputs;
use crate::{init, preprocessing};

/// The methods that depend on the architecture.
impl NetworkConfig {
    /// The layers for images of `height` by `width` pixels, in parameter order.
    ///
    /// ```
    /// use nn::config::{Architecture, NetworkConfig};
    /// use nn::layer_spec::Naming;
    /// let config = NetworkConfig::new(Architecture::MobilenetV2, 1000);
    /// let layers = config.layers(224, 224, Naming::Timm);
    /// assert_eq!(layers[0].keys[0].name, "conv_stem.weight");
    /// assert_eq!(layers[0].output, [32, 112, 112]);
    /// ```
    pub fn layers(&self, height: usize, width: usize, naming: Naming) -> Vec<LayerSpec> {
        self.graph(height, width, naming).layers
    }

    /// The graph for images of `height` by `width` pixels: the layers and which map each reads.
    ///
    /// ```
    /// use nn::config::{Architecture, NetworkConfig};
    /// use nn::graph::NodeOperation;
    /// use nn::layer_spec::Naming;
    /// let graph = NetworkConfig::new(Architecture::MobilenetV2, 1000).graph(224, 224, Naming::Timm);
    /// let sums = graph.nodes.iter().filter(|node| node.operation == NodeOperation::Sum);
    /// assert_eq!(sums.count(), 10);
    /// assert_eq!(graph.nodes[graph.output].shape, [1000, 1, 1]);
    /// ```
    pub fn graph(&self, height: usize, width: usize, naming: Naming) -> Graph {
        use MobileNetV3Size::{Large, Small};
        use XceptionDepth::{Layers41, Layers65, Layers71};
        let size = [height, width];
        match self.architecture {
            Architecture::MobilenetV1 => mobilenet_v1::graph(self, size),
            Architecture::MobilenetV2 => mobilenet_v2::graph(self, size, naming),
            Architecture::MobilenetV3Large => mobilenet_v3::graph(Large, self, size, naming),
            Architecture::MobilenetV3Small => mobilenet_v3::graph(Small, self, size, naming),
            Architecture::Googlenet => googlenet::graph(self, size),
            Architecture::InceptionV3 => inception_v3::graph(self, size),
            Architecture::Xception => xception::graph(self, size),
            Architecture::Xception41 => xception_aligned::graph(Layers41, self, size),
            Architecture::Xception65 => xception_aligned::graph(Layers65, self, size),
            Architecture::Xception71 => xception_aligned::graph(Layers71, self, size),
        }
    }

    /// The key of every tensor, in parameter order.
    pub fn keys(&self, naming: Naming) -> Vec<Key> {
        let size = self.architecture.native_size();
        self.layers(size, size, naming).into_iter().flat_map(|layer| layer.keys).collect()
    }

    /// [`NetworkConfig::init_seeded`] with seed 0.
    pub fn init(&self, device: &Device) -> Network {
        self.init_seeded(device, 0)
    }

    /// A network with initial weights drawn from `seed`, the same on every backend.
    pub fn init_seeded(&self, device: &Device, seed: u64) -> Network {
        let network = self.init_zero(device);
        init::fill(network, seed, &self.keys(Naming::Torchvision))
    }

    /// A network whose weights are all zero, to load weights into; no random number is drawn.
    pub fn init_zero(&self, device: &Device) -> Network {
        use MobileNetV3Size::{Large, Small};
        use XceptionDepth::{Layers41, Layers65, Layers71};
        let aligned = |depth| Model::XceptionAligned(XceptionAligned::new(depth, self, device));
        let model = match self.architecture {
            Architecture::MobilenetV1 => Model::MobileNetV1(MobileNetV1::new(self, device)),
            Architecture::MobilenetV2 => Model::MobileNetV2(MobileNetV2::new(self, device)),
            Architecture::MobilenetV3Large => {
                Model::MobileNetV3(MobileNetV3::new(Large, self, device))
            }
            Architecture::MobilenetV3Small => {
                Model::MobileNetV3(MobileNetV3::new(Small, self, device))
            }
            Architecture::Googlenet => Model::GoogLeNet(GoogLeNet::new(self, device)),
            Architecture::InceptionV3 => Model::InceptionV3(InceptionV3::new(self, device)),
            Architecture::Xception => Model::Xception(Xception::new(self, device)),
            Architecture::Xception41 => aligned(Layers41),
            Architecture::Xception65 => aligned(Layers65),
            Architecture::Xception71 => aligned(Layers71),
        };
        Network { model, config: self.clone() }
    }
}

#[derive(Module, Debug)]
enum Model {
    MobileNetV1(MobileNetV1),
    MobileNetV2(MobileNetV2),
    MobileNetV3(MobileNetV3),
    GoogLeNet(GoogLeNet),
    InceptionV3(InceptionV3),
    Xception(Xception),
    XceptionAligned(XceptionAligned),
}

/// A network of any architecture with its configuration.
#[derive(Module, Debug)]
pub struct Network {
    model: Model,
    #[module(skip)]
    config: NetworkConfig,
}

impl Network {
    /// The configuration from which the network was built.
    pub fn config(&self) -> &NetworkConfig {
        &self.config
    }

    fn backbone(&self) -> &dyn Backbone {
        match &self.model {
            Model::MobileNetV1(network) => network,
            Model::MobileNetV2(network) => network,
            Model::MobileNetV3(network) => network,
            Model::GoogLeNet(network) => network,
            Model::InceptionV3(network) => network,
            Model::Xception(network) => network,
            Model::XceptionAligned(network) => network,
        }
    }

    /// The images as the first layer reads them. Every map has their type.
    fn transform_input(&self, images: Tensor<4>) -> Tensor<4> {
        let images = match self.config.transform_input {
            true => preprocessing::imagenet_to_symmetric(images),
            false => images,
        };
        if self.config.half_maps { images.cast(FloatDType::F16) } else { images }
    }

    /// Logits. Batch norm uses batch statistics on an autodiff device and running statistics
    /// elsewhere.
    ///
    /// # Shapes
    /// `[b, 3, h, w]` to `[b, classes]`.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let backbone = self.backbone();
        let pooled = backbone.forward_pooled(self.transform_input(images));
        backbone.forward_head(pooled, None)
    }

    /// The mean of the last map over its pixels: what the classifier reads, and a description of an
    /// image for retrieval.
    ///
    /// # Shapes
    /// `[b, 3, h, w]` to `[b, c]`.
    pub fn forward_pooled(&self, images: Tensor<4>) -> Tensor<2> {
        self.backbone().forward_pooled(self.transform_input(images))
    }

    /// The last map of every stride, the largest first, as a detector needs them.
    ///
    /// # Shapes
    /// `[b, 3, h, w]` to about `[b, c, h / 2^i, w / 2^i]`, i from 1.
    ///
    /// ```
    /// use burn::tensor::{Device, FloatDType, Tensor};
    /// use nn::config::{Architecture, NetworkConfig};
    ///
    /// let device = Device::flex();
    /// let network = NetworkConfig::new(Architecture::MobilenetV2, 10).init(&device);
    /// let maps = network.forward_features(Tensor::zeros([1, 3, 64, 96], &device));
    /// let shapes: Vec<_> = maps.iter().map(|map| map.dims()).collect();
    /// assert_eq!(shapes[2], [1, 32, 8, 12]);
    /// assert_eq!(shapes[4], [1, 1280, 2, 3]);
    /// ```
    pub fn forward_features(&self, images: Tensor<4>) -> Vec<Tensor<4>> {
        let mut maps = Vec::new();
        let images = self.transform_input(images);
        self.backbone().forward_features(images, &mut |map| maps.push(map.clone()));
        maps
    }

    /// Logits with dropout, and the auxiliary heads' logits. The dropout mask is a function of
    /// `dropout_seed`.
    ///
    /// # Shapes
    /// `[b, 3, h, w]` to `[b, classes]` each.
    pub fn forward_train(
        &self,
        images: Tensor<4>,
        dropout_seed: impl Into<DropoutSeed>,
    ) -> TrainingOutputs {
        self.backbone().forward_train(self.transform_input(images), &dropout_seed.into())
    }
}
