//! Many small tensors as one flat vector, so that one launch updates them all.
//!
//! A tensor begins at a multiple of [`ALIGNMENT`] values, where an adapter can bind a part of a
//! buffer: so parts of the vector are tensors too, without a copy.

use burn::tensor::{DType, Shape};
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::gpu::map::{UNITS, empty};
use crate::gpu::traffic::record;

/// Values from one possible beginning of a tensor to the next: 256 bytes.
pub const ALIGNMENT: usize = 64;
/// Tensors that one launch copies. With the vector and the numbers, ten buffers.
pub const AT_ONCE: usize = 8;

#[cube(launch)]
fn gather_kernel(
    a: &[f32],
    b: &[f32],
    c: &[f32],
    d: &[f32],
    e: &[f32],
    f: &[f32],
    g: &[f32],
    h: &[f32],
    flat: &mut [f32],
    ends: Sequence<u32>,
    offset: usize,
    lengths: Sequence<u32>,
    values: usize,
) {
    if ABSOLUTE_POS < values {
        let at = ABSOLUTE_POS as u32;
        #[allow(unused_assignments, reason = "the macro wants a first value")]
        let mut value = 0.0f32;
        if at < ends[0] {
            let i = at;
            value = select(i < lengths[0], a[i as usize], 0.0f32);
        } else if at < ends[1] {
            let i = at - ends[0];
            value = select(i < lengths[1], b[i as usize], 0.0f32);
        } else if at < ends[2] {
            let i = at - ends[1];
            value = select(i < lengths[2], c[i as usize], 0.0f32);
        } else if at < ends[3] {
            let i = at - ends[2];
            value = select(i < lengths[3], d[i as usize], 0.0f32);
        } else if at < ends[4] {
            let i = at - ends[3];
            value = select(i < lengths[4], e[i as usize], 0.0f32);
        } else if at < ends[5] {
            let i = at - ends[4];
            value = select(i < lengths[5], f[i as usize], 0.0f32);
        } else if at < ends[6] {
            let i = at - ends[5];
            value = select(i < lengths[6], g[i as usize], 0.0f32);
        } else {
            let i = at - ends[6];
            value = select(i < lengths[7], h[i as usize], 0.0f32);
        }
        flat[offset + ABSOLUTE_POS] = value;
    }
}

/// The place of a tensor of `count` values in the vector, in values.
pub fn padded(count: usize) -> usize {
    count.next_multiple_of(ALIGNMENT)
}

/// Copies the first `count` of eight tensors into `flat` from `offset` on, one behind the other,
/// and zeros between them. `flat` is written in place.
pub(crate) fn gather(
    flat: &CubeTensor,
    tensors: [&CubeTensor; AT_ONCE],
    count: usize,
    offset: usize,
) {
    let mut lengths = [0; AT_ONCE];
    let mut ends = [0; AT_ONCE];
    let mut end = 0;
    for (i, tensor) in tensors.iter().enumerate() {
        if i < count {
            lengths[i] = tensor.meta.shape().iter().product();
            end += padded(lengths[i]);
        }
        ends[i] = end;
    }
    let numbers = |values: [usize; AT_ONCE]| {
        let mut sequence = SequenceArg::new();
        values.iter().for_each(|value| sequence.push(*value as u32));
        sequence
    };
    record("multi_tensor_gather", [end * 4, end * 4], 1);
    let units = CubeDim::new_1d(UNITS as u32);
    let [a, b, c, d, e, f, g, h] = tensors.map(|tensor| tensor.clone().into_buffer_arg());
    gather_kernel::launch(
        &flat.client,
        cubecl::calculate_cube_count_elemwise(&flat.client, end, units),
        units,
        a,
        b,
        c,
        d,
        e,
        f,
        g,
        h,
        flat.clone().into_buffer_arg(),
        numbers(ends),
        offset,
        numbers(lengths),
        end,
    );
}

/// `count` values from `offset` on, which lie where they lie.
pub(crate) fn part(flat: CubeTensor, offset: usize, count: usize) -> CubeTensor {
    let all: usize = flat.meta.shape().iter().product();
    let CubeTensor { client, handle, device, dtype, .. } = flat;
    let size = dtype.size() as u64;
    let handle =
        handle.offset_start(offset as u64 * size).offset_end((all - offset - count) as u64 * size);
    CubeTensor::new_contiguous(client, device, Shape::from([count]), handle, dtype)
}

/// The formula of an optimizer. Names and formulas are those of torch and timm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Formula {
    /// torch's SGD without momentum.
    Plain,
    /// torch's SGD with Nesterov momentum.
    Nesterov,
    /// torch's SGD with momentum.
    Momentum,
    /// torch's RMSprop with momentum.
    Rmsprop,
    /// timm's RMSpropTF with momentum.
    RmspropTf,
    /// torch's Adam: decay as part of the gradient.
    Adam,
    /// torch's AdamW: decay of the weights.
    Adamw,
    /// Lion (arXiv:2302.06675).
    Lion,
}

impl Formula {
    /// Whether the formula has a first and a second state of every value.
    pub fn states(self) -> [bool; 2] {
        match self {
            Formula::Plain => [false, false],
            Formula::Nesterov | Formula::Momentum | Formula::Lion => [true, false],
            Formula::Rmsprop | Formula::RmspropTf | Formula::Adam | Formula::Adamw => [true, true],
        }
    }
}

/// The numbers of a step, which all values share.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Learning rate, before a value's own factor.
    pub lr: f32,
    /// Momentum, or the decay of the first average.
    pub momentum: f32,
    /// Weight of the old second average.
    pub alpha: f32,
    /// Added to the root or under it.
    pub epsilon: f32,
    /// `1 - beta^steps` of both averages, for Adam.
    pub corrections: [f32; 2],
    /// Factor of all gradients, that of clipping by their norm.
    pub gradient_scale: f32,
}

#[cube(launch)]
fn update_kernel(
    values: &[f32],
    gradients: &[f32],
    first: &[f32],
    second: &[f32],
    scales: &[f32],
    decays: &[f32],
    new_values: &mut [f32],
    new_first: &mut [f32],
    new_second: &mut [f32],
    count: usize,
    lr: f32,
    momentum: f32,
    alpha: f32,
    epsilon: f32,
    correction_1: f32,
    correction_2: f32,
    gradient_scale: f32,
    #[comptime] formula: Formula,
) {
    if ABSOLUTE_POS < count {
        let at = ABSOLUTE_POS;
        let lr = lr * scales[at / ALIGNMENT];
        let decay = decays[at / ALIGNMENT];
        let value = values[at];
        let own = gradients[at] * gradient_scale;
        let gradient = own + value * decay;
        match comptime!(formula) {
            Formula::Plain => {
                new_values[at] = value - gradient * lr;
            }
            Formula::Nesterov => {
                let buffer = first[at] * momentum + gradient;
                new_first[at] = buffer;
                new_values[at] = value - (gradient + buffer * momentum) * lr;
            }
            Formula::Momentum => {
                let buffer = first[at] * momentum + gradient;
                new_first[at] = buffer;
                new_values[at] = value - buffer * lr;
            }
            Formula::Rmsprop => {
                let square = first[at] * alpha + gradient * gradient * (1.0f32 - alpha);
                let buffer = second[at] * momentum + gradient / (square.sqrt() + epsilon);
                new_first[at] = square;
                new_second[at] = buffer;
                new_values[at] = value - buffer * lr;
            }
            Formula::RmspropTf => {
                let square = first[at] * alpha + gradient * gradient * (1.0f32 - alpha);
                let scaled = gradient / (square + epsilon).sqrt() * lr;
                let buffer = second[at] * momentum + scaled;
                new_first[at] = square;
                new_second[at] = buffer;
                new_values[at] = value - buffer;
            }
            Formula::Adam => {
                let mean = first[at] * momentum + gradient * (1.0f32 - momentum);
                let square = second[at] * alpha + gradient * gradient * (1.0f32 - alpha);
                new_first[at] = mean;
                new_second[at] = square;
                let root = square.sqrt() / correction_2.sqrt() + epsilon;
                new_values[at] = value - mean / root * (lr / correction_1);
            }
            Formula::Adamw => {
                let mean = first[at] * momentum + own * (1.0f32 - momentum);
                let square = second[at] * alpha + own * own * (1.0f32 - alpha);
                new_first[at] = mean;
                new_second[at] = square;
                let root = square.sqrt() / correction_2.sqrt() + epsilon;
                let kept = value * (1.0f32 - lr * decay);
                new_values[at] = kept - mean / root * (lr / correction_1);
            }
            Formula::Lion => {
                let old = first[at];
                let direction = old * momentum + own * (1.0f32 - momentum);
                new_first[at] = old * alpha + own * (1.0f32 - alpha);
                let positive = select(direction > 0.0f32, 1.0f32, 0.0f32);
                let sign = select(direction < 0.0f32, -1.0f32, positive);
                new_values[at] = value * (1.0f32 - lr * decay) - sign * lr;
            }
        }
    }
}

/// One update of all values: new values, first and second state; one launch. A state that the
/// formula does not have is any tensor and comes back as it is.
pub(crate) fn update(
    values: CubeTensor,
    gradients: CubeTensor,
    [first, second]: [CubeTensor; 2],
    [scales, decays]: [CubeTensor; 2],
    formula: Formula,
    rates: Rates,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let count: usize = values.meta.shape().iter().product();
    let has = formula.states();
    let maps = 3 + 2 * has.iter().filter(|has| **has).count();
    record("optimizer_update", [(maps - 1 - maps / 2) * count * 4, (maps / 2) * count * 4], 1);
    let new = |state: &CubeTensor, has: bool| match has {
        true => empty(&values, &[count], DType::F32),
        false => state.clone(),
    };
    let new_values = empty(&values, &[count], DType::F32);
    let (new_first, new_second) = (new(&first, has[0]), new(&second, has[1]));
    // An adapter refuses one buffer that a kernel reads and writes: the values stand in.
    let scratch = |state: &CubeTensor, has: bool| match has {
        true => state.clone(),
        false => empty(&values, &[1], DType::F32),
    };
    let written = [scratch(&new_first, has[0]), scratch(&new_second, has[1])];
    let [written_first, written_second] = written.map(CubeTensor::into_buffer_arg);
    let units = CubeDim::new_1d(UNITS as u32);
    update_kernel::launch(
        &values.client,
        cubecl::calculate_cube_count_elemwise(&values.client, count, units),
        units,
        values.clone().into_buffer_arg(),
        gradients.into_buffer_arg(),
        first.into_buffer_arg(),
        second.into_buffer_arg(),
        scales.into_buffer_arg(),
        decays.into_buffer_arg(),
        new_values.clone().into_buffer_arg(),
        written_first,
        written_second,
        count,
        rates.lr,
        rates.momentum,
        rates.alpha,
        rates.epsilon,
        rates.corrections[0],
        rates.corrections[1],
        rates.gradient_scale,
        formula,
    );
    (new_values, new_first, new_second)
}
