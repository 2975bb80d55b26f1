//! Many small tensors as one flat vector, so that one launch updates them all.
//!
//! A tensor begins at a multiple of [`ALIGNMENT`] values, where an adapter can bind a part of a
//! buffer: so parts of the vector are tensors too, without a copy.

use burn::tensor::{DType, Shape};
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::gpu::map::{UNITS, empty};
use crate::gpu::sums::sum_parts;
use crate::gpu::traffic::record;

/// Values from one possible beginning of a tensor to the next: 256 bytes.
pub const ALIGNMENT: usize = 64;
/// A kernel that copies some tensors into the vector from `offset` on, and zeros between them; and
/// its launch.
macro_rules! gather_kernel {
    ($module:ident: $($name:ident $number:literal),+) => {
        mod $module {
            use super::*;

            #[cube(launch)]
            fn gather_kernel(
                $($name: &[f32],)+
                flat: &mut [f32],
                begins: Sequence<u32>,
                lengths: Sequence<u32>,
                offset: usize,
                values: usize,
            ) {
                if ABSOLUTE_POS < values {
                    let at = ABSOLUTE_POS as u32;
                    let mut value = 0.0f32;
                    $(
                        if at >= begins[$number] && at < begins[$number] + lengths[$number] {
                            value = $name[(at - begins[$number]) as usize];
                        }
                    )+
                    flat[offset + ABSOLUTE_POS] = value;
                }
            }

            /// Tensors of a launch.
            pub(super) const COUNT: usize = [$($number),+].len();

            pub(super) fn launch(
                flat: &CubeTensor,
                tensors: [&CubeTensor; COUNT],
                [begins, lengths]: [[usize; COUNT]; 2],
                offset: usize,
                values: usize,
            ) {
                let numbers = |values: [usize; COUNT]| {
                    let mut sequence = SequenceArg::new();
                    values.iter().for_each(|value| sequence.push(*value as u32));
                    sequence
                };
                let units = CubeDim::new_1d(UNITS as u32);
                let [$($name),+] = tensors.map(|tensor| tensor.clone().into_buffer_arg());
                gather_kernel::launch(
                    &flat.client,
                    cubecl::calculate_cube_count_elemwise(&flat.client, values, units),
                    units,
                    $($name,)+
                    flat.clone().into_buffer_arg(),
                    numbers(begins),
                    numbers(lengths),
                    offset,
                    values,
                );
            }
        }
    };
}

// What an adapter surely binds, and what every graphics card does.
gather_kernel!(few: a 0, b 1, c 2, d 3, e 4, f 5);
gather_kernel!(
    many: a 0, b 1, c 2, d 3, e 4, f 5, g 6, h 7, i 8, j 9, k 10, l 11, m 12, n 13, o 14, p 15, q 16, r 17, s 18,
    t 19, u 20, v 21, w 22, x 23, y 24, z 25, aa 26, bb 27, cc 28
);

/// The place of a tensor of `count` values in the vector, in values.
pub fn padded(count: usize) -> usize {
    count.next_multiple_of(ALIGNMENT)
}

/// The tensors one behind the other, and zeros between them: one launch for every 29, or for every
/// six where an adapter binds fewer buffers.
pub(crate) fn gather(tensors: &[CubeTensor]) -> CubeTensor {
    let lengths: Vec<usize> =
        tensors.iter().map(|tensor| tensor.meta.shape().iter().product()).collect();
    let all: usize = lengths.iter().map(|length| padded(*length)).sum();
    let flat = empty(&tensors[0], &[all], DType::F32);
    let buffers = flat.client.properties().hardware.max_bindings as usize;
    // The vector and the numbers are bound too.
    match buffers >= many::COUNT + 2 {
        true => gather_by(&flat, tensors, &lengths, many::launch),
        false => gather_by(&flat, tensors, &lengths, few::launch),
    }
    flat
}

fn gather_by<const N: usize>(
    flat: &CubeTensor,
    tensors: &[CubeTensor],
    lengths: &[usize],
    launch: impl Fn(&CubeTensor, [&CubeTensor; N], [[usize; N]; 2], usize, usize),
) {
    let mut offset = 0;
    for (tensors, own) in tensors.chunks(N).zip(lengths.chunks(N)) {
        let (mut begins, mut lengths, mut end) = ([0; N], [0; N], 0);
        for (i, length) in own.iter().enumerate() {
            (begins[i], lengths[i]) = (end, *length);
            end += padded(*length);
        }
        record("multi_tensor_gather", [end * 4, end * 4], 1);
        // The first stands in for those that are not there.
        let bound = std::array::from_fn(|i| tensors.get(i).unwrap_or(&tensors[0]));
        launch(flat, bound, [begins, lengths], offset, end);
        offset += end;
    }
}

/// Values of which one unit adds up the squares.
const SQUARES_PER_UNIT: usize = 64;

/// The sums of the squares of the values of every cube.
#[cube(launch)]
fn squares_kernel(values: &[f32], sums: &mut [f32], count: usize) {
    let mut shared = Shared::<[f32]>::new_slice(UNITS);
    let unit = UNIT_POS as usize;
    let first = (CUBE_POS_X as usize) * UNITS * SQUARES_PER_UNIT + unit;
    let mut sum = 0.0f32;
    for i in 0..SQUARES_PER_UNIT {
        let at = first + i * UNITS;
        if at < count {
            sum += values[at] * values[at];
        }
    }
    shared[unit] = sum;
    sync_cube();
    let mut step = (UNITS / 2).runtime();
    while step > 0 {
        if unit < step {
            let other = shared[unit + step];
            shared[unit] += other;
        }
        sync_cube();
        step /= 2;
    }
    if unit == 0 {
        sums[CUBE_POS_X as usize] = shared[0];
    }
}

/// The sum of the squares of all values, `[1]`; two launches.
pub(crate) fn squares(flat: CubeTensor) -> CubeTensor {
    let count: usize = flat.meta.shape().iter().product();
    let cubes = count.div_ceil(UNITS * SQUARES_PER_UNIT).max(1);
    let sums = empty(&flat, &[cubes], DType::F32);
    record("gradient_norm", [count * 4, cubes * 4], SQUARES_PER_UNIT + 8);
    squares_kernel::launch(
        &flat.client,
        CubeCount::Static(cubes as u32, 1, 1),
        CubeDim::new_1d(UNITS as u32),
        flat.clone().into_buffer_arg(),
        sums.clone().into_buffer_arg(),
        count,
    );
    sum_parts(sums, cubes, &[1])
}

#[cube(launch)]
fn lerp_kernel(old: &[f32], new: &[f32], out: &mut [f32], count: usize, weight: f32) {
    if ABSOLUTE_POS < count {
        let own = old[ABSOLUTE_POS];
        out[ABSOLUTE_POS] = own + (new[ABSOLUTE_POS] - own) * weight;
    }
}

/// `old + (new - old) * weight`, one launch.
pub(crate) fn lerp(old: CubeTensor, new: CubeTensor, weight: f32) -> CubeTensor {
    let count: usize = old.meta.shape().iter().product();
    let out = empty(&old, &[count], DType::F32);
    record("moving_average", [2 * count * 4, count * 4], 1);
    let units = CubeDim::new_1d(UNITS as u32);
    lerp_kernel::launch(
        &out.client,
        cubecl::calculate_cube_count_elemwise(&out.client, count, units),
        units,
        old.into_buffer_arg(),
        new.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        count,
        weight,
    );
    out
}

/// What owns the memory of a tensor, by its address, and the first byte of the tensor in it.
pub(crate) fn place(tensor: &CubeTensor) -> (usize, u64) {
    let memory = std::ptr::from_ref(tensor.handle.memory.descriptor());
    (memory.addr(), tensor.handle.offset_start.unwrap_or(0))
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
    /// Largest norm of the gradients after this factor, for an update that reads the norm on the
    /// device; 0 for no limit.
    pub max_norm: f32,
}

#[cube(launch)]
fn update_kernel(
    values: &[f32],
    gradients: &[f32],
    first: &[f32],
    second: &[f32],
    scales: &[f32],
    decays: &[f32],
    guard: &[f32],
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
    max_norm: f32,
    guards: usize,
    #[comptime] formula: Formula,
    #[comptime] guarded: bool,
) {
    if ABSOLUTE_POS < count {
        let at = ABSOLUTE_POS;
        let mut gradient_scale = gradient_scale;
        let mut finite = true;
        if comptime!(guarded) {
            let mut i = 0usize;
            while i < guards {
                if guard[i].is_nan() || guard[i].is_inf() {
                    finite = false;
                }
                i += 1;
            }
            if max_norm > 0.0f32 {
                let norm = guard[guards - 1].sqrt() * gradient_scale;
                gradient_scale *= f32::min(1.0f32, max_norm / (norm + 1e-6f32));
            }
        }
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
        if comptime!(guarded) && !finite {
            new_values[at] = value;
            if comptime!(formula.states()[0]) {
                new_first[at] = first[at];
            }
            if comptime!(formula.states()[1]) {
                new_second[at] = second[at];
            }
        }
    }
}

/// One update of all values: new values, first and second state; one launch. A state that the
/// formula does not have is any tensor and comes back as it is. With a `guard`, which ends with the
/// sum of the squared gradients, everything stays as it is where one of its values is not finite.
pub(crate) fn update(
    values: CubeTensor,
    gradients: CubeTensor,
    [first, second]: [CubeTensor; 2],
    [scales, decays]: [CubeTensor; 2],
    guard: Option<CubeTensor>,
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
    let guards = guard.as_ref().map_or(0, |guard| guard.meta.shape().iter().product());
    // Without a guard the decays stand in: a kernel has no optional operand.
    let guard = guard.unwrap_or_else(|| decays.clone());
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
        guard.into_buffer_arg(),
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
        rates.max_norm,
        guards,
        formula,
        guards > 0,
    );
    (new_values, new_first, new_second)
}
