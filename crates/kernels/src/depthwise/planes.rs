//! The depthwise convolution plane by plane, every plane one long row.
//!
//! The padded input plane is split into `stride` by `stride` phases, each of them stored with the same
//! pitch. Then the input of every tap is a contiguous run at a fixed offset, for any stride and dilation:
//!
//! ```text
//! y[j] = sum over taps t of w[t] * phase(t)[offset(t) + j]      j = oy * pitch + ox
//! ```
//!
//! so that one microkernel (`gather`) serves the forward pass and, with the offsets reversed, the gradient of the
//! input, and another (`dot`) that of the weights; neither knows of borders or row ends. The columns between
//! the output's width and the pitch are computed and thrown away: (k - 1) / stride of them a row.

#![expect(
    clippy::inline_always,
    reason = "a body must become part of each instruction set's function"
)]

use rayon::prelude::*;

use super::Geometry;
use crate::isa::Isa;

/// Outputs that one step of [`gather`] keeps in registers, on a plane that is long enough.
const BLOCK: usize = 64;
/// The same on a small plane, where more would be thrown away than used.
const SMALL_BLOCK: usize = 16;

/// A tap: its phase and the offset of its run in it.
struct Tap {
    phase: usize,
    offset: usize,
}

/// The layout of a plane's phases.
struct Layout {
    /// Values from a row to the next.
    pitch: usize,
    /// Values of a phase, padded for reads past the end of the last block.
    length: usize,
    /// Values of the output in this pitch: rows times pitch.
    run: usize,
    taps: Vec<Tap>,
}

impl Layout {
    fn new(g: &Geometry) -> Self {
        let s = g.stride;
        let reach = |axis: usize| (g.kernel[axis] - 1) * g.dilation / s;
        let pitch = g.output[1] + reach(1);
        let rows = g.output[0] + reach(0);
        let run = g.output[0] * pitch;
        let mut taps = Vec::with_capacity(g.taps());
        for ky in 0..g.kernel[0] {
            for kx in 0..g.kernel[1] {
                let (y, x) = (ky * g.dilation, kx * g.dilation);
                taps.push(Tap { phase: y % s * s + x % s, offset: y / s * pitch + x / s });
            }
        }
        // The last block reads up to BLOCK values past the run, behind the last row.
        let length = (rows * pitch).max(run + reach(0) * pitch + reach(1)) + BLOCK;
        Self { pitch, length, run: run.next_multiple_of(block_of(run)), taps }
    }
}

/// The block for runs of so many outputs.
fn block_of(run: usize) -> usize {
    if run < 3 * BLOCK { SMALL_BLOCK } else { BLOCK }
}

/// Copies a plane into its phases; what lies in the padding stays as it is, zero.
fn split(plane: &[f32], g: &Geometry, layout: &Layout, phases: &mut [f32]) {
    let s = g.stride;
    let rows = layout.length / layout.pitch;
    for (y, line) in plane.chunks_exact(g.input[1]).enumerate() {
        let place = y + g.before[0];
        if place / s >= rows {
            break;
        }
        for px in 0..s {
            // Columns of this phase: before[1] + x = px (mod s).
            let first = (px + s - g.before[1] % s) % s;
            let start = (g.before[1] + first) / s;
            let at = (place % s * s + px) * layout.length + place / s * layout.pitch;
            let row = &mut phases[at..at + layout.pitch];
            if start >= row.len() || first >= line.len() {
                continue;
            }
            if s == 1 {
                let count = line.len().min(row.len() - start);
                row[start..start + count].copy_from_slice(&line[..count]);
            } else {
                let values = line[first..].iter().step_by(s);
                row[start..].iter_mut().zip(values).for_each(|(to, from)| *to = *from);
            }
        }
    }
}

/// The reverse of [`split`]: the part of the phases that lies on the plane.
fn join(phases: &[f32], g: &Geometry, layout: &Layout, plane: &mut [f32]) {
    let s = g.stride;
    let rows = layout.length / layout.pitch;
    for (y, line) in plane.chunks_exact_mut(g.input[1]).enumerate() {
        let place = y + g.before[0];
        for px in 0..s {
            let first = (px + s - g.before[1] % s) % s;
            let start = (g.before[1] + first) / s;
            if first >= line.len() {
                continue;
            }
            let targets = line[first..].iter_mut().step_by(s);
            if place / s >= rows || start >= layout.pitch {
                targets.for_each(|to| *to = 0.0);
                continue;
            }
            let at = (place % s * s + px) * layout.length + place / s * layout.pitch;
            let row = &phases[at + start..at + layout.pitch];
            // Columns that no output reads have a gradient of zero.
            let values = row.iter().copied().chain(std::iter::repeat(0.0));
            targets.zip(values).for_each(|(to, from)| *to = from);
        }
    }
}

/// Copies rows of `width` values to or from a run of the layout's pitch.
fn spread(rows: &[f32], width: usize, pitch: usize, run: &mut [f32]) {
    for (row, to) in rows.chunks_exact(width).zip(run.chunks_mut(pitch)) {
        to[..width].copy_from_slice(row);
    }
}

#[inline(always)]
fn fused<const FMA: bool>(a: f32, b: f32, sum: f32) -> f32 {
    match FMA {
        true => a.mul_add(b, sum),
        false => a * b + sum,
    }
}

/// `out[j] = sum over t of weights[t] * source[starts[t] + j]`.
#[inline(always)]
fn gather_body<const FMA: bool>(
    out: &mut [f32],
    source: &[f32],
    starts: &[usize],
    weights: &[f32],
) {
    match out.len().is_multiple_of(BLOCK) {
        true => gather_blocks::<FMA, BLOCK>(out, source, starts, weights),
        false => gather_blocks::<FMA, SMALL_BLOCK>(out, source, starts, weights),
    }
}

#[inline(always)]
fn gather_blocks<const FMA: bool, const SIZE: usize>(
    out: &mut [f32],
    source: &[f32],
    starts: &[usize],
    weights: &[f32],
) {
    for (block, out) in out.chunks_exact_mut(SIZE).enumerate() {
        let at = block * SIZE;
        let mut sums = [0.0_f32; SIZE];
        for (&start, &weight) in starts.iter().zip(weights) {
            let run: &[f32; SIZE] =
                source[start + at..start + at + SIZE].try_into().expect("SIZE values");
            for lane in 0..SIZE {
                sums[lane] = fused::<FMA>(weight, run[lane], sums[lane]);
            }
        }
        out.copy_from_slice(&sums);
    }
}

/// Lanes of a partial sum in [`dot_body`].
const LANES: usize = 16;

/// `sums[t] += sum over j of a[j] * source[starts[t] + j]`; `a` a multiple of a block long.
#[inline(always)]
fn dot_body<const FMA: bool>(sums: &mut [f32], a: &[f32], source: &[f32], starts: &[usize]) {
    match a.len().is_multiple_of(BLOCK) {
        true => dot_blocks::<FMA, { BLOCK / LANES }>(sums, a, source, starts),
        false => dot_blocks::<FMA, { SMALL_BLOCK / LANES }>(sums, a, source, starts),
    }
}

#[inline(always)]
fn dot_blocks<const FMA: bool, const PARTS: usize>(
    sums: &mut [f32],
    a: &[f32],
    source: &[f32],
    starts: &[usize],
) {
    for (sum, &start) in sums.iter_mut().zip(starts) {
        let mut parts = [[0.0_f32; LANES]; PARTS];
        let run = &source[start..start + a.len()];
        let blocks = a.chunks_exact(PARTS * LANES).zip(run.chunks_exact(PARTS * LANES));
        for (a, run) in blocks {
            let lines = a.chunks_exact(LANES).zip(run.chunks_exact(LANES));
            for (part, (a, run)) in parts.iter_mut().zip(lines) {
                for (lane, sum) in part.iter_mut().enumerate() {
                    *sum = fused::<FMA>(a[lane], run[lane], *sum);
                }
            }
        }
        let mut lanes = [0.0_f32; LANES];
        for part in parts {
            (0..LANES).for_each(|lane| lanes[lane] += part[lane]);
        }
        *sum += lanes.iter().sum::<f32>();
    }
}

macro_rules! for_every_isa {
    ($name:ident, $body:ident, ($($argument:ident: $kind:ty),*)) => {
        fn $name(isa: Isa, $($argument: $kind),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($argument: $kind),*) {
                    $body::<true>($($argument),*);
                }
                #[target_feature(enable = "avx512f,avx2,fma")]
                fn avx512($($argument: $kind),*) {
                    $body::<true>($($argument),*);
                }
                match isa {
                    // SAFETY: an `Isa` is only made from the instructions that this machine reports.
                    Isa::Avx512 => return unsafe { avx512($($argument),*) },
                    // SAFETY: as above.
                    Isa::Avx2 => return unsafe { avx2($($argument),*) },
                    Isa::Portable => {}
                }
            }
            let _ = isa;
            $body::<false>($($argument),*);
        }
    };
}

for_every_isa!(gather, gather_body, (out: &mut [f32], source: &[f32], starts: &[usize], weights: &[f32]));
for_every_isa!(dot, dot_body, (sums: &mut [f32], a: &[f32], source: &[f32], starts: &[usize]));

/// `[b, c, h, w]` and `[c, 1, kh, kw]` to `[b, c, h', w']`. Planes in parallel; the bits do not depend on the
/// number of threads.
pub fn forward(isa: Isa, x: &[f32], w: &[f32], g: &Geometry) -> Vec<f32> {
    let layout = Layout::new(g);
    let starts: Vec<usize> =
        layout.taps.iter().map(|t| t.phase * layout.length + t.offset).collect();
    let mut y = vec![0.0; g.outputs()];
    let (area, out_area) = (g.input[0] * g.input[1], g.output[0] * g.output[1]);
    let scratch = || (vec![0.0; g.stride * g.stride * layout.length], vec![0.0; layout.run]);
    y.par_chunks_exact_mut(out_area).enumerate().for_each_init(
        scratch,
        |(phases, run), (plane, y)| {
            let channel = plane % g.channels;
            split(&x[plane * area..(plane + 1) * area], g, &layout, phases);
            gather(isa, run, phases, &starts, &w[channel * g.taps()..(channel + 1) * g.taps()]);
            for (row, y) in run.chunks(layout.pitch).zip(y.chunks_exact_mut(g.output[1])) {
                y.copy_from_slice(&row[..g.output[1]]);
            }
        },
    );
    y
}

/// The gradient of the input. A tap sends `dy[j]` to `phase(t)[offset(t) + j]`, so the phase gathers from
/// `dy[i - offset(t)]`: `dy` lies behind as many zeros as the largest offset.
pub fn input_gradient(isa: Isa, w: &[f32], dy: &[f32], g: &Geometry) -> Vec<f32> {
    let layout = Layout::new(g);
    let (area, out_area) = (g.input[0] * g.input[1], g.output[0] * g.output[1]);
    let phase_count = g.stride * g.stride;
    let lead = layout.taps.iter().map(|t| t.offset).max().unwrap_or(0);
    let length = layout.length.next_multiple_of(block_of(layout.length));
    // The taps of each phase: where they read, and their number.
    let phases: Vec<(Vec<usize>, Vec<usize>)> = (0..phase_count)
        .map(|phase| {
            let own = layout.taps.iter().enumerate().filter(|(_, t)| t.phase == phase);
            own.map(|(number, t)| (lead - t.offset, number)).unzip()
        })
        .collect();
    let wide = Layout { length, ..layout };
    let mut dx = vec![0.0; g.batch * g.channels * area];
    let scratch =
        || (vec![0.0; lead + length + BLOCK], vec![0.0; phase_count * length], Vec::new());
    dx.par_chunks_exact_mut(area).enumerate().for_each_init(
        scratch,
        |(source, out, weights): &mut (Vec<f32>, Vec<f32>, Vec<f32>), (plane, dx)| {
            let own = &w[plane % g.channels * g.taps()..][..g.taps()];
            spread(
                &dy[plane * out_area..][..out_area],
                g.output[1],
                wide.pitch,
                &mut source[lead..],
            );
            for (out, (starts, numbers)) in out.chunks_exact_mut(length).zip(&phases) {
                weights.clear();
                weights.extend(numbers.iter().map(|n| own[*n]));
                gather(isa, out, source, starts, weights);
            }
            join(out, g, &wide, dx);
        },
    );
    dx
}

/// The gradient of the weights. Channels in parallel, the pictures of a channel one after another, so that the bits
/// do not depend on the number of threads.
pub fn weight_gradient(isa: Isa, x: &[f32], dy: &[f32], g: &Geometry) -> Vec<f32> {
    let layout = Layout::new(g);
    let starts: Vec<usize> =
        layout.taps.iter().map(|t| t.phase * layout.length + t.offset).collect();
    let (area, out_area) = (g.input[0] * g.input[1], g.output[0] * g.output[1]);
    let mut dw = vec![0.0; g.channels * g.taps()];
    let scratch = || (vec![0.0; g.stride * g.stride * layout.length], vec![0.0; layout.run]);
    dw.par_chunks_exact_mut(g.taps()).enumerate().for_each_init(
        scratch,
        |(phases, run), (channel, dw)| {
            for picture in 0..g.batch {
                let plane = picture * g.channels + channel;
                split(&x[plane * area..][..area], g, &layout, phases);
                spread(&dy[plane * out_area..][..out_area], g.output[1], layout.pitch, run);
                dot(isa, dw, run, phases, &starts);
            }
        },
    );
    dw
}
